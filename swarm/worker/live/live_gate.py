"""Lets live requests in beside batch work, at once: no queue and no turn of the work loop lies before them.

* The event loop decides by the terms that the work loop stated last, starts the run, and stops the batch requests that give
  way; the work loop adopts the run in its next tick. Both sides hold the lock, for microseconds.
* ``shut`` bars the way before anything begins that no live request may run beside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.live.live_request import Refusal
from swarm.core.live.places import (
    BatchRequest,
    LiveUse,
    advanced,
    batch_slots,
    entered,
    fresh_use,
    giving_way,
    left,
    place_limit,
    surplus,
)
from swarm.core.policy.slots import SlotLimits
from swarm.core.task import Claim, Task, TaskClass, canonical_model
from swarm.core.worker import LivePlaces
from swarm.worker.attempt import Run
from swarm.worker.slots import Slots


class LiveTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What the work loop says of itself to those who come."""

    model: str | None = None
    """Canonical name of the model that is loaded."""
    slots: int = 0
    """Requests that are kept in flight to it, beyond which it would not answer more in the same time."""
    room: int = 0
    """Requests at once that the engine works on; what comes on top waits inside it."""
    refusal: Refusal | None = None
    """Nobody is let in, whatever they want."""
    passing: Refusal | None = None
    """The same, but for a moment only: the places remain on offer."""


FLUSH_S = 5.0
"""At its end a worker waits so long for answers to be taken."""
STARTING = LiveTerms(refusal=Refusal("unready", "the worker is starting"))


