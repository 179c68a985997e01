"""Small JSON notes that outlive the process that wrote them: replaced whole, read leniently."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

_LIMIT_BYTES = 1 << 20
T = TypeVar("T")


def write_note(path: Path, note: msgspec.Struct | tuple[msgspec.Struct, ...]) -> None:
    """Replace the file by a rename, so that a reader sees the old or the new one, whole. Mode 0600. Not flushed.

    After a power cut the processes a note speaks of are gone too. One writer per path. Raises ``OSError``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(note))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_note(path: Path, kind: type[T]) -> T | None:
    """The note, or None if there is none or it is unreadable: it is a hint, checked against the kernel by its reader."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return msgspec.json.decode(file.read(_LIMIT_BYTES), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def remove_note(path: Path) -> None:
    """Remove it; harmless if it is gone."""
    path.unlink(missing_ok=True)
