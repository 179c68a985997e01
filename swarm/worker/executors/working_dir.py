"""Where a program runs: a fresh directory that ends with the task, or one below the directory that its entry names."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from swarm.core.faults import TaskFault

log = logging.getLogger(__name__)
_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def fresh_dir(task_id: str, parent: str | None) -> Iterator[str]:
    """A new directory, removed afterwards with all that is in it. ``parent`` is made if it is missing; None: the system's.

    Raises ``TaskFault`` kind ``no_temp_dir`` (infra).
    """
    try:
        if parent is not None:
            os.makedirs(parent, mode=0o700, exist_ok=True)
        path = tempfile.mkdtemp(prefix=f"swarm-{task_id}-", dir=parent)
    except OSError as error:
        raise TaskFault("infra", "no_temp_dir", f"no working directory can be made: {error}") from error
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: str) -> None:
    """Remove a directory and what is in it, no link followed; what cannot be removed is logged."""
    shutil.rmtree(path, onerror=_left_behind)


def _left_behind(_function: object, path: str, info: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        log.warning("a task's working directory could not be removed: %s (%s)", path, info[1])


@contextmanager
def dir_below(base: str, way: tuple[str, ...]) -> Iterator[str]:
    """A path that a child can change into, and that means the directory reached from ``base`` without following any link.

    The directories are opened one from another, and the child enters what was opened: nobody can put a link in between.
    Raises ``TaskFault`` kinds ``not_allowed`` (a link, or no directory), ``no_cwd``.
    """
    fd = _opened(base, None, base)
    try:
        for place, name in enumerate(way):
            deeper = _opened(name, fd, "/".join((base.rstrip("/"), *way[: place + 1])))
            os.close(fd)
            fd = deeper
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _opened(name: str, above: int | None, shown: str) -> int:
    flags = _OPEN if above is None else _OPEN | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=above)
    except OSError as error:
        if above is not None and error.errno in (errno.ENOTDIR, errno.ELOOP):
            message = f"cwd {shown!r} is refused: it is a link, or no directory"
            raise TaskFault("deterministic", "not_allowed", message) from error
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO):
            raise TaskFault("infra", "no_descriptor", f"cwd {shown!r} cannot be opened: {error.strerror}") from error
        message = f"cwd {shown!r} is no directory that can be entered: {error.strerror}"
        raise TaskFault("deterministic", "no_cwd", message) from error
