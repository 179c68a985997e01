"""Whether a model can be served here at all: a run must not wait for what will never be.

Placement goes on trying: a bigger card may be adopted, another program may give memory back. Whoever waits for an end asks
here whether anything but such a change could bring one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from swarm.config.settings import Settings
from swarm.core.health.liveness import workers_of
from swarm.core.placement.demand import Demand, demands, no_demand
from swarm.core.placement.fit import card_memory_mib, failing_words, file_too_big, has_no_room, too_big, too_few_cards
from swarm.core.placement.load_tasks import outstanding
from swarm.core.snapshot import SwarmSnapshot, WorkerView

ENOUGH_TRIES = 3
"""A model that found no room so often, with pauses in between, finds none."""
ENOUGH_FAILURES = 5
"""The same for loads that failed for any other reason, of which more heal by themselves."""


class Planned(msgspec.Struct, frozen=True):
    """A worker that is to be, and is not there now."""

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
    if not all(_hopeless_plan(worker, demand, disk_mib, settings) for worker in planned):
        return None
    reasons = [_hopeless(view, demand, disk_mib, snapshot, settings) for view in views]
    if not all(reasons):
        return None
    others = [reason for reason in reasons if reason and "does not fit" not in reason]
    if others:
        return f"no worker can be given {model}: {'; '.join(dict.fromkeys(others))}"
    largest = max(_rooms(views, planned, snapshot), key=lambda room: room.memory_mib, default=None)
    needs = f"{needs_mib} MiB" if needs_mib else "more"
    has = "" if largest is None else f", the largest card has {largest.memory_mib} MiB ({largest.name})"
    return f"{model} does not fit on any card: it needs {needs}{has}"


def _hopeless(view: WorkerView, demand: Demand, disk_mib: int, snapshot: SwarmSnapshot, settings: Settings) -> str | None:
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
    return too_few_cards(view, demand.model, settings)


def _hopeless_plan(worker: Planned, demand: Demand, disk_mib: int, settings: Settings) -> bool:
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
