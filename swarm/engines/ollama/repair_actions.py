"""Repair actions on a worker's server: kill its runners, restart it, quarantine its card.

A process that serves one model is its own runner: either action ends it, and the next load or request starts it again.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from swarm.config.settings import RepairSettings
from swarm.core.worker import ProcessIdentity
from swarm.engines.ollama import quarantine as notes
from swarm.engines.ollama.server import running_server
from swarm.proc import identity as identities
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked
from swarm.proc.ports import describe

END_WAIT_S = 5.0
"""For a killed process to end; longer means that it is stuck in the kernel."""
TERM_WAIT_S = 2.0
"""For a server to end by itself; a wedged one waits for its runner and never does."""
RECHECK_S = 1.0
"""A quarantine note is looked at this often: it may be released from outside."""
_POLL_S = 0.02
log = logging.getLogger(__name__)


class RepairActions:
    """For the server of ``worker`` under ``root``. Thread-safe.

    Only processes that carry its markers are touched: a server that swarm did not start is never stopped.
    """

    def __init__(
        self,
        worker: str,
        *,
        root: Path,
        gpu_uuids: tuple[str, ...],
        limits: RepairSettings,
        supervised: Callable[[], bool] = lambda: True,
    ) -> None:
        """``supervised``: whether a supervisor would start the server again once it has ended."""
        self._limits = limits
        self._supervised = supervised
        self._worker = worker
        self._workers_dir = root / "workers"
        self._uuids = gpu_uuids
        self._markers = {SERVER_MARKER: worker, ROOT_MARKER: str(root)}
        self._model_markers = {MODEL_MARKER: worker, ROOT_MARKER: str(root)}
        self._looked_s = float("-inf")
        self._note: notes.Quarantine | None = None
        self._deciding = threading.Lock()
        """A card may be lost on one thread while a request succeeds on another."""

    def kill_runners(self) -> tuple[str, ...]:
        """SIGKILL the server's children, and processes that serve one model; the next request starts a new one."""
        runners = find_marked(**self._model_markers)
        server = self._server()
        if server is not None:
            runners += [one for one in find_marked(**self._markers) if one != server]
        names = tuple(describe(one.pid) for one in runners)
        for one in runners:
            identities.signal(one, signal.SIGKILL)
        _gone(runners, END_WAIT_S)
        return names

    def restart_server(self) -> str | None:
        """SIGTERM, then SIGKILL; its supervisor ends the runners it left and starts it anew.

        Without a supervisor it is left alone: a server that hangs is better than none. A process that serves one model needs
        no supervisor: this worker starts it again.
        """
        ended = find_marked(**self._model_markers)
        server = self._server()
        if server is not None and self._supervised():
            ended.append(server)
        names = "; ".join(describe(one.pid) for one in ended)
        for sig, wait_s in ((signal.SIGTERM, TERM_WAIT_S), (signal.SIGKILL, END_WAIT_S)):
            for one in ended:
                identities.signal(one, sig)
            if _gone(ended, wait_s):
                break
        return names or None

    def quarantine(self, reason: str) -> str:
        """Record it, so that it outlives the worker; returns a line for the operator."""
        try:
            with self._deciding:
                note = notes.put(self._workers_dir, self._worker, self._uuids, reason, self._limits)
        except OSError as error:
            return f"the quarantine cannot be recorded ({error.strerror}): it is tried again at the next fault"
        self._looked_s = float("-inf")
        return f"tried again in {note.left_s / 60:.0f} min, or at once after `swarm workers release {self._worker}`"

    def quarantined(self) -> str:
        """Why the card is quarantined, read at most once a second; empty if it is not."""
        note = self._current()
        if note is None or note.left_s <= 0:
            return ""
        cards = ", ".join(note.gpu_uuids) or "its server"
        return (
            f"{cards} quarantined for another {note.left_s / 60:.0f} min: {note.reason}; "
            f"release it with `swarm workers release {self._worker}`"
        )

    def on_trial(self) -> bool:
        """Whether a quarantine is due for its trial."""
        note = self._current()
        return note is not None and note.left_s <= 0

    def recovered(self) -> None:
        """A request succeeded: a quarantine that is due for its trial ends.

        One that has just begun stays: the request may have started before the card was lost. A file that cannot be removed
        stays due, and does not cost the answer that came.
        """
        if not self.on_trial():
            return
        with self._deciding:
            note = notes.read(self._workers_dir, self._worker, self._uuids)
            if note is None or note.left_s > 0:
                return
            self._note = None
            try:
                notes.release(self._workers_dir, self._worker)
            except OSError as error:
                log.warning("%s: its quarantine is over, but the note cannot be removed: %s", self._worker, error.strerror)
                return
        log.info("%s: quarantine ended, its server works again", self._worker)

    def _current(self) -> notes.Quarantine | None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= RECHECK_S:
            self._looked_s = now_s
            self._note = notes.read(self._workers_dir, self._worker, self._uuids)
        return self._note

    def pids(self) -> frozenset[int]:
        """Of the server and its runners; none for a server that swarm did not start."""
        return frozenset(one.pid for markers in (self._markers, self._model_markers) for one in find_marked(**markers))

    def _server(self) -> ProcessIdentity | None:
        """The living server by the supervisor's note; it counts only with our markers in its environment."""
        note = running_server(self._workers_dir / f"{self._worker}.server.json", self._markers)
        return note.process if note is not None else None


def _gone(processes: list[ProcessIdentity], within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while any(identities.is_same(one) for one in processes):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_POLL_S)
    return True
