"""Turns one observation of the swarm into Prometheus metrics.

Pure; ``docs/metrics.md`` lists them all. Counters and histograms cover the current lives of workers and brain: they start
again at zero with each process, which is the reset that ``rate()`` and ``increase()`` expect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from swarm import __version__
from swarm.config.settings import Settings
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.liveness import condition, stuck, workers_of
from swarm.core.lanes import parse_lane
from swarm.core.rates import Rates, lifetime_j, rates_of, share_of_best
from swarm.core.snapshot import LiveView, SwarmSnapshot, WorkerView
from swarm.core.task import TaskState
from swarm.core.worker import Heartbeat, Histogram, ModelTally, TunedSlots, WorkerTally

_MIB = 1 << 20
Labels = tuple[str, ...]
_TALLIES: tuple[tuple[str, str, Callable[[WorkerTally], int]], ...] = (
    ("claims", "Tasks claimed.", lambda t: t.claims),
    ("lost_races", "Claims that another worker won.", lambda t: t.lost_races),
    ("completed", "Tasks completed.", lambda t: t.completed),
    ("failed", "Tasks that failed for good.", lambda t: t.failed),
    ("retried", "Attempts that failed and are retried.", lambda t: t.retried),
    ("released", "Tasks requeued untouched because the worker stopped.", lambda t: t.released),
    ("fenced", "Results that came too late and changed nothing.", lambda t: t.fenced),
    ("tokens_in", "Prompt tokens of completed requests.", lambda t: t.tokens_in),
    ("tokens_out", "Generated tokens of completed requests.", lambda t: t.tokens_out),
)
_MODEL_TALLIES: tuple[tuple[str, str, Callable[[ModelTally], float]], ...] = (
    ("completed", "Requests completed.", lambda t: t.completed),
    ("failed", "Requests that failed for good.", lambda t: t.failed),
    ("busy_seconds", "Seconds of requests, several slots counted several times.", lambda t: t.busy_s),
    ("tokens_in", "Prompt tokens of completed requests.", lambda t: t.tokens_in),
    ("tokens_out", "Generated tokens of completed requests.", lambda t: t.tokens_out),
    ("loads", "Times the model was loaded.", lambda t: t.loads),
    ("load_seconds", "Seconds spent loading it.", lambda t: t.load_s),
)


class Seen(NamedTuple):
    """Everything one scrape is made from."""

    snapshot: SwarmSnapshot
    ended: Mapping[TaskState, int]
    stale: Mapping[str, int]
    brain: Heartbeat | None
    brain_alive: bool
    supervisor_alive: bool = False
    orphans: int = 0
    """Processes that still run although their supervisor died unexpectedly."""


def families(seen: Seen, settings: Settings) -> Iterator[Metric]:
    """All metric families. Pure."""
    yield _one("build_info", "The program that answers.", 1, version=__version__)
    yield from _tasks(seen, settings)
    yield from _workers(seen.snapshot, settings)
    yield from _models(seen.snapshot)
    yield from _live(seen.snapshot)
    yield from _histograms(seen.snapshot)
    yield from _cards(seen.snapshot.gpus)
    yield from _brain(seen)
    yield _one("supervisor_up", "Whether a supervisor lives: its process lock is held.", float(seen.supervisor_alive))
    yield _one("orphaned_processes", "Processes whose supervisor was killed.", seen.orphans)


def _one(name: str, help_text: str, value: float, **labels: str) -> Metric:
    return _gauge(name, help_text, tuple(labels), [(tuple(labels.values()), value)])


def _gauge(name: str, help_text: str, labels: Labels, rows: Iterable[tuple[Labels, float | None]]) -> Metric:
    """What is not known is left out: a gap in the graph, not a zero."""
    family = GaugeMetricFamily(f"swarm_{name}", help_text, labels=labels)
    for values, number in rows:
        if number is not None:
            family.add_metric(values, number)
    return family


def _counter(name: str, help_text: str, labels: Labels, rows: Iterable[tuple[Labels, float | None]]) -> Metric:
    family = CounterMetricFamily(f"swarm_{name}", help_text, labels=labels)
    for values, number in rows:
        if number is not None:
            family.add_metric(values, number)
    return family


def _tasks(seen: Seen, settings: Settings) -> Iterator[Metric]:
    snapshot = seen.snapshot
    counts = {
        TaskState.PENDING: sum(lane.pending for lane in snapshot.lanes),
        TaskState.BLOCKED: len(snapshot.blocked),
        TaskState.PROCESSING: len(snapshot.claims),
        **seen.ended,
    }
    yield _gauge("tasks", "Tasks by state.", ("state",), (((str(state),), counts.get(state, 0)) for state in TaskState))
    kinds = ("task_class", "model", "target_worker")
    lanes = [((str(lane.task_class), lane.model or "", lane.target_worker or ""), lane) for lane in snapshot.lanes]
    waiting = ((labels, lane.pending) for labels, lane in lanes)
    yield _gauge("pending_tasks", "Waiting tasks by class and model.", kinds, waiting)
    oldest = ((labels, lane.oldest_wait_s) for labels, lane in lanes)
    yield _gauge("pending_oldest_seconds", "Age of the oldest waiting task of a lane.", kinds, oldest)
    stale = ((_kind(name), number) for name, number in sorted(seen.stale.items()))
    yield _gauge("stale_queued_tasks", "Tasks waiting longer than brain.stale_queued_s.", kinds, stale)
    held = Counter((claim.worker, claim.task_class or "", claim.model or "") for claim in snapshot.claims)
    yield _gauge("running_tasks", "Claimed tasks.", ("worker", "task_class", "model"), sorted(held.items()))
    yield _one("stuck_tasks", "Claimed tasks without progress.", len(stuck(snapshot, settings)))
    yield _one("drop_in_files", "Files in pending/ that wait to be checked.", len(snapshot.drop_ins))


def _kind(lane: str) -> Labels:
    """Class, model and target worker of a lane."""
    kind, argument = parse_lane(lane) or (lane, None)
    return (str(kind), argument or "", "") if kind == "llm" else (str(kind), "", argument or "")


def _beating(snapshot: SwarmSnapshot) -> list[tuple[WorkerView, Heartbeat]]:
    return [(view, view.heartbeat) for view in workers_of(snapshot) if view.heartbeat is not None]


def _workers(snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Metric]:
    views, beats, by = workers_of(snapshot), _beating(snapshot), ("worker",)
    up = (((view.name,), view.alive) for view in views)
    yield _gauge("worker_up", "Whether the worker lives: its process lock is held.", by, up)
    labels = ("worker", "state", "model", "gpus", "simulated", "node")
    info = ((_info(view, condition(view, snapshot, settings).state), 1) for view in views)
    yield _gauge("worker_info", "What the worker is; always 1.", labels, info)
    epoch = (((view.name,), view.row.epoch if view.row is not None else 0) for view in views)
    yield _gauge("worker_epoch", "Starts under this name; counters begin at zero with each.", by, epoch)
    busy = (((view.name,), view.claims if view.alive else 0) for view, _ in beats)
    yield _gauge("worker_slots_busy", "Tasks in the worker's slots.", by, busy)
    idle = (((view.name,), beat.idle_s if view.alive else 0.0) for view, beat in beats)
    yield _gauge("worker_idle_seconds", "Since it last had a task.", by, idle)
    for name, help_text, value in _TALLIES:
        yield _counter(f"worker_{name}", help_text, by, (((view.name,), value(beat.tally)) for view, beat in beats))
    energy = (((view.name,), lifetime_j(beat)) for view, beat in beats)
    yield _counter("worker_energy_joules", "Used by the worker's cards.", by, energy)
    cleared = (((worker, view.name), n) for view, beat in beats for worker, n in sorted(beat.cleared.items()))
    help_text = "Requests that had broken a worker's server and were answered by another one."
    yield _counter("worker_cleared", help_text, ("worker", "by"), cleared)


def _info(view: WorkerView, state: str) -> Labels:
    row, beat = view.row, view.heartbeat
    model = (beat.model if beat is not None and view.alive else None) or ""
    gpus = ",".join(map(str, row.gpus)) if row is not None else ""
    return view.name, state, model, gpus, str(bool(row and row.simulated)).lower(), view.node


def _models(snapshot: SwarmSnapshot) -> Iterator[Metric]:
    labels = ("worker", "model")
    tallies = [
        ((view.name, model), tally) for view, beat in _beating(snapshot) for model, tally in sorted(beat.models.items())
    ]
    for name, help_text, value in _MODEL_TALLIES:
        yield _counter(f"model_{name}", help_text, labels, ((values, value(tally)) for values, tally in tallies))
    failures = ((values, tally.load_failures) for values, tally in tallies)
    yield _gauge("model_load_failures", "Loads that failed in a row.", labels, failures)
    yield from _speeds(snapshot)


def _speeds(snapshot: SwarmSnapshot) -> Iterator[Metric]:
    """Of the model that each living worker holds."""
    gauges: tuple[tuple[str, str, Callable[[Heartbeat], float | None]], ...] = (
        ("tokens_per_second", "Generated tokens per second over the last minute.", _rate(lambda r: r.tokens_out_per_s)),
        ("tokens_in_per_second", "Prompt tokens per second over the last minute.", _rate(lambda r: r.tokens_in_per_s)),
        ("best_tokens_per_second", "The most that this card has shown for it.", _tuned(lambda t: t.best_tokens_per_s)),
        ("best_ratio", "Generated tokens per second over the best, 0 to 1.", lambda b: share_of_best(b, rates_of(b))),
        ("slots", "Requests that the worker keeps in flight.", _tuned(lambda t: t.in_flight)),
        ("slots_capacity", "Requests at once that it was loaded for.", _tuned(lambda t: t.capacity)),
    )
    holding = [(view.name, beat.model, beat) for view, beat in _beating(snapshot) if view.alive and beat.model is not None]
    for name, help_text, value in gauges:
        speeds = (((worker, model), value(beat)) for worker, model, beat in holding)
        yield _gauge(f"model_{name}", help_text, ("worker", "model"), speeds)


def _live(snapshot: SwarmSnapshot) -> Iterator[Metric]:
    """Requests whose clients wait: by model as the HTTP server says, by worker as the workers do."""
    by_model: tuple[tuple[str, str, Callable[[LiveView], float]], ...] = (
        ("waiting", "Live requests that have no worker yet.", lambda v: v.waiting),
        ("in_flight", "Live requests at workers.", lambda v: v.in_flight),
        ("oldest_seconds", "Age of the longest waiting live request; 0 while none waits.", lambda v: v.oldest_s),
    )
    for name, help_text, value in by_model:
        rows = (((view.model,), value(view)) for view in snapshot.live)
        yield _gauge(f"live_{name}", help_text, ("model",), rows)
    places = [(view, beat.live) for view, beat in _beating(snapshot) if beat.live is not None]
    held = (((view.name,), live.in_flight) for view, live in places if view.alive)
    yield _gauge("worker_live_in_flight", "Live requests at the worker.", ("worker",), held)
    limits = (((view.name,), live.limit) for view, live in places if view.alive)
    yield _gauge("worker_live_limit", "Live requests at once that it takes for its model.", ("worker",), limits)
    yielded = (((view.name,), live.yielded) for view, live in places)
    yield _counter("worker_yielded", "Batch requests stopped for live ones.", ("worker",), yielded)


def _rate(value: Callable[[Rates], float]) -> Callable[[Heartbeat], float | None]:
    def of(beat: Heartbeat) -> float | None:
        rates = rates_of(beat)
        return None if rates is None else value(rates)

    return of


def _tuned(value: Callable[[TunedSlots], float]) -> Callable[[Heartbeat], float | None]:
    """0 stands for unknown there."""

    def of(beat: Heartbeat) -> float | None:
        tuned = beat.tuned.get(beat.model or "")
        return None if tuned is None else value(tuned) or None

    return of


def _histograms(snapshot: SwarmSnapshot) -> Iterator[Metric]:
    labels = ("worker", "task_class")
    waits = HistogramMetricFamily("swarm_task_wait_seconds", "From acceptance to the first claim.", labels=labels)
    runs = HistogramMetricFamily("swarm_task_run_seconds", "Of each attempt, however it ended.", labels=labels)
    for view, beat in _beating(snapshot):
        for kind, found in sorted(beat.waits.items()):
            _add(waits, (view.name, kind), found)
        for kind, found in sorted(beat.runs.items()):
            _add(runs, (view.name, kind), found)
    yield from (waits, runs)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    buckets, total = [], 0
    for bound, number in zip((*map(str, histogram.bounds_s), "+Inf"), histogram.counts, strict=True):
        total += number
        buckets.append((bound, float(total)))
    family.add_metric(labels, buckets=buckets, sum_value=histogram.sum_s)


def _cards(cards: tuple[GpuReading, ...]) -> Iterator[Metric]:
    labels = ("gpu", "uuid", "node")  # an empty label is none to Prometheus: cards of this machine have none
    readings: tuple[tuple[str, str, Callable[[GpuReading], float | None]], ...] = (
        ("memory_used_bytes", "Memory in use.", lambda c: _scaled(c.memory_used_mib, _MIB)),
        ("memory_total_bytes", "Memory in all.", lambda c: _scaled(c.memory_total_mib, _MIB)),
        ("load_ratio", "Share of time with work on the card, 0 to 1.", lambda c: _scaled(c.utilisation_pct, 0.01)),
        ("temperature_celsius", "Temperature.", lambda c: c.temperature_c),
        ("power_watts", "Power drawn.", lambda c: c.power_w),
        ("fault", "1 when the card is lost or cannot be read.", lambda c: float(c.fault is not None)),
    )
    for name, help_text, value in readings:
        told = ((_card(card), value(card)) for card in cards if card.fault is None or name == "fault")
        yield _gauge(f"gpu_{name}", help_text, labels, told)
    energy = ((_card(card), card.energy_j) for card in cards if card.fault is None)
    yield _counter("gpu_energy_joules", "Energy used since the driver was loaded.", labels, energy)


def _card(card: GpuReading) -> Labels:
    return str(card.index), card.uuid, card.node


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _brain(seen: Seen) -> Iterator[Metric]:
    yield _one("brain_up", "Whether the brain lives: its process lock is held.", float(seen.brain_alive))
    beats = [] if seen.brain is None else [("brain", seen.brain)]
    turns = (((), beat.turn) for _, beat in beats)
    yield _counter("brain_turns", "Ticks of the brain since it started.", (), turns)
    ticks = HistogramMetricFamily("swarm_brain_tick_seconds", "Of each tick of the brain, without waits.")
    if seen.brain is not None and seen.brain.ticks is not None:
        _add(ticks, (), seen.brain.ticks)
    yield ticks
    beats += [(view.name, beat) for view, beat in _beating(seen.snapshot)]
    crashes = (((name,), beat.tally.crashes) for name, beat in beats)
    yield _counter("crashes", "Tasks requeued from dead workers.", ("by",), crashes)
