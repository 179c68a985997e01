"""The worker: claims tasks by preference, runs each in a slot, puts the outcome on record.

* The loop's thread owns all state; attempts and looks at the server run on pool threads and come back through queues.
* Three parts: ``Slots`` runs attempts, ``ServerHealth`` says whether the server may be used, ``Exchange`` is the way to the
  queue. What others see of it is ``WorkerState``.
"""

from __future__ import annotations

from time import monotonic

from swarm.core.faults import TaskFault
from swarm.core.lanes import llm_lane
from swarm.core.policy.slots import slot_limits
from swarm.core.task import Claim, Task, TaskClass, Trail, canonical_model
from swarm.core.worker import WorkerStatus
from swarm.errors import StorageFault, SwarmError
from swarm.runtime.loop import StopWish
from swarm.worker.attempt import Released, Run, ThreadPool
from swarm.worker.exchange import Exchange
from swarm.worker.heartbeat import WorkerState
from swarm.worker.live.live_gate import LiveGate
from swarm.worker.live.live_terms import SHUT, live_terms, stands_in_the_way
from swarm.worker.parts import WorkerParts
from swarm.worker.server_health import ServerHealth
from swarm.worker.slots import Slots
from swarm.worker.tuning.slot_tuner import SlotTuner

FULL_PAUSE_S = 0.2
"""Longest pause while nothing can be claimed."""
LONG_IDLE_S = 1.0
LONG_IDLE_FACTOR = 5
"""After so long without work it polls so much more seldom: a wake-up tells of new work, polls only make up for lost ones."""
STOP_LIMIT_S = 15.0
"""How long the second wish to stop waits for attempts to end."""
BUSY_BEAT_S = 0.5
"""Changes between idle and busy are written out within this; all others at once."""

_LOOKS = 4
"""Threads for looks at the server, of which one may hang in a server that is being replaced, for a probe or a repair of it,
and for looks at the cards."""


