"""What a worker asks its model server: what it holds, and a request of known good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Literal, Protocol

import msgspec

from swarm.config.settings import LlmSettings, ModelSettings, Settings
from swarm.core.faults import CancelToken, TaskFault
from swarm.core.models.model_options import ModelTable
from swarm.core.models.model_server import InstalledModel, Limits, LoadedModel
from swarm.core.placement.fit import cards_needed, file_too_big
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.task import Endpoint, canonical_model
from swarm.runtime.event_loop import EventLoop
from swarm.runtime.ports import ModelServer
from swarm.worker.gpu_checks import PinProof

LOOK_TIMEOUT_S = 5.0
DISK_TIMEOUT_S = 10.0
LIST_EVERY_S = 30.0
"""What is on the server's disk is looked at this often."""
PROMPT = "Hello"
MAX_REPLY_BYTES = 16 << 20
"""An embedding has thousands of numbers, and a server may ignore the limit of one token."""
SpillPolicy = Literal["refuse", "warn", "allow"]


class ServerReading(msgspec.Struct, frozen=True, kw_only=True):
    """What the server said at one moment."""

    usable: bool
    """It answers, and could take requests."""
    loaded: LoadedModel | None = None
    """The model it holds as configured and, by policy, on its card; None when cold."""
    reason: str = ""
    """Why it is not usable, or why what it holds does not count."""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    """The latter by model."""
    servable: tuple[str, ...] = ()
    """Models on its disk that the cards have room for, as far as was found out."""
    version: str = ""
    """Of the server, as far as was found out."""

    @property
    def model(self) -> str | None:
        """Canonical name of the model that counts as loaded."""
        return None if self.loaded is None else self.loaded.name


class ServerProbe(Protocol):
    """Asks the model server which models it holds."""

    def look(self) -> ServerReading:
        """Ask now; bounded to some seconds. Trouble of the server is a reading, never an exception."""
        ...


class Prober(Protocol):
    """Finds out whether a server works, and reports it to who repairs it."""

    def probe(self, model: str, endpoint: Endpoint, *, limit_s: float, cancel: CancelToken) -> TaskFault | None:
        """Ask for one token, on any thread. None: it was answered; else what happened."""
        ...

    def broke(self, fault: TaskFault, task: str | None, began_s: float) -> bool:
        """A request that began then (monotonic) met this fault, and the server is to blame. True: it loads anew now."""
        ...


