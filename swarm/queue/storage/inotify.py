"""Inotify: events of names that appear in and leave directories.

Two calls into libc, and the format of its events.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

GONE, THERE = 0x040 | 0x200, 0x080 | 0x100
"""Events to watch: moved out or deleted, moved in or created."""
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_HEAD = struct.Struct("iIII")
libc = ctypes.CDLL(None, use_errno=True)


class Told(NamedTuple):
    """One event."""

    watch: int
    name: str | None
    """None: events were lost (``watch`` is -1), or the directory itself was removed."""
    there: bool


def opened() -> int | None:
    """A descriptor to watch with; None where there is no inotify."""
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    return None if fd < 0 else fd


def add(fd: int, folder: str, mask: int) -> int | None:
    """Watch one more directory; its number in the events, None if it cannot be watched."""
    watch: int = libc.inotify_add_watch(fd, os.fsencode(folder), mask)
    return None if watch < 0 else watch


def told(fd: int) -> Iterator[Told]:
    """Events since the last call, in order. Never blocks."""
    while True:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, size = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + _HEAD.size + size].rstrip(b"\0")
            at += _HEAD.size + size
            if mask & (_OVERFLOW | _IGNORED) or not name:
                yield Told(watch, None, there=False)
            else:
                yield Told(watch, os.fsdecode(name), there=bool(mask & THERE))
