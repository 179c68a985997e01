"""The heartbeat: what a worker publishes of itself, and the thread that writes it.

* One writer, the work loop. The published struct is replaced whole, so the thread sees old or new values, never half.
* The thread beats on while the loop is busy or drains; a disk that refuses is logged once and does not end it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec

from swarm.clock import now_iso, parse_iso
from swarm.core.energy import EnergyMeter
from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.models.model_server import LoadedModel
from swarm.core.policy.retry import blamed_at
from swarm.core.task import Claim, Settled, Task, TaskClass, Trail, canonical_model
from swarm.core.worker import RUN_BOUNDS_S, WAIT_BOUNDS_S, Heartbeat, Histogram, ModelTally, WorkerStatus, empty
from swarm.errors import StorageFault
from swarm.runtime.logging import LogOnce
from swarm.runtime.ports import HeartbeatSink
from swarm.worker.attempt import Run
from swarm.worker.rate_samples import EnergyShares, RateSamples

MIN_GAP_S = 0.05
"""Heartbeats asked for are written at most this often."""
_FACTS = ("digest", "size_mib", "size_vram_mib", "context_length")

replace = msgspec.structs.replace


class WorkerState:
    """How the worker is: ``beat`` holds all that is published, but for what changes with the clock."""

    def __init__(self, *, name: str, pid: int, epoch: int) -> None:
        self.beat = Heartbeat(name=name, pid=pid, epoch=epoch, seq=0, turn=0, written_at="", status=WorkerStatus.STARTING)
        self.runs: tuple[Run, ...] = ()
        self.idle_since_s: float | None = monotonic()
        self._read_meter: Callable[[], EnergyMeter | None] = lambda: None
        self._read_cards: Callable[[], tuple[GpuReading, ...]] = tuple
        self.energy = EnergyShares(self._read_meter)
        self._samples = RateSamples()

    @property
    def idle_s(self) -> float:
        """Seconds without a task in any slot; 0 while there is one."""
        since_s = self.idle_since_s
        return 0.0 if since_s is None else monotonic() - since_s

    def heartbeat(self, seq: int) -> Heartbeat:
        """All of it as heartbeat number ``seq``. For one thread, whichever."""
        beat, slots = self.beat, tuple(run.view() for run in self.runs)
        return replace(
            beat,
            seq=seq,
            written_at=now_iso(),
            idle_s=round(self.idle_s, 3),
            slots=slots,
            recent=self._samples.with_now(beat, slots, self._read_meter()),
            cards=self._read_cards(),
        )

    def meter_by(self, read_meter: Callable[[], EnergyMeter | None]) -> None:
        """Tell energy by this: the joules of its cards so far, None while unknown; called from any thread."""
        self._read_meter = read_meter
        self.energy = EnergyShares(read_meter)

    def cards_by(self, read: Callable[[], tuple[GpuReading, ...]]) -> None:
        """Tell the readings of its cards in another machine by this; called from any thread."""
        self._read_cards = read

    def publish(self, **fields: Any) -> None:  # noqa: ANN401 - fields of Heartbeat
        """Replace fields of ``beat``."""
        self.beat = replace(self.beat, **fields)

    def hold(self, runs: tuple[Run, ...]) -> None:
        """Record the tasks in the slots now."""
        self.runs = runs
        if runs:
            self.idle_since_s = None
        elif self.idle_since_s is None:
            self.idle_since_s = monotonic()

    def count(self, **more: int) -> None:
        """Add to the counters of the tally, by their names."""
        tally = self.beat.tally
        self.publish(tally=replace(tally, **{name: getattr(tally, name) + n for name, n in more.items()}))

    # -- what tasks teach ------------------------------------------------------------------------------------------

    def claimed(self, claim: Claim) -> None:
        """A task was claimed. Only its first attempt tells how long it waited for a worker."""
        if claim.attempt != 1 or claim.attempts or not claim.task.created_at:
            return
        try:
            waited_s = parse_iso(now_iso()) - parse_iso(claim.task.created_at)
        except ValueError:  # a drop-in may carry any text there
            return
        self.publish(waits=_with_one(self.beat.waits, claim.task.task_class, waited_s, WAIT_BOUNDS_S))

    def begun(self, task: Task) -> None:
        """A resource task starts: a model that is about to be replaced or removed no longer counts as loaded."""
        if task.task_class is not TaskClass.RESOURCE:
            return
        same = task.model is not None and canonical_model(task.model) == self.beat.model
        if same != (task.action == "load_llm"):
            self.publish(model=None)

    def ended(self, run: Run) -> None:
        """An attempt ended; what it proved holds from now on, recorded or not."""
        task = run.claim.task
        if not isinstance(run.ending, Trail) or task.model is None:
            return
        model = canonical_model(task.model)
        if task.action == "load_llm":
            self.publish(model=model)
            self._loaded(model, run.ending.result or {})
        elif task.action == "unload_llm" and self.beat.model == model:
            self.publish(model=None)

    def saw(
        self, loaded: LoadedModel | None, refused: dict[str, str], servable: tuple[str, ...] = (), version: str = ""
    ) -> None:
        """Record the server's answer: it decides which model counts as loaded."""
        name = None if loaded is None else loaded.name
        self.publish(model=name, refused=refused, servable=servable, server_version=version)
        if loaded is not None:
            self._learn(loaded.name, **{name: getattr(loaded, name) for name in _FACTS})

    def digest(self, run: Run) -> str | None:
        """Digest of the model an attempt used, where known."""
        model = run.claim.task.model
        return None if model is None else self._tally(canonical_model(model)).digest or None

    def settled(self, run: Run, outcome: Settled) -> None:
        """The outcome is on record, or the claim was lost."""
        task = run.claim.task
        if run.begun:
            self.publish(runs=_with_one(self.beat.runs, task.task_class, run.elapsed_s, RUN_BOUNDS_S))
        if task.task_class is TaskClass.RESOURCE:  # counted with its model, as a load; it is no task of anybody's
            if outcome == "fenced":
                self.count(fenced=1)
            if outcome not in ("retried", "released"):
                self.publish(resource_seq=self.beat.resource_seq + 1)
        elif outcome in ("completed", "failed", "retried", "released", "fenced"):
            self.count(**{outcome: 1})
        if task.action == "load_llm" and task.model is not None and outcome == "failed":
            self._load_failed(canonical_model(task.model), run)
        if outcome == "completed":
            for worker in blamed_at(run.claim.attempts, run.claim.attempt):
                cleared = self.beat.cleared
                self.publish(cleared={**cleared, worker: cleared.get(worker, 0) + 1})
        if task.task_class is TaskClass.LLM and task.model is not None:
            self._count_request(canonical_model(task.model), run, outcome)

    def answered_live(self, run: Run) -> None:
        """A live request has ended: its tokens count, as the card's rate is made of them; it is no task of anybody's."""
        if run.claim.task.model is None or not isinstance(run.ending, Trail):
            return
        model = canonical_model(run.claim.task.model)
        tokens_in, tokens_out = _tokens(run.ending.result or {})
        tally = self._tally(model)
        self.count(tokens_in=tokens_in, tokens_out=tokens_out)
        self._learn(model, tokens_in=tally.tokens_in + tokens_in, tokens_out=tally.tokens_out + tokens_out)

    def _count_request(self, model: str, run: Run, outcome: Settled) -> None:
        tally = self._tally(model)
        result = run.ending.result or {} if isinstance(run.ending, Trail) else {}
        busy_s = tally.busy_s + run.elapsed_s / (result.get("packed") or 1)
        if outcome == "completed" and isinstance(run.ending, Trail):
            tokens_in, tokens_out = (0, 0) if run.ending.cached else _tokens(run.ending.result or {})
            self.count(tokens_in=tokens_in, tokens_out=tokens_out)
            self._learn(
                model,
                completed=tally.completed + 1,
                busy_s=busy_s,
                tokens_in=tally.tokens_in + tokens_in,
                tokens_out=tally.tokens_out + tokens_out,
            )
        elif outcome == "failed":
            self._learn(model, failed=tally.failed + 1, busy_s=busy_s)

    def _load_failed(self, model: str, run: Run) -> None:
        """Why matters: what found no room here will find none on another card of this size either."""
        found = run.ending.result or {} if isinstance(run.ending, TaskFault) else {}
        facts: dict[str, Any] = {name: found[name] for name in _FACTS if name in found}
        missing = isinstance(run.ending, TaskFault) and run.ending.kind == "model_missing"
        failures = self._tally(model).load_failures + 1
        self._learn(model, **facts, no_room=bool(found.get("no_room")), load_failures=failures, missing=missing)

    def _loaded(self, model: str, result: dict[str, Any]) -> None:
        facts: dict[str, Any] = {name: result[name] for name in _FACTS if name in result}
        facts |= {"load_failures": 0, "no_room": False, "missing": False}
        if not result.get("already_loaded"):
            known = self._tally(model)
            facts |= {"loads": known.loads + 1, "load_s": known.load_s + float(result.get("load_s") or 0.0)}
        self._learn(model, **facts)

    def _tally(self, model: str) -> ModelTally:
        return self.beat.models.get(model) or ModelTally()

    def _learn(self, model: str, **facts: str | float) -> None:
        self.publish(models={**self.beat.models, model: replace(self._tally(model), **facts)})


