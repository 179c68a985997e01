"""One process of ours on this machine, brain, worker or HTTP server: found or started, watched, ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from swarm.clock import SystemClock
from swarm.config.listen import Address
from swarm.core.worker import WorkerRow
from swarm.errors import EngineError, OddEntry, PortTaken
from swarm.filesystem.entries import open_file
from swarm.proc.child import Child, KeptProcess, rotate_if_large
from swarm.proc.env_markers import PROCESS_MARKER, ROOT_MARKER
from swarm.proc.identity import is_same
from swarm.proc.ports import is_free, who_listens
from swarm.proc.process_group import KILL_WAIT_S
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.supervisor.state import HTTP

STOP_GRACE_S = 10.0
"""Between "stop at once" and SIGKILL: time to requeue claimed tasks."""
LOCK_WAIT_S = 1.0
"""A look or a recovery holds a dead worker's lock for moments; only who keeps it longer is a stranger."""
_LOCK_POLL_S = 0.02


class LocalProcess(KeptProcess):
    """A brain or worker, known by its process lock."""

    def __init__(self, name: str, role: str, argv: Sequence[str], root: Path, fits: Callable[[WorkerRow], bool]) -> None:
        """``fits`` tells whether a running one may be adopted, by its registration. Starts nothing."""
        super().__init__(name, role, {PROCESS_MARKER: name, ROOT_MARKER: str(root)})
        self._argv = tuple(argv)
        self._root = root
        self._layout = Layout(str(root))
        self._fits = fits
        self._asked = False

    def adopt(self) -> str | None:
        """Adopt the process of this name that runs and fits the plan; a line for the log, None: there is none."""
        row = registry.read_row(self._layout, self.name) if is_held(self._layout, self.name) else None
        return self._adopted(row) if row is not None and self._fits(row) and self._take_over(row) else None

    def start(self) -> str:
        """Adopt whoever holds the process lock, else start a new process. Returns a line for the log.

        A holder that no longer fits the plan (another card or server) is stopped first. Raises ``EngineError``: the lock
        is held by somebody unknown, a process that cannot be ended, or a program that cannot be started.
        """
        if self._held_for_long():
            row = registry.read_row(self._layout, self.name)
            child = self._take_over(row) if row is not None else None
            if row is None or child is None:
                self._refuse_unknown_holder()
            if self._fits(row):
                return self._adopted(row)
            self._replace(child)
        self._clear_remains()
        child = self._child = self._spawn()
        self._asked = False
        return f"{self.name} started as pid {child.identity.pid}"

    def ready(self) -> bool:
        """Whether it holds its process lock: from then on it works."""
        return self._child is not None and is_held(self._layout, self.name)

    def worked(self) -> bool:
        """Whether it took a tick of its loop in this life, by its heartbeat."""
        return self._child is not None and registry.has_worked(self._layout, self.name, self._child.identity)

    def drain(self) -> None:
        """Ask it to finish what it runs and end: one SIGTERM, once. A stopped one goes on, or it would never hear it."""
        if self._child is not None and not self._asked:
            self._asked = True
            self._child.signal(signal.SIGTERM)
            self._child.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end at once, requeueing its tasks; SIGKILL to its group after ``STOP_GRACE_S``."""
        if self._child is None:
            return
        # Two different signals: two equal ones that are pending together count as one.
        self._child.signal(signal.SIGTERM)
        self._child.begin_stop(grace_s=STOP_GRACE_S, sig=signal.SIGINT)

    def _held_for_long(self) -> bool:
        """Whether a process lives under this name; the brain, taking a dead one's tasks back, is waited out."""
        for _ in range(round(LOCK_WAIT_S / _LOCK_POLL_S)):
            if not is_held(self._layout, self.name):
                return False
            row = registry.read_row(self._layout, self.name)
            if row is not None and is_same(row.process):
                return True
            time.sleep(_LOCK_POLL_S)
        return True

    def _take_over(self, row: WorkerRow) -> Child | None:
        self._child = Child.adopt(row.process, markers=self._markers)
        self._asked = False
        return self._child

    def _adopted(self, row: WorkerRow) -> str:
        return f"{self.name} adopted: it runs as pid {row.process.pid}"

    def _refuse_unknown_holder(self) -> NoReturn:
        """The lock is held, but not by the registered process: it has not registered yet, or a foreign one holds it."""
        raise EngineError(
            f"{self.name}: its process lock is held by a process that has not registered",
            hint=f"it may be starting; else `fuser {self._root}/workers/{self.name}.lock` names it",
        )

    def _replace(self, child: Child) -> None:
        child.signal(signal.SIGTERM)
        child.begin_stop(grace_s=STOP_GRACE_S, sig=signal.SIGINT)
        while (gone := child.stop_step()) is None:
            time.sleep(0.02)
        self._child = None
        if not gone:
            raise EngineError(
                f"{self.name}: pid {child.identity.pid} of an earlier plan cannot be killed", hint="see `dmesg`"
            )

    def _clear_remains(self) -> None:
        if self._end_remains():
            raise EngineError(
                f"{self.name}: {'; '.join(self.leftovers())} of an earlier start cannot be killed",
                hint=f"waited {KILL_WAIT_S:g} s: it is stuck in the kernel; see `dmesg`",
            )

    def _spawn(self) -> Child:
        log_path = self._root / "logs" / f"{self.name}.err"
        rotate_if_large(log_path)
        try:
            _note_start(log_path, self.name)
            return Child.spawn(self._argv, env=os.environ, markers=self._markers, log_path=log_path)
        except OSError as error:
            raise EngineError(
                f"{self.name}: cannot start {self._argv[0]}: {error.strerror}",
                hint=f"the command was: {' '.join(self._argv)}",
            ) from error


class HttpProcess(LocalProcess):
    """The HTTP server: ready once it serves, and not started while somebody else has its port."""

    def __init__(self, argv: Sequence[str], root: Path, address: Address) -> None:
        super().__init__(HTTP, HTTP, argv, root, lambda row: row.url == address.url)
        self._address = address

    def start(self) -> str:
        """As of any process of ours. Raises ``PortTaken`` too, naming who has the port."""
        host, port = self._address
        if self._child is None and not self._held_for_long() and not _may_listen(host, port):
            holder = who_listens(port, host) or "somebody"
            raise PortTaken(f"{self.name} cannot start: port {port} on {host} is taken by {holder}")
        return f"{super().start()}, on {self._address.url}"

    def ready(self) -> bool:
        """Whether it serves: it beats only then."""
        return self.worked()


def _may_listen(host: str, port: int) -> bool:
    """False where the port is taken; what else is wrong with the address is for the process itself to say."""
    try:
        return is_free(host, port)
    except OSError:
        return True


def _note_start(path: Path, name: str) -> None:
    """A line between two lives, to separate what each wrote on standard error."""
    try:
        fd = open_file(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OddEntry:  # ``Child.spawn`` says so
        return
    try:
        os.write(fd, f"[{SystemClock().iso()}] [{name}] INFO  started; what it says on standard error follows\n".encode())
    finally:
        os.close(fd)
