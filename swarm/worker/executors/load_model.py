"""Runs ``load_llm`` and ``unload_llm``: done is what ``/api/ps`` shows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.models.model_options import ModelTable
from swarm.core.models.model_server import LoadedModel, LoadOrder, ModelDetails
from swarm.core.placement.fit import file_too_big
from swarm.core.policy.slot_capacity import Capacity
from swarm.core.task import Claim, Task, Trail, canonical_model
from swarm.runtime.ports import ModelServer
from swarm.worker.gpu_checks import PinProof
from swarm.worker.server_probe import SpillPolicy, refusal
from swarm.worker.tuning.load_slots import LoadSlots

T = TypeVar("T")

PS_TIMEOUT_S = 10.0
POLL_S = 0.05
POLL_MAX_S = 0.5
UNLOAD_LIMIT_S = 60.0
"""For a model to leave ``/api/ps``; longer means a runner that cannot die."""
SHOWN_WITHIN_S = 10.0
"""For a model to be listed once the server has said that it is ready."""
_NO_ROOM = ("does_not_fit", "out_of_memory")


class ResourceExecutor:
    """Fits the ``Executor`` port. The worker sees to it that no request to another model runs meanwhile."""

    def __init__(
        self,
        server: ModelServer,
        settings: LlmSettings,
        *,
        models: Mapping[str, ModelSettings],
        log: logging.Logger,
        pin: PinProof | None = None,
        on_stuck: Callable[[str, float], None] = lambda _model, _began_s: None,
        memory_mib: int | None = None,
        disk_mib: Callable[[str], int] = lambda _model: 0,
        slots: LoadSlots | None = None,
    ) -> None:
        """``pin`` proves that a load came to the right card; ``on_stuck`` is called for a model that does not go, with when
        it was ordered out (monotonic). ``memory_mib``: of its cards together; ``disk_mib``: of a model's file, 0: not known.

        ``slots`` chooses for how many requests at once; None: the server decides.
        """
        self._server = server
        self._timeout_s = settings.timeout_s
        self._policy: SpillPolicy = settings.on_cpu_spill
        self._models = ModelTable(models)
        self._log = log
        self._pin = pin
        self._on_stuck = on_stuck
        self._memory_mib = memory_mib
        self._disk_mib = disk_mib
        self._slots = slots
        self._one_at_a_time = threading.Lock()

    def run(self, claim: Claim, *, cancel: CancelToken, progress: Progress) -> Trail:
        """Load or unload. Raises ``TaskFault``: ``cpu_spill``, ``pin_refuted``, ``load_unproven``, ``unload_stuck`` …"""
        task = claim.task
        if not task.model:
            raise TaskFault("deterministic", "bad_request", f"{task.action} needs a model")
        stopper = _Stopper(cancel, progress, limit_s=task.timeout_s or self._timeout_s)
        with self._one_at_a_time:
            match task.action:
                case "load_llm":
                    return self._load(task, canonical_model(task.model), stopper, cancel)
                case "unload_llm":
                    return self._unload_one(canonical_model(task.model), stopper)
                case None:
                    message = "a resource task needs an action: load_llm or unload_llm"
                    raise TaskFault("deterministic", "bad_request", message)

    def _load(self, task: Task, model: str, stopper: _Stopper, cancel: CancelToken) -> Trail:
        began_s = time.monotonic()
        held = self._server.ps(PS_TIMEOUT_S)
        present = _find(held, model)
        anew = self._slots is not None and self._slots.is_climbing(model)
        if present is not None and not anew and not refusal(present, self._models, on_cpu_spill=self._policy):
            return Trail(result={**_facts(present), "already_loaded": True, "load_s": 0.0})
        details = self._server.show(model, PS_TIMEOUT_S)  # a missing model must not cost the loaded one
        self._check_file(model)
        self._log.info("Loading model %s (task %s)", model, task.task_id)
        for other in held:
            self._unload(other.name, stopper)
        before = self._pin.before() if self._pin is not None else ()
        load_began_s = time.monotonic()
        loaded, chosen = self._fitted(model, details, stopper, cancel)
        load_s = time.monotonic() - load_began_s
        if self._pin is not None:
            self._check_pin(self._pin, loaded, before, stopper)
        sizes = f"{loaded.size_mib} MiB ({loaded.size_vram_mib} MiB on GPU), context {loaded.context_length}"
        slots = min(chosen.slots, loaded.slots) if chosen.slots and loaded.slots else chosen.slots or loaded.slots
        sizes += f", {slots} at once ({chosen.why})" if slots else ""
        self._log.info("Model loaded: %s in %.1fs, %s", model, load_s, sizes)
        times = {"load_s": round(load_s, 3), "total_s": round(time.monotonic() - began_s, 3)}
        return Trail(result={**_facts(loaded), "slots": slots, "slots_why": chosen.why, **times})

    def _fitted(
        self, model: str, details: ModelDetails, stopper: _Stopper, cancel: CancelToken
    ) -> tuple[LoadedModel, Capacity]:
        """Loaded for as many requests at once as there is memory for; what found none is not tried again."""
        embedding = "embedding" in details.capabilities and "completion" not in details.capabilities
        fixed = self._models.of(model)
        order = LoadOrder(model=model, options=fixed.options, keep_alive=fixed.keep_alive, embedding=embedding)
        chosen = Capacity(0, "") if self._slots is None else self._slots.choose(model, details, embedding=embedding)
        while True:
            try:
                slots = 0 if chosen.forced else chosen.slots
                self._server.load(msgspec.structs.replace(order, slots=slots), timeout_s=stopper.left_s, cancel=cancel)
                fewer_left = self._slots is not None and not self._slots.fixed and chosen.slots > 1
                return self._proven(model, stopper, fewer_left=fewer_left), chosen
            except TaskFault as fault:
                no_room = fault.kind in _NO_ROOM or bool((fault.result or {}).get("no_room"))
                fewer = self._slots.no_room(model, chosen.slots) if no_room and self._slots is not None else 0
                if not fewer:
                    raise _load_fault(model, fault) from fault
                line = "%s does not fit for %d requests at once: loading it for %d (%s)"
                self._log.warning(line, model, chosen.slots, fewer, fault.message.partition(";")[0])
                chosen = Capacity(fewer, f"{chosen.slots} found no memory")

    def _check_file(self, model: str) -> None:
        """A model whose file alone is too big must not cost the loaded one either."""
        if self._policy != "refuse" or self._memory_mib is None:
            return
        disk_mib = self._disk_mib(model)
        if file_too_big(disk_mib, self._memory_mib):
            message = f"{model} does not fit: its file alone has {disk_mib} MiB, the card {self._memory_mib} MiB"
            raise TaskFault("deterministic", "does_not_fit", message, {"size_mib": disk_mib, "no_room": True})

    def _proven(self, model: str, stopper: _Stopper, *, fewer_left: bool) -> LoadedModel:
        """The model as ``/api/ps`` lists it, accepted by the spill policy; a refused one is unloaded again.

        ``fewer_left``: one that spilled may fit for fewer requests at once, so that a warning is not enough.
        """
        loaded = stopper.until(lambda: _find(self._server.ps(PS_TIMEOUT_S), model), within_s=SHOWN_WITHIN_S)
        if loaded is None:
            message = f"the server reported that {model} is loaded, but /api/ps does not list it"
            raise TaskFault("infra", "load_unproven", message)
        if not loaded.spilled:
            return loaded
        words, advice = _spill_words(loaded)
        if self._policy == "refuse" or (self._policy == "warn" and fewer_left):
            self._unload(model, stopper)
            learnt = _facts(loaded) | ({"no_room": True} if loaded.size_vram_mib else {})
            raise TaskFault("deterministic", "cpu_spill", f"{words}; {advice}", learnt)
        if self._policy == "warn":
            self._log.warning("%s", words)
        return loaded

    def _check_pin(self, pin: PinProof, loaded: LoadedModel, before: tuple[GpuReading, ...], stopper: _Stopper) -> None:
        """A model on another worker's card is unloaded at once: it takes that worker's memory."""
        try:
            pin.check(loaded.name, before, loaded.size_vram_mib)
        except TaskFault:
            self._unload(loaded.name, stopper)
            raise

    def _unload_one(self, model: str, stopper: _Stopper) -> Trail:
        began_s = time.monotonic()
        held = _find(self._server.ps(PS_TIMEOUT_S), model)
        if held is not None:
            self._unload(model, stopper)
        unload_s = round(time.monotonic() - began_s, 3)
        return Trail(result={"model": model, "was_loaded": held is not None, "unload_s": unload_s})

    def _unload(self, model: str, stopper: _Stopper) -> None:
        """Unload it and wait until it is no longer listed."""
        began_s = time.monotonic()
        self._server.unload(model, min(30.0, stopper.left_s))
        gone = stopper.until(lambda: _find(self._server.ps(PS_TIMEOUT_S), model) is None, within_s=UNLOAD_LIMIT_S)
        if not gone:
            message = (
                f"{model} is still loaded {UNLOAD_LIMIT_S:.0f} s after its unload was requested; a request in it may hang"
            )
            self._on_stuck(model, began_s)
            raise TaskFault("infra", "unload_stuck", message)
        self._log.info("Model unloaded: %s", model)


class _Stopper:
    """Waits that end with the attempt: at its limit, or when it is cancelled."""

    def __init__(self, cancel: CancelToken, progress: Progress, *, limit_s: float) -> None:
        self._cancel = cancel
        self._progress = progress
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s
        self._cancelled = threading.Event()
        cancel.on_cancel(self._cancelled.set)

    @property
    def left_s(self) -> float:
        """Seconds left; raises ``TaskFault`` when none are."""
        if self._cancel.reason is not None:
            raise TaskFault("cancelled", self._cancel.reason, f"stopped: {self._cancel.reason}")
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TaskFault("transient", "timeout", f"no end within {self._limit_s:g} s")
        return left_s

    def until(self, seen: Callable[[], T], *, within_s: float) -> T | None:
        """The first truthy answer of ``seen`` within so many seconds; None after them. Each look counts as progress."""
        end_s = time.monotonic() + within_s
        pause_s = POLL_S
        while True:
            self._progress(1)
            answer = seen()
            if answer:
                return answer
            if time.monotonic() >= end_s:
                return None
            self._cancelled.wait(min(pause_s, self.left_s))
            pause_s = min(POLL_MAX_S, pause_s * 2)


def _find(held: Sequence[LoadedModel], model: str) -> LoadedModel | None:
    return next((loaded for loaded in held if loaded.name == model), None)


def _facts(loaded: LoadedModel) -> dict[str, Any]:
    return {
        "model": loaded.name,
        "digest": loaded.digest,
        "size_mib": loaded.size_mib,
        "size_vram_mib": loaded.size_vram_mib,
        "context_length": loaded.context_length,
    }


def _spill_words(loaded: LoadedModel) -> tuple[str, str]:
    """What spilled, and what to do: a model of which nothing is on a card was not too big, the server has no card."""
    if loaded.size_vram_mib == 0:
        advice = 'see its log for the cards it found; for a worker meant to run on the CPU set llm.on_cpu_spill = "allow"'
        return f"{loaded.name} is wholly on the CPU ({loaded.spilled}): the server uses no card", advice
    words = f"{loaded.name} does not fit on the card: {loaded.spilled}, the rest would run on the CPU"
    return words, 'lower num_ctx, or set llm.on_cpu_spill = "warn"'


def _load_fault(model: str, fault: TaskFault) -> TaskFault:
    """A model that has no room will have none in a second either: the load fails, and whoever placed it decides anew."""
    if fault.kind in _NO_ROOM:
        return TaskFault("deterministic", fault.kind, f"{model} cannot be loaded here: {fault.message}", {"no_room": True})
    return fault