def _tokens(result: dict[str, Any]) -> tuple[int, int]:
    usage = result.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def _with_one(
    known: dict[str, Histogram], task_class: TaskClass, seconds: float, bounds_s: tuple[float, ...]
) -> dict[str, Histogram]:
    name = str(task_class)
    return {**known, name: (known.get(name) or empty(bounds_s)).with_one(seconds)}


class HeartbeatThread:
    """Writes a heartbeat every ``period_s``, and soon when asked. Goes on while a drain lasts, until ``stop``."""

    def __init__(
        self,
        *,
        beat_of: Callable[[int], Heartbeat],
        sink: HeartbeatSink,
        period_s: float,
        log: logging.Logger,
    ) -> None:
        self.failed = False
        """The thread ended by an unexpected exception; whoever relies on it should end too."""
        self._log = log
        self._troubles = LogOnce(log)
        self._beat_of = beat_of
        self._sink = sink
        self._period_s = period_s
        self._changed = threading.Condition()
        self._due_s = monotonic()
        self._stopping = False
        self._seq = 0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write a heartbeat at once, then regularly."""
        self._thread.start()

    def beat_within(self, within_s: float) -> None:
        """Write the next one within so many seconds (but not sooner than ``MIN_GAP_S`` after the last)."""
        with self._changed:
            due_s = monotonic() + within_s
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
            while not self._stopping and (left_s := self._due_s - monotonic()) > 0:
                self._changed.wait(left_s)
            self._due_s = monotonic() + self._period_s
            return self._stopping

    def _beat(self) -> None:
        self._seq += 1
        began_s = monotonic()
        heartbeat = self._beat_of(self._seq)
        try:
            self._sink.beat(heartbeat)
        except (StorageFault, OSError) as fault:
            line = f"Heartbeats cannot be written: {fault}; the worker goes on without"
            self._troubles.failing("heartbeat", line)
        else:
            self._troubles.working("heartbeat", "Heartbeats are written again")
            self._log.debug("Heartbeat sent - status: %s, idle: %.0fs", heartbeat.status, heartbeat.idle_s)
        with self._changed:
            left_s = MIN_GAP_S - (monotonic() - began_s)
            if left_s > 0:
                self._changed.wait_for(lambda: self._stopping, left_s)
