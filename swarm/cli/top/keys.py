"""Single keys from a terminal, without echo; the terminal is always restored afterwards."""

from __future__ import annotations

import os
import select
import termios
from collections.abc import Iterator
from contextlib import contextmanager

ESCAPE_S = 0.05
"""An escape followed by nothing for so long is the key itself, not the start of an arrow key; ssh sends those at once."""
_NAMED = {
    b"[A": "up",
    b"[B": "down",
    b"[C": "right",
    b"[D": "left",
    b"[H": "home",
    b"[F": "end",
    b"[1~": "home",
    b"[4~": "end",
    b"[5~": "pgup",
    b"[6~": "pgdn",
    b"OA": "up",
    b"OB": "down",
    b"OC": "right",
    b"OD": "left",
    b"OH": "home",
    b"OF": "end",
    b"[Z": "backtab",
}
_CONTROL = {b"\r": "enter", b"\n": "enter", b"\t": "tab", b"\x7f": "backspace", b"\x08": "backspace", b"\x03": "ctrl-c"}


@contextmanager
def raw_keys(fd: int) -> Iterator[None]:
    """Keys arrive at once and are not echoed within the block; output stays as it is, and Ctrl-C is a key."""
    before = termios.tcgetattr(fd)
    wanted = termios.tcgetattr(fd)
    wanted[0] &= ~(termios.IXON | termios.ICRNL)
    wanted[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    wanted[6][termios.VMIN], wanted[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSADRAIN, wanted)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)


def read_keys(fd: int) -> list[str] | None:
    """The keys that wait on ``fd`` (call it when there are some); None: the terminal was closed."""
    data = _read(fd)
    if not data:
        return None
    if data.endswith(b"\x1b") and select.select([fd], [], [], ESCAPE_S)[0]:
        data += _read(fd)
    return split_keys(data)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1024)
    except OSError:
        return b""


def split_keys(data: bytes) -> list[str]:
    """Bytes from a terminal as names of keys; sequences that mean nothing here are left out."""
    keys: list[str] = []
    while data:
        if data.startswith((b"\x1b[", b"\x1bO")):
            end = next((i for i in range(2, len(data)) if 0x40 <= data[i] <= 0x7E), len(data) - 1)
            name = _NAMED.get(data[1 : end + 1])
            keys += [name] if name else []
            data = data[end + 1 :]
        elif data.startswith(b"\x1b"):
            keys.append("esc")
            data = data[1:]
        else:
            first, data = data[:1], data[1:]
            if first in _CONTROL:
                keys.append(_CONTROL[first])
            elif first.isascii() and first.decode().isprintable():
                keys.append(first.decode())
    return keys
