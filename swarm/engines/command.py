"""Runs ``script`` and ``cpu`` tasks: an allow-listed program, no shell, in a process group that ends with the task."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from swarm.core.claim import Claim
from swarm.core.faults import TaskFault
from swarm.core.task import Task, Trail
from swarm.engines.allowlist import allowed_argv, allowed_env
from swarm.engines.capture import Capture
from swarm.engines.program import CancelLike, Program, follow
from swarm.proc.markers import kill_marked
from swarm.settings import CommandSettings

log = logging.getLogger(__name__)

_LAST_CHUNKS = 64
"""Read once everybody is gone: more than a pipe holds, and bounded should somebody hold it open all the same."""


class CommandExecutor:
    """Fits the ``Executor`` port. Nothing that a task started outlives it, not even what left its process group."""

    def __init__(self, settings: CommandSettings, *, scripts: Mapping[str, Sequence[str]], root: str) -> None:
        """``root`` (the queue's) goes into the markers by which left-over processes are found."""
        self._settings = settings
        self._scripts = scripts
        self._root = root

    def run(self, claim: Claim, *, cancel: CancelLike, progress: Callable[[int], None]) -> Trail:
        """Run to the end; a trail with exit code 0, the output and its sizes.

        Raises ``TaskFault`` kinds ``not_allowed``, ``bad_env``, ``no_cwd``, ``cannot_start`` (deterministic),
        ``exit_code`` (transient: many programs fail by chance), ``unkillable`` (infra).
        """
        task = claim.task
        argv = allowed_argv(task.command, self._scripts)
        markers = {"SWARM_ROOT": self._root, "SWARM_WORKER": claim.worker, "SWARM_TASK": task.task_id}
        began_s = time.monotonic()
        with _working_dir(task) as cwd:
            program = Program(argv, cwd=cwd, env={**_base_env(), **allowed_env(task.env), **markers})
            try:
                return self._attend(program, markers, began_s, cancel, progress)
            finally:
                program.close()

    def _attend(
        self, program: Program, markers: dict[str, str], began_s: float, cancel: CancelLike, progress: Callable[[int], None]
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


@contextmanager
def _working_dir(task: Task) -> Iterator[str]:
    """The task's own directory, or a fresh one that is removed afterwards."""
    if task.cwd is not None:
        if not os.path.isabs(task.cwd) or not os.path.isdir(task.cwd):
            raise TaskFault("deterministic", "no_cwd", f"cwd {task.cwd!r} is no existing directory given by its full path")
        yield task.cwd
        return
    try:
        path = tempfile.mkdtemp(prefix=f"swarm-{task.task_id}-")
    except OSError as error:
        raise TaskFault("infra", "no_temp_dir", f"no working directory can be made: {error}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, onerror=_left_behind)


def _left_behind(_function: object, path: str, info: tuple[type[BaseException], BaseException, object]) -> None:
    log.warning("a task's working directory could not be removed: %s (%s)", path, info[1])


def _base_env() -> dict[str, str]:
    """What every program gets; nothing else of the worker's own environment."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": os.environ.get("HOME", "/"),
    }


def _ending(code: int, err: Capture) -> str:
    how = f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}"
    return f"{how}: {err.last_line}" if err.last_line else f"{how}, nothing on stderr"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


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
