"""The worker: claims tasks by preference, runs each in a slot, puts the outcome on record.

One turn, in order: obey wishes to stop, learn from attempts that ended, hear what the server says, stop what is overdue or
unwanted, put on record what ended and claim for every slot that is free then, start it, publish how it is. The loop's
thread owns all state; attempts and looks at the server run on pool threads and come back through queues.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core.health.gpu_health import CardVerdict
from swarm.core.policy.slots import Held
from swarm.core.task import TaskClass
from swarm.core.worker import WorkerStatus
from swarm.errors import SwarmError
from swarm.runtime.loop import StopWish
from swarm.worker.attempt import Run
from swarm.worker.claiming import Claimer, StorageCare
from swarm.worker.config import WorkerConfig, WorkerPorts
from swarm.worker.heartbeat import SERVED, WorkerState, condition, served_count
from swarm.worker.inquiry import TURN_S, Inquiry
from swarm.worker.outcomes import Exchange, Settler
from swarm.worker.server_health import ServerWatch
from swarm.worker.slots import Begin, Running, ThreadPool
from swarm.worker.stats import ModelLedger

FULL_PAUSE_S = 0.2
"""Longest pause while nothing can be claimed; also how often running tasks are checked for a wish to cancel them."""
LONG_IDLE_S = 1.0
LONG_IDLE_FACTOR = 5
"""After so long without work it polls so much more seldom: the bell tells of new work at once, polls only make up for it."""
STOP_LIMIT_S = 15.0
"""How long the second wish to stop waits for attempts to end."""
BUSY_BEAT_S = 0.5
"""Changes between idle and busy are written out within this; all others at once."""

_LOOKS = 4
"""Threads for looks at the server, of which one may hang in a server that is being replaced, for a probe or a repair of it,
and for looks at the cards."""


class Worker:
    """Fits ``swarm.runtime.loop.Actor``. Whoever makes it holds the process lock of its name, and started ``beats``."""

    def __init__(self, ports: WorkerPorts, config: WorkerConfig, state: WorkerState, wish: StopWish) -> None:
        self._ports = ports
        self._config = config
        self._state = state
        self._wish = wish
        self._clock, self._log = ports.clock, ports.log
        clock, log = ports.clock, ports.log
        pool = ThreadPool(config.limits.total + _LOOKS, f"{state.name}-slot")
        wake = ports.bell.wake_self
        self._watch, self._inquiry = _watching(ports, config, pool)
        self._pool, self._verdict = pool, CardVerdict()
        self._running = Running(ports.executors, limit_s=config.limit_s, pool=pool, wake=wake, clock=clock, log=log)
        self._storage = StorageCare(clock=clock, log=log)
        self._ledger = ModelLedger(state)
        self._claimer = Claimer(
            ports.queue,
            limits=config.limits,
            state=state,
            running=self._running,
            storage=self._storage,
            clock=clock,
            log=log,
        )
        settler = Settler(
            ports.queue,
            worker=state.name,
            gpu=config.gpu,
            retry=config.retry,
            clock=clock,
            jitter=ports.jitter,
            log=log,
        )
        self._exchange = Exchange(
            ports.queue,
            claimer=self._claimer,
            settler=settler,
            running=self._running,
            ledger=self._ledger,
            storage=self._storage,
            clock=clock,
        )
        self._obeyed = 0
        self._give_up_s = float("inf")
        self._cancel_check_s = 0.0
        log.info("Worker initialized: %s on %s", state.name, config.place)

    # -- what the loop asks ----------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """For log lines."""
        return f"Worker {self._state.name}"

    @property
    def finished(self) -> bool:
        """Drained; or told twice to stop, and what ran has ended or had its time."""
        return self._obeyed > 0 and (not self._running.runs or self._clock.mono_s() >= self._give_up_s)

    def step(self) -> float:
        """One turn; returns the seconds to wait for the bell before the next."""
        self._state.turn += 1
        if self._ports.beats.failed:
            raise SwarmError("the heartbeat thread has ended; without it the worker would be taken for hung")
        before = self._outside()
        self._obey()
        self._close_ended()
        self._hear_server()
        self._hear_cards()
        self._police()
        full = self._exchange.turn(self._closed_reason, draining=self._obeyed > 0)
        self._begin_ready()
        self._publish(before)
        return self._pause_s(full=full)

    def close(self) -> None:
        """An orderly end: the last log line and the last heartbeat."""
        for run in self._running.runs:
            self._log.error("Task %s could not be put on record in time; it is left to recovery", run.claim.task.task_id)
        self._log.info("%s shutting down - completed %d tasks", self.title, self._state.tally.completed)
        self._last_beat("")

    def abandon(self) -> None:
        """After a crash: end the programs and requests that run here, settle nothing."""
        self._running.wait_for_threads(STOP_LIMIT_S)
        self._last_beat("crashed in main loop; see its log")

    # -- the parts of a turn ---------------------------------------------------------------------------------------

    def _obey(self) -> None:
        urgency = self._wish.urgency
        if urgency == self._obeyed:
            return
        runs = self._running.runs
        if self._obeyed == 0:
            self._log.info("%s received shutdown signal - finishing %d tasks", self.title, len(runs))
        if urgency > 1:
            self._log.info("%s received shutdown signal again - giving back %d tasks", self.title, len(runs))
            self._give_up_s = self._clock.mono_s() + (STOP_LIMIT_S if urgency == 2 else 0.0)
        for run in runs:
            if urgency > 1 or not run.begun:
                self._running.stop(run, "stopping")
        self._obeyed = urgency

    def _close_ended(self) -> None:
        """What an ended attempt proved holds from now on, recorded or not; with some that has to be found out first."""
        ended = self._running.ended()
        if self._inquiry is None:
            decided: list[Run] = []
        else:
            ended = [run for run in ended if not self._inquiry.takes(run, self._running.runs)]
            decided = self._inquiry.turn(self._running.runs, unwanted=self._unwanted, give_up=self._obeyed > 1)
        for run in ended:
            self._tell_watch(run)
        for run in (*ended, *decided):
            self._ledger.ended(run)
            self._exchange.ended(run)

    def _unwanted(self, run: Run) -> bool:
        return self._ports.queue.cancel_requested(run.claim)

    def _tell_watch(self, run: Run) -> None:
        if self._watch is None or not run.begun or not served_count((run,)):
            return
        if run.proves_server:
            self._watch.succeeded()
        elif run.verdict == "infra":
            self._watch.faulted()
        if run.claim.task.task_class is TaskClass.RESOURCE:
            self._watch.ask_soon()

    def _hear_server(self) -> None:
        if self._watch is None:
            return
        loading = self._running.loading
        reading = self._watch.turn(loading=loading)
        if reading is None or loading or not reading.usable:
            return
        before = self._state.model
        self._ledger.saw(reading)
        if reading.model is None and before is not None:
            self._log.warning("Model %s is no longer loaded%s", before, f": {reading.reason}" if reading.reason else "")
        elif reading.model != before:
            self._log.info("Model loaded: %s", reading.model)

    def _hear_cards(self) -> None:
        """A hot card is left to finish what it does; what runs on a lost one is cut, for it would not end."""
        if self._ports.cards is None:
            return
        self._verdict = self._ports.cards.turn(self._pool, self._ports.bell.wake_self)
        if self._verdict.lost:
            for run in self._running.runs:
                if served_count((run,)):
                    self._running.stop(run, "card_lost")

    def _police(self) -> None:
        now_s = self._clock.mono_s()
        check = now_s >= self._cancel_check_s
        if check:
            self._cancel_check_s = now_s + FULL_PAUSE_S
        self._running.police(self._ports.queue.cancel_requested if check else None)

    def _begin_ready(self) -> None:
        begin = Begin()
        if self._inquiry is not None and self._running.waiting:
            if self._watch is not None and self._watch.unready:
                self._running.send_away_alone()  # another worker's server may be well
            alone = any(run.alone and not run.begun for run in self._running.runs)
            begin = self._inquiry.begin(alone=alone)
        for run in self._running.begin_ready(begin):
            self._ledger.begun(run.claim.task)

    def _closed_reason(self, held: Sequence[Held]) -> str:
        if self._watch is None:
            return "it has no model server"
        if self._verdict.reason:
            return self._verdict.reason
        in_flight = sum(1 for one in held if one.task.task_class in SERVED)
        closed = self._watch.closed_reason(in_flight=in_flight)
        return closed or ("" if self._inquiry is None else self._inquiry.closed_reason)

    # -- publishing ------------------------------------------------------------------------------------------------

    def _outside(self) -> tuple[WorkerStatus, str | None, int]:
        """What others act upon."""
        return self._state.status, self._state.model, self._state.resource_seq

    def _publish(self, before: tuple[WorkerStatus, str | None, int]) -> None:
        state = self._state
        state.runs = self._running.runs
        if state.runs:
            state.idle_since_s = None
        elif state.idle_since_s is None:
            state.idle_since_s = self._clock.mono_s()
        lost = self._ports.queue.lost_races
        if lost != state.tally.lost_races:
            state.count(lost_races=lost - state.tally.lost_races)
        state.status, state.reason = condition(
            state.runs,
            draining=self._obeyed > 0,
            disk_trouble=self._storage.trouble,
            watch=self._watch,
            idle_text=self._claimer.idle_text,
            card_trouble=self._verdict.reason,
        )
        after = self._outside()
        if after != before:
            flips = {before[0], after[0]} == {WorkerStatus.IDLE, WorkerStatus.BUSY} and after[1:] == before[1:]
            self._ports.beats.beat_within(BUSY_BEAT_S if flips else 0.0)

    def _pause_s(self, *, full: bool) -> float:
        longest_s = FULL_PAUSE_S if full else self._config.poll_s
        if not full and self._state.idle_s > LONG_IDLE_S:
            longest_s *= LONG_IDLE_FACTOR
        if self._storage.trouble:
            longest_s = min(longest_s, max(self._storage.wait_s, 0.01))
        asking_s = float("inf") if self._inquiry is None else self._inquiry.longest_pause_s
        if self._running.waiting and self._inquiry is not None and self._inquiry.careful:
            asking_s = min(asking_s, TURN_S)
        return max(0.0, min(longest_s, self._config.longest_pause_s, asking_s, self._running.next_deadline_s()))

    def _last_beat(self, reason: str) -> None:
        self._state.runs = self._running.runs
        self._state.status, self._state.reason = WorkerStatus.STOPPED, reason
        self._ports.beats.stop()


def _watching(ports: WorkerPorts, config: WorkerConfig, pool: ThreadPool) -> tuple[ServerWatch | None, Inquiry | None]:
    """What looks after the model server, where there is one."""
    if ports.probe is None:
        return None, None
    wake, clock, log = ports.bell.wake_self, ports.clock, ports.log
    watch = ServerWatch(ports.probe, pool=pool, wake=wake, clock=clock, log=log, trials=ports.prober is not None)
    if ports.prober is None:
        return watch, None
    limit_s = config.first_token_s
    return watch, Inquiry(ports.prober, watch, limit_s=limit_s, pool=pool, wake=wake, clock=clock, log=log)