class ModelServerProbe:
    """Fits ``ServerProbe`` and ``Prober``.

    A server that answers ``/api/ps`` within some seconds is usable. A request of known good has the options that the model
    is loaded with, so that nothing is loaded anew for it.
    """

    def __init__(
        self,
        server: ModelServer,
        loop: EventLoop,
        repair: Callable[[TaskFault, str | None, float], bool],
        *,
        models: Mapping[str, ModelSettings],
        on_cpu_spill: SpillPolicy,
        pin: PinProof | None = None,
        list_servable: Callable[[], tuple[str, ...]] = tuple,
        ask_version: Callable[[], str] = str,
    ) -> None:
        """``loop`` is the one that all requests to ``server`` run on, ``repair`` is ``Prober.broke``.

        A server whose ``pin`` was refuted is not usable, whatever it says of itself. ``list_servable`` asks which models
        it has and could load, ``ask_version`` for its version; either may raise ``TaskFault``.
        """
        self._server = server
        self._loop = loop
        self.broke = repair
        self._pin = pin
        self._models = ModelTable(models)
        self._on_cpu_spill: SpillPolicy = on_cpu_spill
        self._list_servable = list_servable
        self._ask_version = ask_version
        self._servable: tuple[str, ...] = ()
        self._version = ""
        self._list_due_s = monotonic()

    def look(self) -> ServerReading:
        """Ask what it holds."""
        if self._pin is not None and self._pin.refusal:
            return ServerReading(usable=False, reason=self._pin.refusal)
        try:
            held = self._server.ps(LOOK_TIMEOUT_S)
        except TaskFault as fault:
            return ServerReading(usable=False, reason=fault.message)
        if monotonic() >= self._list_due_s:
            self._list_due_s = monotonic() + LIST_EVERY_S
            with suppress(TaskFault):
                self._servable = self._list_servable()
                self._version = self._ask_version()
        found = judge(held, self._models, on_cpu_spill=self._on_cpu_spill)
        return msgspec.structs.replace(found, servable=self._servable, version=self._version)

    def probe(self, model: str, endpoint: Endpoint, *, limit_s: float, cancel: CancelToken) -> TaskFault | None:
        """As the port says. A server that refuses the probe in good order works."""
        limits = Limits(total_s=limit_s, first_token_s=limit_s, token_gap_s=limit_s, max_reply_bytes=MAX_REPLY_BYTES)
        try:
            asked = self._server.run(endpoint, self._body(model, endpoint), limits=limits, progress=None, marker=None)
            self._loop.call(asked, cancel)
        except TaskFault as fault:
            if fault.fault == "deterministic":
                return None
            if fault.kind in ("timeout", "first_token_timeout"):
                return TaskFault("infra", "probe_timeout", f"a probe was not answered within {limit_s:g} s")
            return fault
        return None

    def _body(self, model: str, endpoint: str) -> dict[str, Any]:
        fixed = self._models.of(model)
        body: dict[str, Any] = {"model": model, "options": dict(fixed.options)}
        if fixed.keep_alive is not None:
            body["keep_alive"] = fixed.keep_alive
        match endpoint:
            case "/api/embed":
                return body | {"input": PROMPT}
            case "/api/chat":
                body["messages"] = [{"role": "user", "content": PROMPT}]
            case _:
                body["prompt"] = PROMPT
        body["options"]["num_predict"] = 1
        return body


def judge(held: Sequence[LoadedModel], models: ModelTable, *, on_cpu_spill: SpillPolicy) -> ServerReading:
    """The first model that counts: on the card as the policy asks, and loaded with the configured context."""
    refused: dict[str, str] = {}
    for loaded in held:
        reason = refusal(loaded, models, on_cpu_spill=on_cpu_spill)
        if not reason:
            return ServerReading(usable=True, loaded=loaded)
        refused[loaded.name] = reason
    return ServerReading(usable=True, reason="; ".join(refused.values()), refused=refused)


def refusal(loaded: LoadedModel, models: ModelTable, *, on_cpu_spill: SpillPolicy) -> str:
    """Why a loaded model does not count; empty if it does.

    One that somebody loaded with another ``num_ctx`` does not where our first request would load it anew.
    """
    if loaded.spilled and on_cpu_spill == "refuse":
        return f"{loaded.name} is not wholly on its card: {loaded.spilled}"
    wanted = models.of(loaded.name).options.get("num_ctx")
    if isinstance(wanted, int) and loaded.context_length > wanted and not loaded.context_fixed:
        return f"{loaded.name} was loaded with num_ctx {loaded.context_length}, configured is {wanted}"
    return ""


Tags = Callable[[float], Sequence[InstalledModel]]
"""The models on the server's disk, within so many seconds. Raises ``TaskFault``."""


def servable_models(tags: Tags, plan: WorkerPlan, settings: Settings, limits: LlmSettings) -> tuple[str, ...]:
    """Models on the server's disk that its cards have room for, as far as their files tell. Raises ``TaskFault``."""
    room_mib = plan.vram_mib if limits.on_cpu_spill == "refuse" else None
    found = {canonical_model(m.name): m.size_mib for m in tags(LOOK_TIMEOUT_S)}
    return tuple(
        name
        for name, size_mib in sorted(found.items())
        if cards_needed(name, settings) <= max(1, len(plan.gpus))
        and (room_mib is None or not file_too_big(size_mib, room_mib))
    )


def size_on_disk_mib(tags: Tags, model: str) -> int:
    """Size of a model's file; 0 where the server does not say."""
    try:
        return next((m.size_mib for m in tags(DISK_TIMEOUT_S) if canonical_model(m.name) == model), 0)
    except TaskFault:
        return 0
