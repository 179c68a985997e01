"""Asks a model server what it holds, and judges whether that counts as loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from swarm.config.settings import ModelSettings
from swarm.core.faults import TaskFault
from swarm.runtime.model_server import Loaded, ModelServer, ModelTable, spilled_words
from swarm.worker.server_health import ServerReading

LOOK_TIMEOUT_S = 5.0

SpillPolicy = Literal["refuse", "warn", "allow"]


class ModelServerProbe:
    """Fits ``ServerProbe``. A server that answers ``/api/ps`` within some seconds is usable."""

    def __init__(self, server: ModelServer, *, models: Mapping[str, ModelSettings], on_cpu_spill: SpillPolicy) -> None:
        self._server = server
        self._models = ModelTable(models)
        self._on_cpu_spill: SpillPolicy = on_cpu_spill

    def look(self) -> ServerReading:
        """Ask now."""
        try:
            held = self._server.ps(LOOK_TIMEOUT_S)
        except TaskFault as fault:
            return ServerReading(usable=False, reason=fault.message)
        return judge(held, self._models, on_cpu_spill=self._on_cpu_spill)


def judge(held: Sequence[Loaded], models: ModelTable, *, on_cpu_spill: SpillPolicy) -> ServerReading:
    """The first model that counts: on the card as the policy asks, and loaded with the configured context.

    One that somebody loaded with another ``num_ctx`` does not count: our first request would load it anew.
    """
    refused: dict[str, str] = {}
    for loaded in held:
        reason = refusal(loaded, models, on_cpu_spill=on_cpu_spill)
        if not reason:
            return ServerReading(
                usable=True,
                model=loaded.name,
                digest=loaded.digest,
                size_mib=loaded.size_mib,
                size_vram_mib=loaded.size_vram_mib,
                context_length=loaded.context_length,
            )
        refused[loaded.name] = reason
    return ServerReading(usable=True, reason="; ".join(refused.values()), refused=refused)


def refusal(loaded: Loaded, models: ModelTable, *, on_cpu_spill: SpillPolicy) -> str:
    """Why a loaded model does not count; empty if it does."""
    spilled = spilled_words(loaded)
    if spilled and on_cpu_spill == "refuse":
        return f"{loaded.name} is not wholly on its card: {spilled}"
    wanted = models.load_options(loaded.name).get("num_ctx")
    if isinstance(wanted, int) and loaded.context_length > wanted:
        return f"{loaded.name} was loaded with num_ctx {loaded.context_length}, configured is {wanted}"
    return ""
