"""Runs brain and workers as processes on this machine: found or started, watched, ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from swarm.clock import SystemClock
from swarm.core.worker import ProcessIdentity, WorkerRow
from swarm.errors import EngineError, OddEntry
from swarm.filesystem.entries import open_file
from swarm.proc.child import Child, Exit
from swarm.proc.env_markers import PROCESS_MARKER, ROOT_MARKER, find_marked, kill_marked
from swarm.proc.identity import is_same
from swarm.proc.log_trim import rotate_if_large
from swarm.proc.ports import describe
from swarm.proc.process_group import KILL_WAIT_S

STOP_GRACE_S = 10.0
"""Between "stop at once" and SIGKILL: time to give claimed tasks back."""
LOCK_WAIT_S = 1.0
"""A look or a recovery holds a dead worker's lock for moments; only who keeps it longer is a stranger."""
_LOCK_POLL_S = 0.02


class LocalProcess:
    """One process of ours with a life lock: ``brain`` or a worker. Not thread-safe."""

    def __init__(
        self, name: str, role: str, argv: Sequence[str], *, engine: LocalEngine, fits: Callable[[WorkerRow], bool]
    ) -> None:
        self.name = name
        self.role = role
        self._argv = tuple(argv)
        self._engine = engine
        self._fits = fits
        self._markers = {PROCESS_MARKER: name, ROOT_MARKER: str(engine.root)}
        self._child: Child | None = None
        self._asked = False

    @property
    def identity(self) -> ProcessIdentity | None:
        """The living process, None while there is none."""
        return self._child.identity if self._child is not None else None

    @property
    def pidfd(self) -> int | None:
        """Readable once the process has ended."""
        return self._child.pidfd if self._child is not None and self._child.pidfd >= 0 else None

    def adopt(self) -> str | None:
        """Take over whoever lives under this name and fits the plan; returns a line for the log, None: nobody does."""
        row = self._engine.read_row(self.name) if self._engine.lock_held(self.name) else None
        return self._adopted(row) if row is not None and self._fits(row) and self._take_over(row) else None

    def start(self) -> str:
        """Adopt whoever holds the life lock, else start a new process. Returns a line for the log.

        A holder that no longer fits the plan (another card or server) is stopped first. Raises ``EngineError``: the lock
        is held by somebody unknown, a process that cannot be ended, or a program that cannot be started.
        """
        if self._held_for_long():
            row = self._engine.read_row(self.name)
            child = self._take_over(row) if row is not None else None
            if row is None or child is None:
                self._refuse_unknown_holder()
            if self._fits(row):
                return self._adopted(row)
            self._replace(child)
        self._end_remains()
        child = self._child = self._spawn()
        self._asked = False
        return f"{self.name} started as pid {child.identity.pid}"

    def ready(self) -> bool:
        """Whether it holds its life lock: from then on it works."""
        return self._child is not None and self._engine.lock_held(self.name)

    def overdue(self) -> str | None:
        """It has no deadline for its start: a process that fails to start ends by itself."""
        return None

    def worked(self) -> bool:
        """Whether it took a turn of its loop in this life, by its heartbeat."""
        return self._child is not None and self._engine.has_worked(self.name, self._child.identity)

    def poll(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._child.poll() if self._child is not None else None

    def drain(self) -> None:
        """Ask it to finish what it runs and end: one SIGTERM, once. A stopped one goes on, or it would never hear it."""
        if self._child is not None and not self._asked:
            self._asked = True
            self._child.signal(signal.SIGTERM)
            self._child.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end at once, giving its tasks back; SIGKILL to its group after ``STOP_GRACE_S``."""
        if self._child is None:
            return
        # Two different signals: two equal ones that are pending together count as one.
        self._child.signal(signal.SIGTERM)
        self._child.begin_stop(grace_s=STOP_GRACE_S, sig=signal.SIGINT)

    def stop_step(self) -> bool | None:
        """True: proven gone with all it started. False: something cannot be killed. None: call again."""
        gone = self._child.stop_step() if self._child is not None else not kill_marked(0.0, **self._markers)
        if gone:
            self._child = None
        return gone

    def clean_up(self) -> str | None:
        """After its end: kill what it left running. Returns a complaint if something cannot be killed."""
        left = self._child.clean_up() if self._child is not None else []
        self._child = None
        return f"cannot kill {', '.join(describe(i.pid) for i in left)}" if left else None

    def leftovers(self) -> tuple[str, ...]:
        """Living processes that carry this one's marker, for people."""
        return tuple(describe(i.pid) for i in find_marked(**self._markers))

    def close(self) -> None:
        """Let go without stopping it: the next supervisor adopts it."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _held_for_long(self) -> bool:
        """Whether a process lives under this name; the brain, taking a dead one's tasks back, is waited out."""
        for _ in range(round(LOCK_WAIT_S / _LOCK_POLL_S)):
            if not self._engine.lock_held(self.name):
                return False
            row = self._engine.read_row(self.name)
            if row is not None and is_same(row.process):
                return True
            self._engine.pause(_LOCK_POLL_S)
        return True

    def _take_over(self, row: WorkerRow) -> Child | None:
        self._child = Child.adopt(row.process, markers=self._markers)
        self._asked = False
        return self._child

    def _adopted(self, row: WorkerRow) -> str:
        return f"{self.name} adopted: it runs as pid {row.process.pid}"

    def _refuse_unknown_holder(self) -> NoReturn:
        """The lock is held, but not by the process in the row: it has not registered yet, or a foreign one holds it."""
        raise EngineError(
            f"{self.name}: its life lock is held by a process that has not registered",
            hint=f"it may be starting; else `fuser {self._engine.root}/workers/{self.name}.lock` names it",
        )

    def _replace(self, child: Child) -> None:
        child.signal(signal.SIGTERM)
        child.begin_stop(grace_s=STOP_GRACE_S, sig=signal.SIGINT)
        while (gone := child.stop_step()) is None:
            self._engine.pause(0.02)
        self._child = None
        if not gone:
            raise EngineError(
                f"{self.name}: pid {child.identity.pid} of an earlier plan cannot be killed", hint="see `dmesg`"
            )

    def _end_remains(self) -> None:
        if kill_marked(0.0, **self._markers):
            raise EngineError(
                f"{self.name}: {'; '.join(self.leftovers())} of an earlier life cannot be killed",
                hint=f"waited {KILL_WAIT_S:g} s: it is stuck in the kernel; see `dmesg`",
            )

    def _spawn(self) -> Child:
        log_path = self._engine.root / "logs" / f"{self.name}.err"
        rotate_if_large(log_path)
        try:
            _note_start(log_path, self.name)
            return Child.spawn(self._argv, env=self._engine.env, markers=self._markers, log_path=log_path)
        except OSError as error:
            raise EngineError(
                f"{self.name}: cannot start {self._argv[0]}: {error.strerror}",
                hint=f"the command was: {' '.join(self._argv)}",
            ) from error


def _note_start(path: Path, name: str) -> None:
    """A line between the lives, so that what was said on standard error can be told apart."""
    try:
        fd = open_file(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OddEntry:  # ``Child.spawn`` says so
        return
    try:
        os.write(fd, f"[{SystemClock().iso()}] [{name}] INFO  started; what it says on standard error follows\n".encode())
    finally:
        os.close(fd)


class LocalEngine:
    """Makes processes for one queue root. ``lock_held`` and ``read_row`` look at life locks and registry rows by name.

    ``has_worked`` tells whether that very process took a turn of its loop.
    """

    def __init__(
        self,
        root: Path,
        *,
        lock_held: Callable[[str], bool],
        read_row: Callable[[str], WorkerRow | None],
        has_worked: Callable[[str, ProcessIdentity], bool],
        pause: Callable[[float], None],
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.lock_held = lock_held
        self.read_row = read_row
        self.has_worked = has_worked
        self.pause = pause
        self.env = dict(os.environ if env is None else env)

    def process(
        self, name: str, role: str, argv: Sequence[str], *, fits: Callable[[WorkerRow], bool] = lambda _row: True
    ) -> LocalProcess:
        """A process to be; ``fits`` tells whether a running one may be adopted, by its row. Starts nothing."""
        return LocalProcess(name, role, argv, engine=self, fits=fits)
