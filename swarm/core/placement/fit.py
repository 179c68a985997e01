"""Whether a worker can be given a model: cards, memory, recent failures, the disk of its machine.

``misfit`` judges one worker now, for placement. ``nowhere`` judges whether any worker of the swarm ever can, for a command
that waits: placement itself goes on trying, since a bigger card may be adopted and another program may free memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from swarm.config.settings import Settings
from swarm.core.backoff import doubled_s
from swarm.core.gpu_reading import named
from swarm.core.health.liveness import workers_of
from swarm.core.placement.demand import Demand, demands, no_demand, outstanding
from swarm.core.placement.node_models import absent
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.task import canonical_model
from swarm.core.worker import ModelTally

_FIRST_PAUSE_S = 10.0
_LEAST_ON_CARD = 0.8
"""Of a model's file at least so much comes to lie on the card: a table of words may stay in the computer's memory."""


def misfit(view: WorkerView, demand: Demand, snapshot: SwarmSnapshot, settings: Settings) -> str | None:
    """Why this worker cannot be given this model now, with the numbers; None if it can."""
    return (
        too_few_cards(view, demand.model, settings)
        or does_not_fit(view, demand, snapshot, settings)
        or failing(view, demand.model, settings)
        or absent(view, demand.model, snapshot)
    )


def failing(view: WorkerView, model: str, settings: Settings) -> str | None:
    """Says that this worker's loads of the model failed and it is still pausing before another try; None otherwise."""
    tally = view.heartbeat.models.get(model) if view.heartbeat is not None else None
    if tally is None or not tally.load_failures:
        return None
    pause_s = doubled_s(_FIRST_PAUSE_S, tally.load_failures - 1, settings.retry.backoff_cap_s)
    left_s = pause_s - view.load_failed_s.get(model, 0.0)
    if left_s <= 0:
        return None
    return f"{failing_words(view.name, model, tally)}; tried again after a pause of {pause_s:.0f}s"


def failing_words(worker: str, model: str, tally: ModelTally) -> str:
    """Of a load that failed: how often, or that there is no such model."""
    if tally.missing:
        return f"the server of {worker} has no model {model}"
    return f"{worker} failed to load {model} {tally.load_failures}x in a row"


def spilled(view: WorkerView, model: str) -> str | None:
    """Says that the model runs, or would run, partly on the CPU on this worker, so that it does not count; else None."""
    beat = view.heartbeat
    if beat is None:
        return None
    if model in beat.refused:
        return f"{view.name} holds {model}, but that does not count: {beat.refused[model]}"
    tally = beat.models.get(model)
    if tally is None or not tally.load_failures or tally.size_vram_mib >= tally.size_mib:
        return None
    share = f"{tally.size_vram_mib} of its {tally.size_mib} MiB were on the card"
    return f"{view.name} loaded {model}, and it spilled to the CPU: {share}"


def cards_needed(model: str, settings: Settings) -> int:
    """How many cards a model (canonical name) is configured to need."""
    return next((spec.gpus_needed for name, spec in settings.models.items() if canonical_model(name) == model), 1)


def too_few_cards(view: WorkerView, model: str, settings: Settings) -> str | None:
    """Says that the model is configured to need more cards than this worker has; None otherwise."""
    needed = cards_needed(model, settings)
    has = len(view.row.gpus) if view.row is not None else 0
    if needed <= max(1, has):
        return None
    return f"{model} needs {needed} cards and {view.name} has {has}"


def does_not_fit(view: WorkerView, demand: Demand, snapshot: SwarmSnapshot, settings: Settings) -> str | None:
    """Why the model has no room on this worker's cards, with the numbers; None if it may have.

    It has none where it is known to be bigger than they are, nor where it found none on cards of this size or bigger.
    Whoever found none although its size would fit may try again after a pause, while it holds nothing: some other
    program may have had the memory then.
    """
    if not too_big(view, demand, snapshot, settings) and _may_try_again(view, demand, settings):
        return None
    return has_no_room(view, demand, snapshot, settings)


def has_no_room(view: WorkerView, demand: Demand, snapshot: SwarmSnapshot, settings: Settings) -> str | None:
    """The same, as far as is known: also where another try is due."""
    memory_mib = card_memory_mib(view, snapshot)
    if memory_mib is None:
        return None
    if not too_big(view, demand, snapshot, settings) and not _found_no_room(demand.model, memory_mib, snapshot):
        return None
    needs = f"{demand.size_mib} MiB" if demand.size_mib else "more"
    whose = f"card of {view.name} has" if view.row is None or len(view.row.gpu_uuids) == 1 else f"cards of {view.name} have"
    return f"{demand.model} does not fit: needs {needs}, the {whose} {memory_mib} MiB"


def too_big(view: WorkerView, demand: Demand, snapshot: SwarmSnapshot, settings: Settings) -> bool:
    """Whether the model is known to take more than this worker's cards have, which is refused."""
    memory_mib = card_memory_mib(view, snapshot)
    return memory_mib is not None and demand.size_mib > memory_mib and settings.llm.on_cpu_spill == "refuse"


def file_too_big(disk_mib: int, memory_mib: int) -> bool:
    """Whether a model's file alone tells that it cannot be wholly on cards with so much memory."""
    return disk_mib * _LEAST_ON_CARD > memory_mib


