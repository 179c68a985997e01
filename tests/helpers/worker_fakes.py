"""The worker's surroundings in memory: queue, wakeup, model server, and a harness that holds a worker and its parts."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from swarm.config.settings import CommandSettings, LlmSettings, RetrySettings, Settings, WorkerSettings
from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.lanes import Pauses, lane_of
from swarm.core.models.model_server import LoadedModel, LoadOrder, ModelDetails, Reply
from swarm.core.task import Attempt, Claim, Task, TaskClass, TaskState, Trail, canonical_model
from swarm.core.worker import Heartbeat
from swarm.errors import StorageFault
from swarm.runtime.loop import StopWish, run_loop
from swarm.runtime.ports import Executor, WorkerQueue
from swarm.worker.gpu_checks import CardWatch
from swarm.worker.heartbeat import HeartbeatThread, WorkerState
from swarm.worker.parts import WorkerParts
from swarm.worker.server_probe import Prober, ServerReading
from swarm.worker.worker import Worker
from tests.helpers.wait import wait_until


class MemoryWakeUp:
    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        self._event.set()

    def wake_self(self) -> None:
        self._event.set()

    def wait(self, timeout_s: float) -> bool:
        rung = self._event.wait(timeout_s)
        self._event.clear()
        return rung


class MemoryTransaction:
    """Nothing can fail in memory, so each step counts at once."""

    fault = None

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue
        self.recorded: tuple[bool, ...] = ()
        self.claims: list[Claim] = []

    def finish(self, claim: Claim, state: TaskState, trail: Trail) -> None:
        self.recorded += (self._queue.finish(claim, state, trail),)

    def claim(self, lanes: Sequence[str], *, spread: bool = False) -> Claim | None:
        claim = self._queue.claim(lanes)
        if claim is not None:
            self.claims.append(claim)
        return claim


class MemoryQueue:
    """Keeps the ordering promises of the real one: best lane first, oldest first, a claim is gone for others."""

    def __init__(self, worker: str, wakeup: MemoryWakeUp) -> None:
        self.lost_races = 0
        self.worker = worker
        self.wakeup = wakeup
        self.pending: dict[str, deque[tuple[Task, int, tuple[Attempt, ...]]]] = defaultdict(deque)
        self.held: dict[str, Claim] = {}
        self.ended: dict[str, tuple[TaskState, Trail]] = {}
        self.retries: list[tuple[str, float, bool, tuple[Attempt, ...]]] = []
        self.released: list[str] = []
        self.paused = Pauses()
        self.on_hold: list[str] = []
        self.cancel_wanted: set[str] = set()
        self.requeue_wanted: set[str] = set()
        self.others: tuple[str, ...] = ()
        self.broken = ""
        self.claim_log: list[str] = []
        self._lock = threading.Lock()

    def put(self, *tasks: Task) -> None:
        with self._lock:
            for task in tasks:
                self.pending[lane_of(task)].append((task, 0, ()))
        self.wakeup.wake()

    def take_back(self, task_id: str) -> None:
        """What recovery does: the claim's file is gone."""
        del self.held[task_id]

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        self._refuse()
        yield MemoryTransaction(self)

    def claim(self, lanes: Sequence[str]) -> Claim | None:
        with self._lock:
            for lane in lanes:
                if self.pending[lane]:
                    task, attempts, history = self.pending[lane].popleft()
                    claim = Claim(
                        task=task, attempt=attempts + 1, worker=self.worker, path="-", body_size=1, attempts=history
                    )
                    self.held[task.task_id] = claim
                    self.claim_log.append(task.task_id)
                    return claim
        return None

    def finish(self, claim: Claim, state: TaskState, trail: Trail) -> bool:
        if self.held.pop(claim.task.task_id, None) is None:
            return False
        self.ended[claim.task.task_id] = (state, trail)
        return True

    def retry(self, claim: Claim, attempts: Sequence[Attempt], *, delay_s: float, counts: bool) -> bool:
        self._refuse()
        if self.held.pop(claim.task.task_id, None) is None:
            return False
        self.retries.append((claim.task.task_id, delay_s, counts, tuple(attempts)))
        number = claim.attempt if counts else claim.attempt - 1
        self.pending[lane_of(claim.task)].append((claim.task, number, tuple(attempts)))
        return True

    def release(self, claim: Claim) -> bool:
        self._refuse()
        if self.held.pop(claim.task.task_id, None) is None:
            return False
        self.released.append(claim.task.task_id)
        return True

    def pauses(self) -> Pauses:
        return self.paused

    def hold(self, claim: Claim) -> bool:
        self.on_hold.append(claim.task.task_id)
        return self.held.pop(claim.task.task_id, None) is not None

    def waiting(self) -> Mapping[str, int]:
        with self._lock:
            return {lane: len(tasks) for lane, tasks in self.pending.items() if tasks}

    def peers(self, model: str) -> tuple[str, ...]:
        return self.others

    def cancel_requested(self, claim: Claim) -> bool:
        return claim.task.task_id in self.cancel_wanted

    def requeue_requested(self, claim: Claim) -> bool:
        return claim.task.task_id in self.requeue_wanted

    def _refuse(self) -> None:
        if self.broken:
            raise StorageFault(self.broken)


