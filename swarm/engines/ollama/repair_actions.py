"""Repair actions on a worker's server: kill its runners, restart it, quarantine its card.

A process that serves one model is its own runner: either action ends it, and the next load or request starts it again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from swarm.config.settings import RepairSettings
from swarm.core.worker import ProcessIdentity
from swarm.engines.ollama.quarantine import CardQuarantine
from swarm.engines.ollama.server import running_server
from swarm.proc import identity as identities
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked
from swarm.proc.ports import describe

END_WAIT_S = 5.0
"""For a killed process to end; longer means that it is stuck in the kernel."""
TERM_WAIT_S = 2.0
"""For a server to end by itself; a wedged one waits for its runner and never does."""
_POLL_S = 0.02


class RepairActions(CardQuarantine):
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
        super().__init__(root / "workers", worker, gpu_uuids, limits)
        self._supervised = supervised
        self._markers = {SERVER_MARKER: worker, ROOT_MARKER: str(root)}
        self._model_markers = {MODEL_MARKER: worker, ROOT_MARKER: str(root)}

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
