"""Repairs of a server in another machine: the relay there carries them out. Quarantines are on record here."""

from __future__ import annotations

import logging
from pathlib import Path

from swarm.config.settings import RepairSettings
from swarm.core.faults import TaskFault
from swarm.core.nodes.relay_wire import RepairAsk, RepairDone
from swarm.engines.ollama.quarantine import CardQuarantine
from swarm.engines.remote.relay_calls import RelayCalls

REPAIR_S = 20.0
"""For a server there to end."""


class RemoteRepair(CardQuarantine):
    """Fits ``Repairs``. Thread-safe. A machine that does not answer is repaired by nobody here: nothing is done then."""

    def __init__(
        self,
        calls: RelayCalls,
        worker: str,
        *,
        root: Path,
        gpu_uuids: tuple[str, ...],
        limits: RepairSettings,
        log: logging.Logger,
    ) -> None:
        super().__init__(root / "workers", worker, gpu_uuids, limits)
        self._calls = calls
        self._log = log

    def kill_runners(self) -> tuple[str, ...]:
        """End what runs the models there."""
        return self._asked(RepairAsk(action="kill_runners"))

    def restart_server(self) -> str | None:
        """End the server there; the relay starts it anew."""
        return "; ".join(self._asked(RepairAsk(action="restart_server"))) or None

    def _asked(self, ask: RepairAsk) -> tuple[str, ...]:
        try:
            return self._calls.post("/repair", ask, RepairDone, REPAIR_S).ended
        except TaskFault as fault:
            self._log.warning("The repair could not be asked for: %s", fault.message)
            return ()
