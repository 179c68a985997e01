"""A file that appears whole or not at all: written beside its place, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

from swarm.disk import CannotFlush, sync_fd, sync_folder
from swarm.errors import InputError

STDOUT = "-"


def check_writable(path: str, *, input_path: str | None = None) -> None:
    """Raise ``InputError`` now if ``path`` could not be written later, or if writing it would replace the input.

    Tries it for real: makes and removes a file beside it.
    """
    if path == STDOUT:
        return
    target = os.path.realpath(path)
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
    if not os.path.isdir(folder):
        raise InputError(f"{path}: there is no directory {folder}", hint=f"make it: mkdir -p {folder}")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise InputError(f"{path}: may not be written", hint="choose another file, or change its mode: chmod u+w")
    if os.path.exists(target) and not _is_regular(target):
        return
    try:
        handle, beside = _create_beside(target)
        os.close(handle)
        os.unlink(beside)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}", hint="choose another place for the output"
        ) from error


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of ``path`` when the block ends well; otherwise nothing changes.

    ``-`` and what is no regular file (``/dev/null``, a pipe) are written directly. Raises ``OSError``.
    """
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = os.path.realpath(path)
    if os.path.exists(target) and not _is_regular(target):
        with open(target, "wb") as stream:
            yield stream
        return
    handle, beside = _create_beside(target)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            with contextlib.suppress(CannotFlush):  # its content can be written again from the queue at any time
                sync_fd(handle)
        if os.path.exists(target):
            os.chmod(beside, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    with contextlib.suppress(CannotFlush):
        sync_folder(os.path.dirname(target))


def _create_beside(target: str) -> tuple[int, str]:
    """A new file in the same directory, with the mode a new file gets here; hidden, so that no glob takes it for output."""
    folder, name = os.path.split(target)
    for number in range(1000):
        beside = os.path.join(folder, f".{name[:200]}.{os.getpid()}-{number}.tmp")
        try:
            return os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), beside
        except FileExistsError:
            continue
    raise FileExistsError(17, "too many unfinished outputs beside it", target)


def _is_regular(target: str) -> bool:
    return stat.S_ISREG(os.stat(target).st_mode)
