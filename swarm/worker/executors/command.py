"""Runs ``script`` and ``cpu`` tasks: an allow-listed program in its own process group.

Its directory is a fresh one that is removed with the task, or one below the directory that its entry names.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from swarm.config.settings import CommandSettings
from swarm.core.faults import CancelToken, TaskFault
from swarm.core.task import Claim, Trail
from swarm.proc.child import signal_name
from swarm.proc.env_markers import fixed_env, kill_marked
from swarm.worker.executors.allowlist import Scripts, permit
from swarm.worker.executors.program import Capture, Program, follow

log = logging.getLogger(__name__)
_LAST_CHUNKS = 64
"""Read once everybody is gone: more than a pipe holds, and bounded should somebody hold it open all the same."""
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


class CommandExecutor:
    """Fits the ``Executor`` port. Nothing that a task started outlives it, not even what left its process group."""

    def __init__(self, settings: CommandSettings, *, scripts: Scripts, root: str, work_dir: str | None = None) -> None:
        """``root`` (the queue's) goes into the markers by which left-over processes are found.

        Each task's own directory is made in ``work_dir``, and what an earlier life left there is removed now. Nobody else
        may write there or above: programs look for their settings upwards (``.git``, ``node_modules``). None: the system's
        place for temporary files.
        """
        if work_dir is not None:
            remove_tree(work_dir)
        self._work_dir = work_dir
        self._settings = settings
        self._scripts = scripts
        self._root = root

    def run(self, claim: Claim, *, cancel: CancelToken, progress: Callable[[int], None]) -> Trail:
        """Run to the end; a trail with exit code 0, the output and its sizes.

        Raises ``TaskFault`` kinds ``not_allowed``, ``bad_env``, ``no_cwd``, ``cannot_start`` (deterministic),
        ``exit_code`` (transient: many programs fail by chance), ``unkillable`` (infra).
        """
        task = claim.task
        allowed = permit(task.command, task.env, task.cwd, self._scripts)
        markers = {"SWARM_ROOT": self._root, "SWARM_WORKER": claim.worker, "SWARM_TASK": task.task_id}
        began_s = time.monotonic()
        with ExitStack() as dirs:
            own = dirs.enter_context(fresh_dir(task.task_id, self._work_dir))
            cwd = own if allowed.below is None else dirs.enter_context(dir_below(*allowed.below))
            program = Program(allowed.argv, cwd=cwd, env={**fixed_env(own), **allowed.env, **markers})
            try:
                return self._attend(program, markers, began_s, cancel, progress)
            finally:
                program.close()

    def _attend(
        self, program: Program, markers: dict[str, str], began_s: float, cancel: CancelToken, progress: Callable[[int], None]
    ) -> Trail:
        cap_bytes = self._settings.output_cap_kib * 1024
        out, err = Capture(program.out_fd, cap_bytes), Capture(program.err_fd, cap_bytes)
        cancel.on_cancel(program.wake)
        gone = follow(program, (out, err), grace_s=self._settings.stop_grace_s, cancel=cancel, progress=progress)
        left = kill_marked(0.0, SWARM_ROOT=markers["SWARM_ROOT"], SWARM_TASK=markers["SWARM_TASK"])
        if not gone or left:
            pids = [identity.pid for identity in left] or [program.pid]
            raise TaskFault("infra", "unkillable", f"processes {pids} of the task cannot be killed; see `ps -o stat,wchan`")
        for capture in (out, err):
            progress(capture.read(_LAST_CHUNKS))
        code = program.reap()
        if program.stopped:
            raise TaskFault("cancelled", str(cancel.reason), f"the program was stopped: {cancel.reason}")
        result = _result(code, out, err, time.monotonic() - began_s)
        if code != 0:
            raise TaskFault("transient", "exit_code", _ending(code, err), result)
        return Trail(result=result)


def _ending(code: int, err: Capture) -> str:
    how = f"exit code {code}" if code > 0 else f"killed by {signal_name(-code)}"
    return f"{how}: {err.last_line}" if err.last_line else f"{how}, nothing on stderr"


def _result(code: int, out: Capture, err: Capture, duration_s: float) -> dict[str, Any]:
    return {
        "exit_code": code,
        "stdout": out.text,
        "stderr": err.text,
        "stdout_bytes": out.total,
        "stderr_bytes": err.total,
        "truncated": out.truncated or err.truncated,
        "duration_s": round(duration_s, 3),
    }
