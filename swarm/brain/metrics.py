"""Turns one observation of the swarm into Prometheus metrics.

Pure; ``docs/metrics.md`` lists them all. Counters and histograms cover the current lives of workers and brain: they start
again at zero with each process, which is the reset that ``rate()`` and ``increase()`` expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from swarm import __version__
from swarm.config.settings import Settings
from swarm.core.health.liveness import condition, stuck, workers_of
from swarm.core.lanes import parse_lane
from swarm.core.rates import Rates, lifetime_j, rates_of, share_of_best
from swarm.core.snapshot import GpuReading, SwarmSnapshot, WorkerView
from swarm.core.task import TaskState
from swarm.core.worker import Heartbeat, Histogram, ModelTally, TunedSlots, WorkerTally

_MIB = 1 << 20
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
    yield _one("swarm_build_info", "The program that answers.", 1, version=__version__)
    yield from _tasks(seen, settings)
    yield from _workers(seen.snapshot, settings)
    yield from _models(seen.snapshot)
    yield from _histograms(seen.snapshot)
    yield from _cards(seen.snapshot.gpus)
    yield from _brain(seen)
    yield _one("swarm_supervisor_up", "Whether a supervisor lives: its process lock is held.", float(seen.supervisor_alive))
    yield _one("swarm_orphaned_processes", "Processes whose supervisor was killed.", seen.orphans)


def _one(name: str, help_text: str, value: float, **labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _tasks(seen: Seen, settings: Settings) -> Iterator[Metric]:
    snapshot = seen.snapshot
    states = GaugeMetricFamily("swarm_tasks", "Tasks by state.", labels=("state",))
    counts = {
        TaskState.PENDING: sum(lane.pending for lane in snapshot.lanes),
        TaskState.BLOCKED: len(snapshot.blocked),
        TaskState.PROCESSING: len(snapshot.claims),
        **seen.ended,
    }
    for state in TaskState:
        states.add_metric((str(state),), counts.get(state, 0))
    yield states
    kinds = ("task_class", "model", "target_worker")
    pending = GaugeMetricFamily("swarm_pending_tasks", "Waiting tasks by class and model.", labels=kinds)
    oldest = GaugeMetricFamily("swarm_pending_oldest_seconds", "Age of the oldest waiting task of a lane.", labels=kinds)
    for lane in snapshot.lanes:
        labels = (str(lane.task_class), lane.model or "", lane.target_worker or "")
        pending.add_metric(labels, lane.pending)
        oldest.add_metric(labels, lane.oldest_wait_s)
    yield pending
    yield oldest
    stale = GaugeMetricFamily("swarm_stale_queued_tasks", "Tasks waiting longer than brain.stale_queued_s.", labels=kinds)
    for name, number in sorted(seen.stale.items()):
        kind, argument = parse_lane(name) or (name, None)
        model, target = (argument or "", "") if kind == "llm" else ("", argument or "")
        stale.add_metric((str(kind), model, target), number)
    yield stale
    running = GaugeMetricFamily("swarm_running_tasks", "Claimed tasks.", labels=("worker", "task_class", "model"))
    held: dict[tuple[str, str, str], int] = {}
    for claim in snapshot.claims:
        key = (claim.worker, claim.task_class or "", claim.model or "")
        held[key] = held.get(key, 0) + 1
    for key, number in sorted(held.items()):
        running.add_metric(key, number)
    yield running
    yield _one("swarm_stuck_tasks", "Claimed tasks without progress.", len(stuck(snapshot, settings)))
    yield _one("swarm_drop_in_files", "Files in pending/ that wait to be checked.", len(snapshot.drop_ins))


def _beating(snapshot: SwarmSnapshot) -> Iterator[tuple[WorkerView, Heartbeat]]:
    for view in workers_of(snapshot):
        if view.heartbeat is not None:
            yield view, view.heartbeat


def _workers(snapshot: SwarmSnapshot, settings: Settings) -> Iterator[Metric]:
    up = GaugeMetricFamily("swarm_worker_up", "Whether the worker lives: its process lock is held.", labels=("worker",))
    info = GaugeMetricFamily(
        "swarm_worker_info", "What the worker is; always 1.", labels=("worker", "state", "model", "gpus", "simulated")
    )
    epoch = GaugeMetricFamily(
        "swarm_worker_epoch", "Starts under this name; counters begin at zero with each.", labels=("worker",)
    )
    for view in workers_of(snapshot):
        up.add_metric((view.name,), view.alive)
        row, beat = view.row, view.heartbeat
        model = (beat.model if beat is not None and view.alive else None) or ""
        gpus = ",".join(map(str, row.gpus)) if row is not None else ""
        simulated = str(bool(row and row.simulated)).lower()
        info.add_metric((view.name, condition(view, snapshot, settings).state, model, gpus, simulated), 1)
        epoch.add_metric((view.name,), row.epoch if row is not None else 0)
    yield from (up, info, epoch)
    busy = GaugeMetricFamily("swarm_worker_slots_busy", "Tasks in the worker's slots.", labels=("worker",))
    idle = GaugeMetricFamily("swarm_worker_idle_seconds", "Since it last had a task.", labels=("worker",))
    for view, beat in _beating(snapshot):
        busy.add_metric((view.name,), view.claims if view.alive else 0)
        idle.add_metric((view.name,), beat.idle_s if view.alive else 0.0)
    yield from (busy, idle)
    for name, help_text, value in _TALLIES:
        family = CounterMetricFamily(f"swarm_worker_{name}", help_text, labels=("worker",))
        for view, beat in _beating(snapshot):
            family.add_metric((view.name,), value(beat.tally))
        yield family
    energy = CounterMetricFamily("swarm_worker_energy_joules", "Used by the worker's cards.", labels=("worker",))
    for view, beat in _beating(snapshot):
        used_j = lifetime_j(beat)
        if used_j is not None:
            energy.add_metric((view.name,), used_j)
    yield energy
    cleared = CounterMetricFamily(
        "swarm_worker_cleared",
        "Requests that had broken a worker's server and were answered by another one.",
        labels=("worker", "by"),
    )
    for view, beat in _beating(snapshot):
        for worker, number in sorted(beat.cleared.items()):
            cleared.add_metric((worker, view.name), number)
    yield cleared


def _models(snapshot: SwarmSnapshot) -> Iterator[Metric]:
    labels = ("worker", "model")
    for name, help_text, value in _MODEL_TALLIES:
        family = CounterMetricFamily(f"swarm_model_{name}", help_text, labels=labels)
        for view, beat in _beating(snapshot):
            for model, tally in sorted(beat.models.items()):
                family.add_metric((view.name, model), value(tally))
        yield family
    failures = GaugeMetricFamily("swarm_model_load_failures", "Loads that failed in a row.", labels=labels)
    for view, beat in _beating(snapshot):
        for model, tally in sorted(beat.models.items()):
            failures.add_metric((view.name, model), tally.load_failures)
    yield failures
    yield from _speeds(snapshot)


def _speeds(snapshot: SwarmSnapshot) -> Iterator[Metric]:
    """Of the model that each living worker holds. What is not known yet is left out."""
    labels = ("worker", "model")
    gauges: tuple[tuple[str, str, Callable[[Heartbeat], float | None]], ...] = (
        ("tokens_per_second", "Generated tokens per second over the last minute.", _rate(lambda r: r.tokens_out_per_s)),
        ("tokens_in_per_second", "Prompt tokens per second over the last minute.", _rate(lambda r: r.tokens_in_per_s)),
        ("best_tokens_per_second", "The most that this card has shown for it.", _tuned(lambda t: t.best_tokens_per_s)),
        ("best_ratio", "Generated tokens per second over the best, 0 to 1.", lambda b: share_of_best(b, rates_of(b))),
        ("slots", "Requests that the worker keeps in flight.", _tuned(lambda t: t.in_flight)),
        ("slots_capacity", "Requests at once that it was loaded for.", _tuned(lambda t: t.capacity)),
    )
    for name, help_text, value in gauges:
        family = GaugeMetricFamily(f"swarm_model_{name}", help_text, labels=labels)
        for view, beat in _beating(snapshot):
            found = value(beat) if view.alive and beat.model is not None else None
            if found is not None:
                family.add_metric((view.name, beat.model or ""), found)
        yield family


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
    """What a card does not say is left out: a gap in the graph, not a zero."""
    labels = ("gpu", "uuid")
    readings: tuple[tuple[str, str, Callable[[GpuReading], float | None]], ...] = (
        ("memory_used_bytes", "Memory in use.", lambda c: _scaled(c.memory_used_mib, _MIB)),
        ("memory_total_bytes", "Memory in all.", lambda c: _scaled(c.memory_total_mib, _MIB)),
        ("load_ratio", "Share of time with work on the card, 0 to 1.", lambda c: _scaled(c.utilisation_pct, 0.01)),
        ("temperature_celsius", "Temperature.", lambda c: c.temperature_c),
        ("power_watts", "Power drawn.", lambda c: c.power_w),
        ("fault", "1 when the card is lost or cannot be read.", lambda c: float(c.fault is not None)),
    )
    for name, help_text, value in readings:
        family = GaugeMetricFamily(f"swarm_gpu_{name}", help_text, labels=labels)
        for card in cards:
            found = value(card)
            if found is not None and (card.fault is None or name == "fault"):
                family.add_metric((str(card.index), card.uuid), found)
        yield family
    energy = CounterMetricFamily("swarm_gpu_energy_joules", "Energy used since the driver was loaded.", labels=labels)
    for card in cards:
        if card.energy_j is not None and card.fault is None:
            energy.add_metric((str(card.index), card.uuid), card.energy_j)
    yield energy


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _brain(seen: Seen) -> Iterator[Metric]:
    yield _one("swarm_brain_up", "Whether the brain lives: its process lock is held.", float(seen.brain_alive))
    turns = CounterMetricFamily("swarm_brain_turns", "Ticks of the brain since it started.")
    ticks = HistogramMetricFamily("swarm_brain_tick_seconds", "Of each tick of the brain, without waits.")
    crashes = CounterMetricFamily("swarm_crashes", "Tasks requeued from dead workers.", labels=("by",))
    if seen.brain is not None:
        turns.add_metric((), seen.brain.turn)
        crashes.add_metric(("brain",), seen.brain.tally.crashes)
        if seen.brain.ticks is not None:
            _add(ticks, (), seen.brain.ticks)
    for view, beat in _beating(seen.snapshot):
        crashes.add_metric((view.name,), beat.tally.crashes)
    yield from (turns, ticks, crashes)
