"""The worker's pulse: what its loop last published, and the thread that writes it out.

How a worker is, in one status and one reason for people.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import msgspec

from swarm.core.histogram import RUN_BOUNDS_S, WAIT_BOUNDS_S, Histogram, empty
from swarm.core.task import TaskClass
from swarm.core.worker import Heartbeat, ModelTally, Tally, WorkerStatus
from swarm.errors import StorageFault
from swarm.runtime.log_once import LogOnce
from swarm.runtime.ports import Clock, HeartbeatSink
from swarm.worker.attempt import Run
from swarm.worker.server_health import ServerWatch

MIN_GAP_S = 0.05
"""Heartbeats asked for are written at most this often."""


class WorkerState:
    """How the worker is. One writer, the work loop; the heartbeat thread reads.

    Every value is replaced whole, never changed in place, so a reader on another thread sees old or new, never half.
    """

    def __init__(self, *, name: str, pid: int, epoch: int, clock: Clock) -> None:
        self.name = name
        self.pid = pid
        self.epoch = epoch
        self._clock = clock
        self.turn = 0
        self.status = WorkerStatus.STARTING
        self.reason = ""
        self.model: str | None = None
        self.resource_seq = 0
        self.runs: tuple[Run, ...] = ()
        self.tally = Tally()
        self.models: dict[str, ModelTally] = {}
        self.refused: dict[str, str] = {}
        self.cleared: dict[str, int] = {}
        self.waits: dict[str, Histogram] = {}
        self.attempts: dict[str, Histogram] = {}
        self.idle_since_s: float | None = clock.mono_s()

    @property
    def idle_s(self) -> float:
        """Seconds without a task in any slot; 0 while there is one."""
        since_s = self.idle_since_s
        return 0.0 if since_s is None else self._clock.mono_s() - since_s

    def heartbeat(self, seq: int) -> Heartbeat:
        """All of it as heartbeat number ``seq``."""
        return Heartbeat(
            name=self.name,
            pid=self.pid,
            epoch=self.epoch,
            seq=seq,
            turn=self.turn,
            written_at=self._clock.iso(),
            status=self.status,
            reason=self.reason,
            model=self.model,
            resource_seq=self.resource_seq,
            idle_s=round(self.idle_s, 3),
            slots=tuple(run.view() for run in self.runs),
            tally=self.tally,
            models=self.models,
            refused=self.refused,
            cleared=self.cleared,
            waits=self.waits,
            runs=self.attempts,
        )

    def count(self, **more: int) -> None:
        """Add to the counters of the tally, by their names."""
        self.tally = msgspec.structs.replace(self.tally, **{key: getattr(self.tally, key) + n for key, n in more.items()})

    def learn(self, model: str, tally: ModelTally) -> None:
        """Replace what is known of one model."""
        self.models = {**self.models, model: tally}

    def clear(self, worker: str) -> None:
        """A request that had broken this worker's server was answered here."""
        self.cleared = {**self.cleared, worker: self.cleared.get(worker, 0) + 1}

    def waited(self, task_class: str, seconds: float) -> None:
        """A task was claimed for the first time, so long after it had been accepted."""
        self.waits = {**self.waits, task_class: self.waits.get(task_class, empty(WAIT_BOUNDS_S)).with_one(seconds)}

    def ran(self, task_class: str, seconds: float) -> None:
        """An attempt took so long."""
        self.attempts = {**self.attempts, task_class: self.attempts.get(task_class, empty(RUN_BOUNDS_S)).with_one(seconds)}


class HeartbeatThread:
    """Writes a heartbeat every ``period_s``, and soon when asked. Goes on while a drain lasts, until ``stop``."""

    def __init__(
        self,
        *,
        beat_of: Callable[[int], Heartbeat],
        sink: HeartbeatSink,
        clock: Clock,
        period_s: float,
        log: logging.Logger,
    ) -> None:
        self.failed = False
        """The thread ended by an unexpected exception; whoever relies on it should end too."""
        self._log = log
        self._troubles = LogOnce(log)
        self._beat_of = beat_of
        self._sink = sink
        self._clock = clock
        self._period_s = period_s
        self._changed = threading.Condition()
        self._due_s = clock.mono_s()
        self._stopping = False
        self._seq = 0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once at once, then on."""
        self._thread.start()

    def beat_within(self, within_s: float) -> None:
        """Write the next one within so many seconds (but not sooner than ``MIN_GAP_S`` after the last)."""
        with self._changed:
            due_s = self._clock.mono_s() + within_s
            if due_s < self._due_s:
                self._due_s = due_s
                self._changed.notify()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Write a last one and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        last = False
        try:
            while not last:
                last = self._wait()
                self._beat()
        except Exception:  # noqa: BLE001 - a thread's end is silent otherwise; the work loop sees the flag and ends the process
            self._log.exception("the heartbeat thread crashed")
            self.failed = True

    def _wait(self) -> bool:
        """Wait until one is due; whether it is the last. Sets when the next one is due."""
        with self._changed:
            while not self._stopping and (left_s := self._due_s - self._clock.mono_s()) > 0:
                self._changed.wait(left_s)
            self._due_s = self._clock.mono_s() + self._period_s
            return self._stopping

    def _beat(self) -> None:
        self._seq += 1
        began_s = self._clock.mono_s()
        heartbeat = self._beat_of(self._seq)
        try:
            self._sink.beat(heartbeat)
        except (StorageFault, OSError) as fault:
            line = f"Heartbeats cannot be written: {fault}; a worker that cannot beat goes on working"
            self._troubles.failing("heartbeat", line)
        else:
            self._troubles.working("heartbeat", "Heartbeats are written again")
            self._log.debug("Heartbeat sent - status: %s, idle: %.0fs", heartbeat.status, heartbeat.idle_s)
        self._rest(began_s)

    def _rest(self, began_s: float) -> None:
        with self._changed:
            left_s = MIN_GAP_S - (self._clock.mono_s() - began_s)
            if left_s > 0 and not self._stopping:
                self._changed.wait_for(lambda: self._stopping, left_s)


SERVED = (TaskClass.LLM, TaskClass.RESOURCE)
"""What needs the model server."""


def served_count(runs: Sequence[Run]) -> int:
    """How many of these need the model server."""
    return sum(1 for run in runs if run.claim.task.task_class in SERVED)


def condition(
    runs: Sequence[Run],
    *,
    draining: bool,
    disk_trouble: str,
    watch: ServerWatch | None,
    idle_text: str,
    card_trouble: str = "",
) -> tuple[WorkerStatus, str]:
    """The status to publish; what stands in the way of work comes before what it is busy with."""
    if draining:
        return WorkerStatus.DRAINING, f"stopping: {len(runs)} tasks still run"
    trouble = f"the disk refuses: {disk_trouble}" if disk_trouble else card_trouble
    if trouble:
        return WorkerStatus.UNREADY, trouble
    if watch is not None and watch.unready:
        status = WorkerStatus.STARTING if watch.reading is None else WorkerStatus.UNREADY
        return status, watch.closed_reason(in_flight=served_count(runs))
    held = next((run for run in runs if run.claim.task.task_class is TaskClass.RESOURCE), None)
    if held is not None:
        what = f"{held.claim.task.action} {held.claim.task.model}"
        return WorkerStatus.LOADING, what if held.begun else f"{what}: waits for running requests to end"
    if runs:
        return WorkerStatus.BUSY, ""
    refused = "" if watch is None or watch.reading is None else watch.reading.reason
    return WorkerStatus.IDLE, "; ".join(part for part in (idle_text, refused) if part)