def what_helps(model: str) -> str:
    """What to do about a model that does not fit."""
    return f'set options.num_ctx (smaller) or gpus_needed in [models."{model}"], or use a smaller quantization'


def card_memory_mib(view: WorkerView, snapshot: SwarmSnapshot) -> int | None:
    """Memory of this worker's cards together; None if it has none or one of them does not say."""
    uuids = view.row.gpu_uuids if view.row is not None else ()
    totals = [card.memory_total_mib for card in named(snapshot.gpus, uuids) if card.memory_total_mib is not None]
    return sum(totals) if totals and len(totals) == len(uuids) else None


def _found_no_room(model: str, memory_mib: int, snapshot: SwarmSnapshot) -> bool:
    """Whether a living worker with this much memory, or more, had no room for it."""
    return any(
        view.alive and _no_room(view, model) and (card_memory_mib(view, snapshot) or 0) >= memory_mib
        for view in snapshot.workers
    )


def _may_try_again(view: WorkerView, demand: Demand, settings: Settings) -> bool:
    cold = view.heartbeat is not None and view.heartbeat.model is None
    return cold and _no_room(view, demand.model) and failing(view, demand.model, settings) is None


def _no_room(view: WorkerView, model: str) -> bool:
    tally = view.heartbeat.models.get(model) if view.heartbeat is not None else None
    return tally is not None and tally.no_room


ENOUGH_TRIES = 3
"""A model that found no room so often, with pauses in between, finds none."""
ENOUGH_FAILURES = 5
"""The same for loads that failed for any other reason, of which more heal by themselves."""


class Planned(msgspec.Struct, frozen=True):
    """A worker that is planned but does not run now."""

    name: str
    memory_mib: int | None


class _Room(msgspec.Struct, frozen=True):
    """Whose cards have how much."""

    name: str
    memory_mib: int


def nowhere(
    model: str,
    snapshot: SwarmSnapshot,
    settings: Settings,
    *,
    planned: Sequence[Planned] = (),
    disk_mib: int = 0,
) -> str | None:
    """Why no worker can ever serve this model (canonical name) as things are, with the numbers; None: one may.

    ``planned`` are workers that do not live now and may yet come; ``disk_mib`` is the size of the model's file, where known.
    """
    demand = demands(snapshot).get(model) or no_demand(model, snapshot)
    views = [v for v in workers_of(snapshot) if v.alive and v.row is not None and v.row.url is not None]
    if not views or demand.running or any(t.model == model for v in views for t in outstanding(snapshot).get(v.name, ())):
        return None
    if any(v.heartbeat is not None and v.heartbeat.model == model for v in views):
        return None
    needs_mib = max(demand.size_mib, disk_mib)
    if not all(_too_small(worker, demand, disk_mib, settings) for worker in planned):
        return None
    reasons = [_never_fits(view, demand, disk_mib, snapshot, settings) for view in views]
    if not all(reasons):
        return None
    others = [reason for reason in reasons if reason and "does not fit" not in reason]
    if others:
        return f"no worker can be given {model}: {'; '.join(dict.fromkeys(others))}"
    largest = max(_rooms(views, planned, snapshot), key=lambda room: room.memory_mib, default=None)
    needs = f"{needs_mib} MiB" if needs_mib else "more"
    has = "" if largest is None else f", the largest card has {largest.memory_mib} MiB ({largest.name})"
    return f"{model} does not fit on any card: it needs {needs}{has}"


def _never_fits(view: WorkerView, demand: Demand, disk_mib: int, snapshot: SwarmSnapshot, settings: Settings) -> str | None:
    """Why nothing is to be expected of this worker; None while something is."""
    tally = view.heartbeat.models.get(demand.model) if view.heartbeat is not None else None
    memory_mib = card_memory_mib(view, snapshot)
    by_file = memory_mib is not None and settings.llm.on_cpu_spill == "refuse" and file_too_big(disk_mib, memory_mib)
    if by_file:
        return f"{demand.model} does not fit"
    no_room = has_no_room(view, demand, snapshot, settings)
    if no_room is not None and (too_big(view, demand, snapshot, settings) or _tries(demand.model, snapshot) >= ENOUGH_TRIES):
        return no_room
    if tally is not None and (tally.missing or tally.load_failures >= ENOUGH_FAILURES):
        return failing_words(view.name, demand.model, tally)
    return too_few_cards(view, demand.model, settings) or absent(view, demand.model, snapshot)


def _too_small(worker: Planned, demand: Demand, disk_mib: int, settings: Settings) -> bool:
    if worker.memory_mib is None or settings.llm.on_cpu_spill != "refuse":
        return False
    return demand.size_mib > worker.memory_mib or file_too_big(disk_mib, worker.memory_mib)


def _tries(model: str, snapshot: SwarmSnapshot) -> int:
    """How often in a row it found no room on the card that tried most."""
    tallies = (v.heartbeat.models.get(model) for v in snapshot.workers if v.alive and v.heartbeat is not None)
    return max((t.load_failures for t in tallies if t is not None and t.no_room), default=0)


def _rooms(views: Sequence[WorkerView], planned: Sequence[Planned], snapshot: SwarmSnapshot) -> Iterator[_Room]:
    for view in views:
        memory_mib = card_memory_mib(view, snapshot)
        if memory_mib is not None:
            yield _Room(view.name, memory_mib)
    for worker in planned:
        if worker.memory_mib is not None:
            yield _Room(worker.name, worker.memory_mib)
