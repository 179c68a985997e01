"""How many requests a worker keeps in flight: samples of ended runs go in, the limit of the llm slots comes out.

* Owned by the work loop. One tuning per model and length class, taken up from what the card has shown in earlier lives.
* A number in the configuration is obeyed and only measured. Never more than the model was loaded for, plus ``reserve``.
* Each change is logged once, with its reason, and published in the heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.policy import slot_tuning
from swarm.core.policy.slot_capacity import CAUTIOUS, SlotRecord, length_class, record_of, reload_gain_s, reload_pays
from swarm.core.policy.slot_state import Tuning, words
from swarm.core.policy.slot_tuning import HISTORY
from swarm.core.policy.slots import SlotLimits, slot_limits
from swarm.core.task import TaskClass, Trail, canonical_model
from swarm.core.worker import TunedSlots
from swarm.worker.attempt import Run
from swarm.worker.heartbeat import WorkerState
from swarm.worker.parts import WorkerParts
from swarm.worker.tuning.in_flight import InFlight
from swarm.worker.tuning.load_slots import LoadSlots
from swarm.worker.tuning.tuned_model import TunedModel

PUBLISH_S = 0.5
"""Measured rates are published at most this often."""
PAUSE_S = 1.0
"""Too few requests in flight for longer is no gap between two of them."""
CLIMB_LOOK_S = 5.0
"""Whether a reload for more slots pays is looked into this often."""
_TOO_MANY = ("out_of_memory", "does_not_fit")
"""Kinds of faults under which a server says that what it works on takes more memory than there is."""


def reserve(slots: int, capacity: int) -> int:
    """Requests beyond the slots of the engine, so that its own queue is short but never empty."""
    if not capacity or slots < capacity or capacity < 2:
        return 0
    return 1 if capacity < 16 else 2


class SlotTuner:
    """Per tick: ``begin_tick``, ``ended`` and ``began`` for each run, ``end_tick``; ``limits`` hold in between."""

    def __init__(self, parts: WorkerParts, state: WorkerState) -> None:
        self._log = parts.log
        self._state = state
        self._load_slots: LoadSlots | None = parts.load_slots
        self._settings = parts.settings
        self._limits = slot_limits(parts.settings.worker, parts.settings.llm)
        self._models: dict[str, TunedModel] = {}
        self._flights = InFlight(monotonic())
        self._publish_s = 0.0
        self._climb_look_s = 0.0

    # -- what it says ------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> SlotLimits:
        """How many tasks of each class may be held now."""
        model = self._state.beat.model
        slots = self._wanted(model) if model is not None and self._load_slots is not None else self._limits.llm
        if slots == self._limits.llm:
            return self._limits
        most = self._settings.worker.max_tasks_per_worker
        return msgspec.structs.replace(self._limits, llm=slots, total=max(most, slots))

    @property
    def places(self) -> tuple[int, int]:
        """Slots of the loaded model (no ``reserve``), and how many requests its engine works on at once; 0 without one."""
        model = self._state.beat.model
        if model is None:
            return 0, 0
        if self._load_slots is None:
            return self._limits.llm, self._limits.llm
        known = self._model(model)
        slots = self._tuning(model, known).slots
        return min(slots, known.capacity or slots), known.capacity or slots

    @property
    def slot_each(self) -> bool:
        """Whether the engine has a slot for each request in flight: then one that ended leaves its prompt to the next."""
        model = self._state.beat.model
        return model is not None and self.limits.llm <= self._model(model).capacity

    def _wanted(self, model: str) -> int:
        known = self._model(model)
        slots = self._tuning(model, known).slots
        return slots + self._reserve(slots, known)

    def _reserve(self, slots: int, known: TunedModel) -> int:
        """None for prefix groups: what waits in the engine would get a slot that holds another group's prompt."""
        return 0 if self._fixed or self._flights.grouped else reserve(slots, known.capacity)

    @property
    def _fixed(self) -> int:
        slots = self._settings.llm.slots
        if isinstance(slots, int):
            return slots
        return self._load_slots.fixed if self._load_slots is not None else 1

    # -- what it learns ----------------------------------------------------------------------------------------------

    def begin_tick(self) -> None:
        """Time has passed, with as many in flight as had begun and not ended."""
        self._flights.tick(monotonic())

    def loaded(self, model: str, slots: int, why: str) -> None:
        """The model was loaded for so many requests at once (0: the engine does not say)."""
        known = self._model(model)
        known.why = why or known.why
        if slots == known.capacity:
            return
        known.capacity = slots
        now_s = monotonic()
        for length, tuning in known.tunings.items():
            known.tunings[length] = slot_tuning.limited(tuning, self._limit(known), now_s)
        self._publish(model, known)

    def began(self, run: Run) -> None:
        """An attempt has begun."""
        if run.claim.task.task_class is TaskClass.LLM:
            self._flights.began(id(run), grouped=bool(run.claim.group))

    def ended(self, run: Run) -> None:
        """An attempt has ended: a request that was answered is a sample."""
        begun = self._flights.ended(id(run))
        task = run.claim.task
        if task.action == "load_llm" and task.model is not None and isinstance(run.ending, Trail):
            found = run.ending.result or {}
            if not found.get("already_loaded"):
                self.loaded(canonical_model(task.model), int(found.get("slots") or 0), str(found.get("slots_why") or ""))
                if self._load_slots is not None:
                    self._load_slots.loaded(canonical_model(task.model), int(found.get("slots") or 0))
        if task.task_class is not TaskClass.LLM or task.model is None or begun is None or self._load_slots is None:
            return
        if isinstance(run.ending, TaskFault) and run.ending.kind in _TOO_MANY and run.ending.fault in ("infra", "suspect"):
            self._too_many(canonical_model(task.model), run)
        if not isinstance(run.ending, Trail) or not run.proves_server or run.elapsed_s <= 0:
            return
        if (run.ending.result or {}).get("packed"):
            return  # its time is that of all that travelled with it
        tokens_in, tokens_out = _tokens(run.ending.result or {})
        model = canonical_model(task.model)
        known = self._model(model)
        counted = tokens_out or tokens_in or run.pieces  # a server may count none: then the pieces of its answers
        known.add(tokens_in + tokens_out, counted, run.elapsed_s)
        self._change_length(model, known)
        before = self._tuning(model, known)
        extra = self._reserve(before.slots, known)
        in_flight = self._flights.beside(begun) - extra
        rate = counted / run.elapsed_s * (before.slots + extra) / before.slots
        if self._fixed:
            after = slot_tuning.measured(before, in_flight, rate)
        else:
            after = slot_tuning.sampled(before, in_flight, rate, began_s=run.started_s, now_s=self._flights.now_s)
        self._moved(model, known, before, after)

    def _too_many(self, model: str, run: Run) -> None:
        """Memory ran out under what was in flight: fewer from now on. Those that failed with it tell nothing new."""
        known = self._model(model)
        before = self._tuning(model, known)
        if self._fixed or run.started_s < before.since_s:
            return
        after = slot_tuning.out_of_memory(before, min(before.slots, max(self._flights.before, 1)), self._flights.now_s)
        self._log.warning(
            "Memory ran out under %d requests to %s: at most %d at once", self._flights.before, model, after.limit
        )
        self._moved(model, known, before, after)

    def saw(self, model: str, slots: int) -> None:
        """The server lists it as loaded for so many; what its load said is more exact."""
        if slots and not self._model(model).capacity:
            self.loaded(model, slots, "")

    def end_tick(self, waiting: Callable[[], int]) -> int:
        """Returns for how many slots the model is to be loaded anew, because that pays; mostly 0."""
        model = self._state.beat.model
        if model is None or self._load_slots is None:
            return 0
        known = self._model(model)
        enough = self._take_out_pause(model, known)
        tuning = self._tuning(model, known)
        due_s = slot_tuning.overdue_s(tuning, known.counted) if known.seen and enough else None
        if due_s is not None and self._flights.now_s > due_s:
            self._moved(model, known, tuning, slot_tuning.overdue(tuning, self._flights.now_s))
        if self._flights.now_s >= self._publish_s and (known.seen or model not in self._state.beat.tuned):
            self._publish(model, known)
        return self._climb(model, known, waiting)

    def _take_out_pause(self, model: str, known: TunedModel) -> bool:
        """Whether enough requests are in flight to tell anything; a time in which there were not is taken out at its end."""
        tuning, now_s = self._tuning(model, known), self._flights.now_s
        if len(self._flights) < (1 - slot_tuning.NEAR) * tuning.slots:
            known.few_since_s = now_s if known.few_since_s is None else known.few_since_s
            return False
        since_s, known.few_since_s = known.few_since_s, None
        if since_s is not None and (for_s := now_s - max(since_s, tuning.look_s)) > PAUSE_S:
            known.tunings[known.length or "medium"] = slot_tuning.paused(tuning, for_s)
        return True

    def _climb(self, model: str, known: TunedModel, waiting: Callable[[], int]) -> int:
        tuning = self._tuning(model, known)
        gain = tuning.wants_more
        if self._fixed or not (known.capacity and tuning.settled and gain) or self._flights.now_s < self._climb_look_s:
            return 0
        if self._load_slots is None or self._load_slots.is_climbing(model) or tuning.limit < self._limit(known):
            return 0
        self._climb_look_s = self._flights.now_s + CLIMB_LOOK_S
        tally = self._state.beat.models.get(model)
        load_s = tally.load_s / tally.loads if tally is not None and tally.loads else known.request_s
        saved_s = reload_gain_s(
            waiting=waiting(), tokens=known.counted, tokens_per_s=tuning.tokens_per_s, gain=gain, capacity=known.capacity
        )
        if not reload_pays(saved_s, load_s=load_s, request_s=known.request_s):
            return 0
        slots = self._load_slots.climb(model, 2 * known.capacity, loaded=known.capacity)
        if slots <= known.capacity:
            return 0
        found = words(tuning)
        self._log.info(
            "Loading %s anew for %d slots: %s; that saves about %.0f s of what waits", model, slots, found, saved_s
        )
        return slots

    # -- inside ------------------------------------------------------------------------------------------------------

    def _model(self, model: str) -> TunedModel:
        if model not in self._models:
            latest = [
                one for one in self._records() if self._load_slots and self._load_slots.is_of(one, model) and one.in_flight
            ]
            self._models[model] = TunedModel(length=latest[-1].length if latest else "")
        return self._models[model]

    def _records(self) -> Sequence[SlotRecord]:
        return self._load_slots.memory.records if self._load_slots is not None else ()

    def _limit(self, known: TunedModel) -> int:
        most = self._settings.llm.slots_max
        return min(most, known.capacity) if known.capacity else most

    def _tuning(self, model: str, known: TunedModel) -> Tuning:
        length = known.length or "medium"
        if length not in known.tunings:
            known.tunings[length] = self._first(model, known, length)
        return known.tunings[length]

    def _first(self, model: str, known: TunedModel, length: str) -> Tuning:
        if self._fixed:
            return slot_tuning.start(self._fixed, first=self._fixed, now_s=self._flights.now_s)
        found = self._record(model, length)
        if found is not None and found.in_flight:
            return slot_tuning.remembered(self._limit(known), found.in_flight, found.tokens_per_s, now_s=self._flights.now_s)
        others = [tuning.best for tuning in known.tunings.values()]
        first = others[-1] if others else slot_tuning.FIRST if known.capacity else CAUTIOUS
        return slot_tuning.start(self._limit(known), first=first, now_s=self._flights.now_s)

    def _record(self, model: str, length: str) -> SlotRecord | None:
        return record_of(self._records(), self._empty(model, length))

    def _empty(self, model: str, length: str) -> SlotRecord:
        assert self._load_slots is not None
        tally = self._state.beat.models.get(model)
        return self._load_slots.record(model, digest=tally.digest if tally is not None else "", length=length)

    def _change_length(self, model: str, known: TunedModel) -> None:
        length = length_class(known.tokens, known.length)
        if length == known.length:
            return
        if not known.length:  # the first request tells which it is
            first = known.tunings.pop("medium", None)
            if first is not None and self._record(model, length) is None:
                known.tunings[length] = first
        known.length = length

    def _moved(self, model: str, known: TunedModel, before: Tuning, after: Tuning) -> None:
        known.tunings[known.length or "medium"] = after
        if after.slots != before.slots or after.best != before.best:
            self._log.info("Slots of %s: %d, %s", model, after.slots, words(after))
            self._publish_s = 0.0
        if after.settled and not before.settled:
            self._remember(model, known, after)

    def _remember(self, model: str, known: TunedModel, tuning: Tuning) -> None:
        if self._load_slots is None:
            return
        before = self._record(model, known.length) or self._empty(model, known.length)
        top = (before.top_tokens_per_s, before.top_in_flight)
        top = max(top, (round(tuning.best_tokens_per_s, 3), tuning.best))
        self._load_slots.memory.keep(
            msgspec.structs.replace(
                before,
                digest=self._empty(model, known.length).digest,
                length=known.length,
                in_flight=tuning.best,
                tokens_per_s=round(tuning.best_tokens_per_s, 3),
                capacity=known.capacity,
                top_tokens_per_s=top[0],
                top_in_flight=top[1],
            )
        )

    def _publish(self, model: str, known: TunedModel) -> None:
        if (slots := self._load_slots) is None:
            return
        self._publish_s = self._flights.now_s + PUBLISH_S
        tuning = self._tuning(model, known)
        found = self._record(model, known.length or "medium")
        best, best_in_flight = max(
            (tuning.best_tokens_per_s, tuning.best),
            (found.top_tokens_per_s, found.top_in_flight) if found is not None else (0.0, 0),
        )
        why = words(tuning)
        if self._fixed:
            why = f"{why}; set in the configuration"
        elif known.capacity and tuning.best >= self._limit(known):
            failed = min((one.failed for one in self._records() if one.failed and slots.is_of(one, model)), default=0)
            because = f"{failed} found no memory" if failed else known.why
            why = f"{why}; loaded for {known.capacity}: {because}" if because else why
        tuned = TunedSlots(
            engine=slots.engine(model),
            in_flight=self._wanted(model),
            capacity=known.capacity,
            tokens_per_s=round(tuning.tokens_per_s, 3),
            best_tokens_per_s=round(best, 3),
            best_in_flight=best_in_flight if best else 0,
            settled=tuning.settled,
            why=why,
            history=tuning.history[-HISTORY:],
        )
        if self._state.beat.tuned.get(model) != tuned:
            self._state.publish(tuned={**self._state.beat.tuned, model: tuned})


def _tokens(result: dict[str, Any]) -> tuple[int, int]:
    usage = result.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
