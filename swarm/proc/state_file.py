"""Small JSON files that outlive the process that wrote them: replaced whole, read leniently."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from swarm.filesystem import temporary
from swarm.filesystem.entries import is_file, odd_words, read_file

_LIMIT_BYTES = 1 << 20
T = TypeVar("T")


def write_note(path: Path, note: msgspec.Struct | tuple[msgspec.Struct, ...]) -> None:
    """Replace the file by a rename, so that a reader sees the old or the new one, whole. Mode 0600. Not flushed.

    After a power cut the processes that it describes have ended too. One writer per path. Raises ``OSError``.
    """
    with temporary.replacement(str(path), durable=False) as fd:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(msgspec.json.encode(note))
        if words := odd_words(str(path)):
            raise OSError(errno.EEXIST, words, str(path))  # the rename would remove it


def read_note(path: Path, kind: type[T]) -> T | None:
    """The note, or None if there is none or it is unreadable: it is a hint, checked against the kernel by its reader."""
    try:
        return msgspec.json.decode(read_file(str(path), _LIMIT_BYTES), type=kind)
    except (OSError, ValueError, msgspec.MsgspecError):  # an odd entry is a ValueError
        return None


def remove_note(path: Path) -> None:
    """Remove it; harmless if it is missing. Only a regular file is removed."""
    if is_file(str(path)):
        path.unlink(missing_ok=True)