class LiveGate:
    """``enter``, ``ended`` and ``wake`` are for the event loop, all others for the work loop."""

    def __init__(self, slots: Slots, share: float, wake: Callable[[], None]) -> None:
        """``share`` of the slots that live requests may take from batch work; ``wake`` wakes the work loop."""
        self.open = False
        """Whether there is a socket on which requests can come."""
        self.answering = 0
        """Requests whose answers are being sent; their runs may have ended."""
        self.yielded = 0
        """Batch requests that were stopped for live ones in this life."""
        self.wake = wake
        self._slots = slots
        self._share = share
        self._lock = threading.Lock()
        self._terms = STARTING
        self._use = fresh_use(monotonic(), slots=0, share=share)
        self._live: dict[str, Run] = {}
        """Live requests in flight, by id."""
        self._arrived: list[Run] = []
        self._sending_s: float | None = None

    # -- on the event loop -------------------------------------------------------------------------------------------

    def enter(self, task: Task, limit_s: float) -> Run | Refusal:
        """Give a live request a place: its run has begun, and whoever calls this runs it and then calls ``ended``.

        Raises ``TaskFault`` (deterministic) for an id that another request has here.
        """
        with self._lock:
            known = (*self._arrived, *self._slots.runs, *self._live.values())
            if any(run.claim.task.task_id == task.task_id for run in known):
                raise TaskFault("deterministic", "bad_request", f"a request with the id {task.task_id} is here already")
            refusal = self._refusal(task)
            if refusal is not None:
                return refusal
            self._advance()
            batch = self._batch()
            shown = [_as_batch(run) for run in batch]
            room = self._terms.room
            stopped = giving_way(shown, live=len(self._live), room=room, credit_s=self._use.credit_s)
            if stopped is None:
                return Refusal("busy", "batch work has given way for its whole share already")
            self._use = entered(self._use, sum(shown[index].age_s for index in stopped))
            run = Run(Claim(task=task, attempt=1, worker="", path="", body_size=0), limit_s=limit_s, live=True)
            run.begin()
            self._live[task.task_id] = run
            self._arrived.append(run)
            self._stop([batch[index] for index in stopped])
        return run

    def ended(self, run: Run) -> None:
        """A run that was let in has ended: its place is kept for the next."""
        with self._lock:
            self._advance()
            self._live.pop(run.claim.task.task_id, None)
            self._use = left(self._use, self._use.at_s)
        self._slots.has_ended(run)

    def _refusal(self, task: Task) -> Refusal | None:
        terms, model = self._terms, canonical_model(task.model or "")
        limit = place_limit(terms.slots, self._share)
        if (refusal := terms.refusal or terms.passing) is not None:
            return refusal
        if model != terms.model:
            return Refusal("model_not_loaded", f"{model} is not loaded here; loaded is {terms.model or 'none'}")
        if len(self._live) >= limit:
            return Refusal("busy", f"{limit} live request{'s' if limit > 1 else ''} at once, and no place is free")
        return None

    # -- on the work loop --------------------------------------------------------------------------------------------

    def shut(self, refusal: Refusal) -> None:
        """Let nobody in until the next ``state``."""
        with self._lock:
            self._terms = msgspec.structs.replace(self._terms, passing=refusal)

    def state(self, terms: LiveTerms) -> LivePlaces:
        """Let in by these terms from now on; what is to be published of it."""
        with self._lock:
            self._advance()
            if (terms.model, terms.slots) != (self._terms.model, self._terms.slots):
                self._renew(terms)
            self._terms = terms
            limit = place_limit(terms.slots, self._share) if terms.refusal is None and terms.model is not None else 0
            return LivePlaces(limit=limit, in_flight=len(self._live), kept=self._use.kept, yielded=self.yielded)

    def adopt(self) -> list[Run]:
        """The runs that have come since; each has a slot from now on."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for run in arrived:
            self._slots.adopt(run)
        return arrived

    def make_room(self) -> None:
        """Stop what began in the slot that a live request was about to have."""
        with self._lock:
            batch = self._batch()
            shown = [_as_batch(run) for run in batch]
            stopped = surplus(shown, live=len(self._live), room=self._terms.room)
            self._stop([batch[index] for index in stopped])

    def make_way(self, load: Task) -> None:
        """Stop the batch requests that this load would wait for."""
        model = canonical_model(load.model or "")
        others = [run for run in self._slots.runs if run.claim.task.task_class is TaskClass.LLM and not run.own]
        with self._lock:
            self._stop([run for run in others if canonical_model(run.claim.task.model or "") != model])

    @property
    def draining(self) -> bool:
        """The worker is about to end."""
        refusal = self._terms.refusal
        return refusal is not None and refusal.kind == "draining"

    @property
    def all_sent(self) -> bool:
        """No answer is being sent, or its client has not taken it for too long."""
        if not self.answering:
            self._sending_s = None
        elif self._sending_s is None:
            self._sending_s = monotonic()
        return self._sending_s is None or monotonic() - self._sending_s > FLUSH_S

    @property
    def active(self) -> bool:
        """Live requests are here, or were a moment ago."""
        with self._lock:
            self._advance()
            return self._use.active

    def left_for_batches(self, limits: SlotLimits) -> SlotLimits:
        """How many tasks may be held, live requests included."""
        with self._lock:
            self._advance()
            slots = batch_slots(limits.llm, self._use, room=self._terms.room)
        return limits if slots == limits.llm else msgspec.structs.replace(limits, llm=slots)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        self._use = advanced(self._use, monotonic(), slots=self._terms.slots, share=self._share)

    def _renew(self, terms: LiveTerms) -> None:
        """Another model, or another number of slots: places that were kept are no more; what credit is left stays."""
        full = fresh_use(self._use.at_s, slots=terms.slots, share=self._share)
        before = self._use
        credit_s = full.credit_s if self._terms.slots == 0 else min(before.credit_s, full.credit_s)
        kept = before.kept_until_s if terms.model == self._terms.model else ()
        limit = max(0, place_limit(terms.slots, self._share) - before.in_flight)
        kept = kept[len(kept) - min(limit, len(kept)) :]
        self._use = LiveUse(at_s=before.at_s, credit_s=credit_s, in_flight=before.in_flight, kept_until_s=kept)

    def _batch(self) -> list[Run]:
        """The batch requests that take up a slot of the engine each."""
        return [run for run in self._slots.runs if not run.own and run.takes_engine_slot]

    def _stop(self, runs: list[Run]) -> None:
        stopped = [run for run in runs if run.cancel.reason is None and run.ending is None]
        for run in stopped:
            self._slots.stop(run, "yielded")
        self.yielded += len(stopped)


def _as_batch(run: Run) -> BatchRequest:
    return BatchRequest(max(0.0, monotonic() - run.started_s), alone=run.alone)