class Beats:
    """A heartbeat sink."""

    def __init__(self) -> None:
        self.all: list[Heartbeat] = []
        self.broken = ""

    def beat(self, heartbeat: Heartbeat) -> None:
        if self.broken:
            raise StorageFault(self.broken)
        self.all.append(heartbeat)

    @property
    def last(self) -> Heartbeat:
        return self.all[-1]


class Work:
    """An executor under the test's control: by default every task ends at once with its id as result."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.faults: dict[str, list[Exception]] = {}
        self.answers: dict[str, Trail] = {}
        """What a task ends with instead."""
        self.running: set[str] = set()
        self.most = 0
        self.deaf = False
        """Ignores being cancelled."""
        self._lock = threading.Lock()

    def fail(self, task_id: str, *faults: Exception) -> None:
        self.faults[task_id] = list(faults)

    def run(self, claim: Claim, *, cancel: CancelToken, progress: Progress) -> Trail:
        task_id = claim.task.task_id
        with self._lock:
            self.running.add(task_id)
            self.most = max(self.most, len(self.running))
        try:
            stopped = threading.Event()
            cancel.on_cancel(stopped.set)
            while not self.gate.wait(0.002):
                progress(1)
                if stopped.is_set() and not self.deaf:
                    raise TaskFault("infra", "cut", "the connection was cut")
            if self.faults.get(task_id):
                raise self.faults[task_id].pop(0)
            if task_id in self.answers:
                return self.answers[task_id]
            return Trail(result={"id": task_id, "usage": {"prompt_tokens": 2, "completion_tokens": 3}})
        finally:
            with self._lock:
                self.running.discard(task_id)


@dataclass
class Probe:
    """A server probe that says what the test wants."""

    reading: ServerReading = field(default_factory=lambda: ServerReading(usable=True))
    looks: int = 0
    gate: threading.Event | None = None

    def look(self) -> ServerReading:
        self.looks += 1
        if self.gate is not None:
            self.gate.wait(60)
        return self.reading


def loaded(name: str, **more: Any) -> LoadedModel:
    return LoadedModel(
        name=name, **{"digest": "d1", "size_mib": 1000, "size_vram_mib": 1000, "context_length": 4096, **more}
    )


def holds(name: str, **more: Any) -> ServerReading:
    """What a probe says of a server that holds this model."""
    return ServerReading(usable=True, loaded=loaded(name, **more))


def a_reply(final: dict[str, Any]) -> Reply:
    return Reply(final=final, tokens_in=5, tokens_out=7, first_token_s=0.1, total_s=0.2, simulated=True)


@dataclass
class FakeServer:
    """A model server: unloads and loads show in ``ps`` only some looks later, as with a real one."""

    held: list[LoadedModel] = field(default_factory=list)
    lag_looks: int = 2
    vram_mib: int | None = None
    known: tuple[str, ...] = ("a:latest", "b:latest", "embed:latest")
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    load_fault: TaskFault | None = None
    stuck: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    on_run: Callable[[Mapping[str, Any]], Reply] = lambda body: a_reply({"done": True})
    _leaving: dict[str, int] = field(default_factory=dict)
    _coming: dict[str, int] = field(default_factory=dict)

    def tags(self, timeout_s):
        return ()

    def version(self, timeout_s=5.0):
        return "1.0-fake"

    def ps(self, timeout_s: float) -> Sequence[LoadedModel]:
        for name in [n for n, left in self._leaving.items() if left <= 0 and not self.stuck]:
            del self._leaving[name]
            self.held = [m for m in self.held if m.name != name]
        self._leaving = {n: left - 1 for n, left in self._leaving.items()}
        shown = [m for m in self.held if self._coming.get(m.name, 0) <= 0]
        self._coming = {n: left - 1 for n, left in self._coming.items()}
        return shown

    def show(self, model: str, timeout_s: float) -> ModelDetails:
        if model not in self.known:
            raise TaskFault("deterministic", "model_missing", f"model '{model}' not found")
        kind = "embedding" if model.startswith("embed") else "completion"
        return ModelDetails(name=model, capabilities=(kind,), **self.details)

    def load(self, order: LoadOrder, **how: Any) -> object:
        model, asked = order.model, {name: getattr(order, name) for name in ("options", "keep_alive", "embedding", "slots")}
        self.calls.append(("load", model, asked | how))
        if self.load_fault is not None:
            raise self.load_fault
        name = canonical_model(model)
        self.held.append(loaded(name) if self.vram_mib is None else loaded(name, size_vram_mib=min(1000, self.vram_mib)))
        self._coming[name] = self.lag_looks
        return None

    def unload(self, model: str, timeout_s: float) -> None:
        self.calls.append(("unload", model))
        self._leaving[canonical_model(model)] = self.lag_looks

    async def run(self, endpoint: str, body: Mapping[str, Any], **how: Any) -> Reply:
        self.calls.append(("run", endpoint, body, how))
        return self.on_run(body)


def llm(task_id: str, model: str = "a", **more: Any) -> Task:
    return Task(task_id=task_id, task_class=TaskClass.LLM, model=model, name=f"name of {task_id}", **more)


def script(task_id: str, *command: str, **more: Any) -> Task:
    return Task(task_id=task_id, task_class=TaskClass.SCRIPT, command=command, **more)


def cpu(task_id: str, *command: str, **more: Any) -> Task:
    return Task(task_id=task_id, task_class=TaskClass.CPU, command=command, **more)


def load(task_id: str, model: str = "a", worker: str = "worker-1", action: str = "load_llm") -> Task:
    return Task(task_id=task_id, task_class=TaskClass.RESOURCE, model=model, target_worker=worker, action=action)  # type: ignore[arg-type]


def claim_of(task: Task, **more: Any) -> Claim:
    return Claim(task=task, attempt=1, worker="worker-1", path="-", body_size=1, **more)


class Harness:
    """A worker with all its parts, run by hand (``turn``) or by its loop in a thread (``start``)."""

    def __init__(
        self,
        *,
        slots: int = 1,
        cpu_slots: int = 1,
        probe: Probe | None = None,
        executors: Mapping[TaskClass, Executor] | None = None,
        retry: RetrySettings | None = None,
        limit_s: float = 30.0,
        poll_s: float = 0.02,
        log: logging.Logger | None = None,
        heartbeat_s: float = 60.0,
        settings: Settings | None = None,
        queue: WorkerQueue | None = None,
        prober: Prober | None = None,
        cards: CardWatch | None = None,
        served: bool = True,
    ) -> None:
        """``queue``: one that takes the place of the one in memory. ``served``: it has a model server."""
        self.wakeup = MemoryWakeUp()
        self.queue = MemoryQueue("worker-1", self.wakeup)
        self.work = Work()
        self.sink = Beats()
        self.probe = probe or Probe(holds("a:latest"))
        self.wish = StopWish(self.wakeup.wake_self)
        log = log or logging.getLogger("worker-1")
        self.own = WorkerState(name="worker-1", pid=1, epoch=3)
        self.beats = HeartbeatThread(beat_of=self.own.heartbeat, sink=self.sink, period_s=heartbeat_s, log=log)
        self.beats.start()
        settings = settings or Settings(
            worker=WorkerSettings(poll_s=poll_s, cpu_slots=cpu_slots),
            llm=LlmSettings(slots=slots, timeout_s=limit_s),
            command=CommandSettings(timeout_s=limit_s),
            retry=retry or RetrySettings(),
        )
        parts = WorkerParts(
            queue=queue or self.queue,
            wake=self.wakeup.wake_self,
            executors=executors or dict.fromkeys(TaskClass, self.work),
            probe=self.probe if served else None,
            cards=cards,
            beats=self.beats,
            jitter=lambda: 0.5,
            log=log,
            prober=prober,
            settings=settings,
            gpu="GPU-1",
            place="GPU 1, Ollama port 11437",
        )
        self.log = log
        self.worker = Worker(parts, self.own, self.wish)
        self.exit_code: int | None = None
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> Heartbeat:
        """What it publishes."""
        return self.own.beat

    def turn(self) -> float:
        pause_s = self.worker.step()
        self.wakeup.wait(min(pause_s, 0.02))
        return pause_s

    def until(self, predicate: Callable[[], object], what: str = "condition", timeout_s: float = 60.0) -> None:
        """Take turns until it holds."""
        end_s = time.monotonic() + timeout_s
        while not predicate():
            assert time.monotonic() < end_s, f"{what}: not within {timeout_s} s; {self.state}"
            self.turn()

    def warm(self) -> Harness:
        self.until(lambda: self.state.model is not None, "the probe's first answer")
        return self

    def start(self) -> Harness:
        def run() -> None:
            self.exit_code = run_loop(self.worker, wait=self.wakeup.wait, log=self.log)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        return self

    def stop(self, times: int = 1) -> int:
        assert self._thread is not None
        for _ in range(times):
            self.wish.ask()
        wait_until(lambda: self.exit_code is not None, what="the worker's end")
        self._thread.join(60)
        assert self.exit_code is not None
        return self.exit_code
