"""An output file that appears whole or not at all.

It is written beside its place, flushed to the disk, and renamed.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from swarm.errors import InputError
from swarm.filesystem import temporary
from swarm.filesystem.durable import CannotFlush, sync_fd, sync_folder
from swarm.plain_text import json_shown

if TYPE_CHECKING:
    from typing_extensions import Buffer

STDOUT = "-"
_ALSO_STDOUT = frozenset({STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_MODE = 0o666
_NAME_BYTES = 200
"""Kept of a name for the file beside it: 255 bytes are the most, and its own marks are added."""


def check_writable(path: str, *, input_path: str | None = None) -> None:
    """Raise ``InputError`` now if ``path`` could not be written later, or if writing it would replace the input.

    Tries it for real: makes and removes a file beside it.
    """
    if path in _ALSO_STDOUT:
        return
    target = _target(path)
    if not path or os.path.isdir(target):
        raise InputError(f"{path or 'output'}: is a directory", hint="name a file, such as out.jsonl")
    if (
        input_path is not None
        and os.path.exists(target)
        and os.path.exists(input_path)
        and os.path.samefile(target, input_path)
    ):
        raise InputError(f"{path}: is the input itself", hint="give the output another name; the input is never overwritten")
    folder = os.path.dirname(target)
    if os.path.isdir(folder):
        _check_name(path, target)
    else:
        raise InputError(f"{path}: there is no directory {folder}", hint=f"make it: mkdir -p {folder}")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise InputError(f"{path}: may not be written", hint="choose another file, or change its mode: chmod u+w")
    if os.path.exists(target) and not _is_regular(target):
        return
    try:
        handle, beside = temporary.take(folder, _stem(target), _MODE)
        temporary.discard(beside, handle)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}", hint="choose another place for the output"
        ) from error


def _check_name(path: str, target: str) -> None:
    try:
        os.stat(target)
    except FileNotFoundError:
        return
    except OSError as error:  # the name is too long, the way to it is closed
        raise InputError(
            f"{path}: cannot be written: {error.strerror}", hint="choose another name for the output"
        ) from error


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of ``path`` when the block ends well; otherwise nothing changes.

    ``-`` and what is no regular file (``/dev/null``, a pipe) are written directly. Raises ``OSError``.
    """
    if path in _ALSO_STDOUT:
        yield _Terminal(sys.stdout.buffer) if sys.stdout.isatty() else sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = _target(path)
    if os.path.exists(target) and not _is_regular(target):
        try:
            with open(target, "wb") as stream:
                yield stream
        except OSError as problem:
            problem.filename = problem.filename or path
            raise
        return
    with temporary.replacement(target, durable=False, stem=_stem(target), mode=_MODE) as handle:
        with os.fdopen(handle, "wb", closefd=False) as stream:
            yield stream
        with contextlib.suppress(CannotFlush):  # its content can be written again from the queue at any time
            sync_fd(handle)
        if os.path.exists(target):
            os.fchmod(handle, stat.S_IMODE(os.stat(target).st_mode))
    with contextlib.suppress(CannotFlush):
        sync_folder(os.path.dirname(target))


class _Terminal(io.BytesIO):
    """Standard output on a terminal: JSON lines mean the same there, and hold nothing that a terminal obeys."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, data: Buffer, /) -> int:
        """Whole lines of JSON."""
        text = bytes(data).decode()
        self._stream.write(json_shown(text).encode())
        return len(text)


def _stem(target: str) -> str:
    """Names the temporary file beside it, so that what a killed command left of the same output is taken over."""
    return os.fsdecode(os.fsencode(os.path.basename(target))[:_NAME_BYTES])


def _target(path: str) -> str:
    """Where it is written: what a link leads to; another's pipe, as ``/dev/fd/63`` names it, by its own name alone."""
    return path if os.path.exists(path) and not _is_regular(path) else os.path.realpath(path)


def _is_regular(target: str) -> bool:
    return stat.S_ISREG(os.stat(target).st_mode)
