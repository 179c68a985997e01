"""Asks the queue for the next task that suits, and says why there is none."""

from __future__ import annotations

import logging
from typing import Literal

from swarm.core.claim import Claim
from swarm.core.idling import idle_reason, suits
from swarm.core.lanes import parse_lane, preference
from swarm.core.pauses import Pause, Pauses
from swarm.core.slots import SlotLimits, free_classes
from swarm.core.task import TaskClass
from swarm.errors import StorageFault
from swarm.runtime.heartbeats import WorkerState
from swarm.runtime.ports import Clock, WorkerQueue
from swarm.runtime.running import Running
from swarm.runtime.storagecare import StorageCare

IDLE_LOOK_S = 1.0
"""Why nothing suits is worked out at most this often …"""
IDLE_LOOK_SHARE = 300.0
"""… and less often where counting is slow: it may take one part in so many of the time."""


PUT_ASIDE = 200
"""Tasks of paused batches put aside in one turn at most."""


class Claimer:
    """Owned by the work loop."""

    def __init__(
        self,
        queue: WorkerQueue,
        *,
        limits: SlotLimits,
        state: WorkerState,
        running: Running,
        storage: StorageCare,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._queue = queue
        self._limits = limits
        self._state = state
        self._running = running
        self._storage = storage
        self._clock = clock
        self._log = log
        self._look_s = 0.0
        self._idle_key = ""
        self.idle_text = ""

    def _claim(self, lanes: tuple[str, ...], pauses: Pauses) -> Claim | None:
        """A claim that may run. Tasks of a paused batch are put aside on the way, a bounded number in one go."""
        for _ in range(PUT_ASIDE):
            claim = self._queue.claim(lanes)
            if claim is None or pauses.batch(claim.task.batch_id) is None:
                return claim
            self._queue.hold(claim)
            self._log.debug("Put aside: %s (its batch %s is paused)", claim.task.task_id, claim.task.batch_id)
        return None

    def next(self, closed: str) -> Claim | Literal["full", "nothing"]:
        """The best task for a free slot; ``full``: no slot is free. ``closed``: why no work for the server is taken."""
        open_classes = free_classes(self._limits, self._running.tasks, server_open=not closed)
        free = tuple(c for c in open_classes if c in self._running.classes)
        if not free:
            return "full"
        lanes = preference(worker=self._state.name, model=self._state.model, free=free)
        try:
            pauses = self._queue.pauses()
            pause = pauses.worker(self._state.name)
            if pause is not None:
                return self._rest(pause)
            lanes = tuple(lane for lane in lanes if not _lane_paused(lane, pauses))
            claim = self._claim(lanes, pauses)
        except StorageFault as fault:
            self._storage.failed(fault, "nothing is claimed")
            return "nothing"
        self._storage.worked()
        if claim is None:
            self._note_idle(lanes, closed)
            return "nothing"
        self._idle_key = self.idle_text = ""
        self._state.count(claims=1)
        task = claim.task
        self._log.info("Claimed %s task: %s (%s)", task.task_class, task.task_id, task.name or task.custom_id or "unnamed")
        return claim

    def _rest(self, pause: Pause) -> Literal["nothing"]:
        if self._idle_key != pause.words:
            self._log.info("Paused: %s", pause.words)
        self._idle_key, self.idle_text = pause.words, f"paused: {pause.words}"
        return "nothing"

    def _note_idle(self, lanes: tuple[str, ...], closed: str) -> None:
        """INFO when the reason changes, DEBUG each time it is looked into; polls in between are silent."""
        now_s = self._clock.mono_s()
        if self._running.runs or now_s < self._look_s:
            return
        waiting = self._queue.waiting()
        took_s = self._clock.mono_s() - now_s
        self._look_s = now_s + max(IDLE_LOOK_S, took_s * IDLE_LOOK_SHARE)
        if suits(waiting, lanes):  # it came just now, or another worker is about to get it
            return
        reason = idle_reason(waiting, worker=self._state.name, model=self._state.model, closed=closed)
        self._log.log(logging.DEBUG if reason.key == self._idle_key else logging.INFO, "%s", reason.line)
        self._idle_key, self.idle_text = reason.key, reason.text


def _lane_paused(lane: str, pauses: Pauses) -> bool:
    if not pauses.pauses:
        return False
    parsed = parse_lane(lane)
    return parsed is not None and parsed[0] is TaskClass.LLM and pauses.model(parsed[1]) is not None