class Worker:
    """Fits ``swarm.runtime.loop.Actor``. Whoever makes it holds the process lock of its name, and started ``beats``."""

    def __init__(self, parts: WorkerParts, state: WorkerState, wish: StopWish) -> None:
        self._parts = parts
        self._state = state
        self._wish = wish
        self._log = parts.log
        self._name = state.beat.name
        total = slot_limits(parts.settings.worker, parts.settings.llm).total
        pool = ThreadPool(total + _LOOKS, f"{self._name}-slot", parts.wake)
        self.slots = Slots(parts, pool)
        self.server = ServerHealth(parts, pool)
        self._tuner = SlotTuner(parts, state)
        self.live = None if parts.probe is None else LiveGate(self.slots, parts.settings.live.share, parts.wake)
        """Where live requests come in; None for a worker without a model server."""
        self._exchange = Exchange(parts, state, self.slots, self._tuner, self.live)
        self._reloads = 0
        self._obeyed = 0
        self._give_up_s = float("inf")
        self._outside: tuple[WorkerStatus, str | None, int, int] = (state.beat.status, None, 0, 0)
        """What others act upon, as it was published last."""
        if parts.cards is not None:
            state.meter_by(parts.cards.meter)
        self._log.info("Worker initialized: %s on %s", self._name, parts.place)

    # -- what the loop asks ----------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """For log lines."""
        return f"Worker {self._name}"

    @property
    def finished(self) -> bool:
        """Drained; or asked twice to stop, and what ran has ended or had its time."""
        if self._obeyed == 0 or monotonic() >= self._give_up_s:
            return self._obeyed > 0
        return not self.slots.runs and (self.live is None or self.live.all_sent)

    def step(self) -> float:
        """One tick; returns the seconds to wait for a wake-up before the next."""
        if self._parts.beats.failed:
            raise SwarmError("the heartbeat thread has ended; without it the worker would look hung")
        self._obey_stop()
        self._close_ended()
        self._look_at_server()
        self._check_cards()
        self.slots.stop_overdue()
        full = self._exchange.tick(self.server.closed_reason, draining=self._obeyed > 0)
        self._begin_ready()
        self._tune()
        self._publish()
        return self._pause_s(full=full)

    def close(self) -> None:
        """An orderly end: the last log line and the last heartbeat."""
        for run in (one for one in self.slots.runs if not one.own):
            self._log.error("Task %s could not be recorded in time; it is left to recovery", run.claim.task.task_id)
        self._log.info("%s shutting down - completed %d tasks", self.title, self._state.beat.tally.completed)
        self._last_beat("")

    def abandon(self) -> None:
        """After a crash: end the programs and requests that run here, settle nothing."""
        self._adopt_live(shut=True)
        self.slots.stop_all(STOP_LIMIT_S)
        self._last_beat("crashed in main loop; see its log")

    # -- the parts of a tick ---------------------------------------------------------------------------------------

    def _obey_stop(self) -> None:
        urgency = self._wish.urgency
        if urgency == self._obeyed:
            return
        self._adopt_live(shut=True)
        runs = self.slots.runs
        if self._obeyed == 0:
            self._log.info("%s received shutdown signal - finishing %d tasks", self.title, len(runs))
        if urgency > 1:
            self._log.info("%s received shutdown signal again - requeueing %d tasks", self.title, len(runs))
            self._give_up_s = monotonic() + (STOP_LIMIT_S if urgency == 2 else 0.0)
        for run in runs:
            if urgency > 1 or not run.begun:
                self.slots.stop(run, "stopping")
        self._obeyed = urgency

    def _close_ended(self) -> None:
        """What an ended attempt proved holds from now on, recorded or not; with some that has to be found out first."""
        self._tuner.begin_tick()
        ended = self.slots.ended()
        self._adopt_live()  # after that: whatever has ended is known
        decided = self.server.judge(
            ended,
            self.slots.runs,
            unwanted=self._unwanted,
            give_up=self._obeyed > 1,
        )
        for run in decided:
            run.energy_j = self._state.energy.end(run)
            self._state.ended(run)
            self._tuner.ended(run)
            if run.live:
                self._live_ended(run)
            elif run.own:
                self._reloaded(run)
            else:
                self._exchange.ended(run)

    def _look_at_server(self) -> None:
        reading = self.server.look(loading=self.slots.loading)
        if reading is None:
            return
        before = self._state.beat.model
        self._state.saw(reading.loaded, reading.refused, reading.servable, reading.version)
        if reading.loaded is not None:
            self._tuner.saw(reading.loaded.name, reading.loaded.slots)
        if reading.model is None and before is not None:
            self._log.warning("Model %s is no longer loaded%s", before, f": {reading.reason}" if reading.reason else "")
        elif reading.model != before:
            self._log.info("Model loaded: %s", reading.model)

    def _check_cards(self) -> None:
        """A hot card is left to finish what it does; what runs on a lost one is cut, for it would not end."""
        if self.server.check_cards().lost:
            for run in self.slots.runs:
                if run.uses_server:
                    self.slots.stop(run, "card_lost")

    def _begin_ready(self) -> None:
        waiting = self.slots.waiting
        if not waiting:
            return
        if self.live is not None:
            for run in waiting:
                if stands_in_the_way(run):
                    self.live.make_way(run.claim.task)
            if any(run.alone or run.claim.task.task_class is TaskClass.RESOURCE for run in waiting):
                self._adopt_live(shut=True)
        if self.server.unready:
            for run in waiting:
                if run.alone:
                    self.slots.stop(run, "stopping")  # another worker's server may be well
        for run in self.slots.begin_ready(self.server.start_rules(waiting)):
            self._state.begun(run.claim.task)
            self._tuner.began(run)
            if run.claim.task.task_class is TaskClass.LLM:
                self._state.energy.begin(run)
        if self.live is not None:
            self.live.make_room()

    def _adopt_live(self, *, shut: bool = False) -> None:
        """Take over the live requests that have come; ``shut``: no more come until the end of this tick."""
        if self.live is None:
            return
        if shut:
            self.live.shut(SHUT)
        arrived = self.live.adopt()
        for run in arrived:
            self._tuner.began(run)
            self._state.energy.begin(run)
        if arrived:
            for run in self.slots.waiting:
                if run.own:  # a load for more slots would wait for them, and they for it
                    self.slots.stop(run, "stopping")

    def _live_ended(self, run: Run) -> None:
        """What was asked and answered is nobody else's business, so only that and how long is logged."""
        self.slots.drop(run)
        self._state.answered_live(run)
        named = f"live request {run.claim.task.task_id}"
        match run.ending:
            case Trail():
                self._log.info("Answered %s in %.2fs", named, run.elapsed_s)
            case TaskFault() as fault if fault.fault != "cancelled":
                detail = f" ({fault.message[:300]})" if fault.fault == "infra" else ""
                self._log.warning("Failed %s - %s fault, %s%s", named, fault.fault, fault.kind, detail)
            case _:
                self._log.info("Cancelled %s after %.2fs", named, run.elapsed_s)

    def _tune(self) -> None:
        """Load the model anew for more requests at once where that pays."""
        slots = self._tuner.end_tick(self._waiting)
        if slots:
            self._reloads += 1
            task = Task(
                task_id=f"reload-{self._name}-{self._reloads}",
                task_class=TaskClass.RESOURCE,
                action="load_llm",
                model=self._state.beat.model,
                target_worker=self._name,
            )
            self.slots.take(Claim(task=task, attempt=1, worker=self._name, path="", body_size=0), own=True)

    def _waiting(self) -> int:
        """Requests that wait for the model that is loaded; none where it cannot be loaded anew now."""
        loads = any(run.claim.task.task_class is TaskClass.RESOURCE for run in self.slots.runs)
        if self._obeyed or loads or self.server.unready or (self.live is not None and self.live.active):
            return 0
        try:
            return self._parts.queue.waiting().get(llm_lane(self._state.beat.model or ""), 0)
        except StorageFault:  # claiming says so
            return 0

    def _unwanted(self, run: Run) -> TaskFault | Released | None:
        """How an ended attempt is to be closed whose task somebody has cancelled, or wants requeued, meanwhile."""
        if self._parts.queue.cancel_requested(run.claim):
            return TaskFault("cancelled", "cancelled", "cancelled on request")
        return Released() if self._parts.queue.requeue_requested(run.claim) else None

    def _reloaded(self, run: Run) -> None:
        self.slots.drop(run)
        if self._parts.load_slots is not None:  # it may have ended before it chose for how many
            self._parts.load_slots.withdraw(canonical_model(run.claim.task.model or ""))
        if isinstance(run.ending, TaskFault):
            self._log.warning("%s could not be loaded anew: %s", run.claim.task.model, run.ending.message)

    def _publish(self) -> None:
        """Renew the heartbeat's content; what others act upon is written out soon."""
        state, before = self._state, self._state.beat
        state.hold(self.slots.runs)
        lost_races = self._parts.queue.lost_races
        if lost_races != before.tally.lost_races:
            state.count(lost_races=lost_races - before.tally.lost_races)
        status, reason = self._condition()
        state.publish(turn=before.turn + 1, status=status, reason=reason)
        places = self._state_live_terms()
        outside = (status, state.beat.model, state.beat.resource_seq, places)
        if outside != self._outside:
            flips = outside[1:] == self._outside[1:] and {status, self._outside[0]} == {WorkerStatus.IDLE, WorkerStatus.BUSY}
            self._parts.beats.beat_within(BUSY_BEAT_S if flips else 0.0)
            self._outside = outside

    def _state_live_terms(self) -> int:
        """Say by which terms live requests are let in from now on; how many may be here at once."""
        if self.live is None:
            return 0
        model, places = self._state.beat.model, self._tuner.places
        terms = live_terms(model, places, self.slots, self.server, self._exchange.paused, stopping=self._obeyed > 0)
        shown = self.live.state(terms)
        if self.live.open:
            self._state.publish(live=shown)
        return shown.limit

    def _condition(self) -> tuple[WorkerStatus, str]:
        """The status to publish; what stands in the way of work comes before what it is busy with."""
        runs, server = self.slots.runs, self.server
        if self._obeyed:
            return WorkerStatus.DRAINING, f"stopping: {len(runs)} tasks still run"
        disk = self._exchange.disk.words
        if disk or server.cards.reason:
            return WorkerStatus.UNREADY, f"the disk refuses: {disk}" if disk else server.cards.reason
        if server.unready:
            status = WorkerStatus.STARTING if server.reading is None else WorkerStatus.UNREADY
            return status, server.refusal(in_flight=any(run.uses_server for run in runs))
        load = next((run for run in runs if run.claim.task.task_class is TaskClass.RESOURCE), None)
        if load is not None:
            what = f"{load.claim.task.action} {load.claim.task.model}"
            return WorkerStatus.LOADING, what if load.begun else f"{what}: waits for running requests to end"
        if runs:
            return WorkerStatus.BUSY, ""
        refused = "" if server.reading is None else server.reading.reason
        kept = "a place is kept for live requests" if self.live is not None and self.live.active else ""
        return WorkerStatus.IDLE, "; ".join(part for part in (kept, self._exchange.idle_text, refused) if part)

    def _pause_s(self, *, full: bool) -> float:
        settings = self._parts.settings.worker
        longest_s = FULL_PAUSE_S if full else settings.poll_s
        if not full and self._state.idle_s > LONG_IDLE_S:
            longest_s *= LONG_IDLE_FACTOR
        if self._exchange.disk.words:
            longest_s = min(longest_s, max(self._exchange.disk.wait_s, 0.01))
        asking_s = self.server.longest_pause_s(self.slots.waiting)
        unsuspicious_s = settings.heartbeat_stale_s / 2  # a worker whose ticks stand still is taken for hung
        return max(0.0, min(longest_s, unsuspicious_s, asking_s, self.slots.next_deadline_s))

    def _last_beat(self, reason: str) -> None:
        self._state.hold(self.slots.runs)
        self._state.publish(status=WorkerStatus.STOPPED, reason=reason)
        self._parts.beats.stop()
