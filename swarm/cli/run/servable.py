"""Whether the running workers can ever serve a model, so that no wait is endless.

What registrations and heartbeats show is taken from there. Only otherwise are the servers asked for their models, and is
the whole swarm observed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from swarm.config.settings import Settings
from swarm.core.task import TaskClass, canonical_model
from swarm.core.worker import Heartbeat, WorkerRow
from swarm.errors import ModelDoesNotFit, ModelNotFound, SwarmError, name_hint
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.runtime.open import lives

if TYPE_CHECKING:
    from swarm.core.snapshot import SwarmSnapshot

UNSERVABLE_S = 4.0
"""When nothing has ended for so long, and then as often, it is asked whether anything ever will."""
LOOK_SHARE = 20
ASK_S = 5.0
Workers = list[tuple[WorkerRow, Heartbeat | None]]


class Unservable(msgspec.Struct, frozen=True):
    """Models that no worker can serve, and why."""

    reasons: dict[str, str]
    """By canonical model name: why no worker can serve it, with the numbers."""
    others_work: bool
    """Something runs, or may yet run, that is for none of these."""


def check_models(settings: Settings, models: Iterable[str], *, unfit: Literal["ignore", "note", "refuse"]) -> None:
    """Whether the living workers' servers have these models and may serve them.

    Raises ``ModelNotFound`` naming the near ones, and as far as asked for ``ModelDoesNotFit`` with the numbers. A note
    goes to standard error: such tasks are accepted, for a bigger card may come.
    """
    workers = _living(Layout(settings.queue.root))
    if not workers:
        return
    unclear = _unclear(models, workers)
    if not unclear:
        return
    installed, silent = _installed(settings, workers)
    for note in silent:
        print(f"note: {note}", file=sys.stderr)
    missing = [name for name in unclear if canonical_model(name) not in installed] if installed else []
    if missing:
        raise _not_found(missing, installed)
    reasons = find_unservable(settings, unclear).reasons if unfit != "ignore" else {}
    if reasons and unfit == "refuse":
        raise does_not_fit(reasons)
    for why in reasons.values():
        print(f"note: {why}; its tasks wait until that has changed", file=sys.stderr)


def find_missing(settings: Settings, models: Iterable[str]) -> dict[str, ModelNotFound]:
    """Of these models, those that surely no server has, with the refusal of each; by the name as given.

    None while a worker that belongs to the swarm is away, or its server does not answer: it may have them.
    """
    from swarm.supervisor.state import load_plan

    layout = Layout(settings.queue.root)
    workers = _living(layout)
    names = {row.name for row, _ in workers}
    planned = {plan.name for plan in load_plan(Path(layout.workers)) or () if plan.url is not None}
    unclear = _unclear(models, workers)
    if not workers or not unclear or not planned <= names:
        return {}
    installed, silent = _installed(settings, workers)
    if silent or not installed:
        return {}
    return {name: _not_found([name], installed) for name in unclear if canonical_model(name) not in installed}


def _unclear(models: Iterable[str], workers: Workers) -> list[str]:
    return sorted({name for name in models if not _is_clear(canonical_model(name), workers)})


def _not_found(missing: list[str], installed: set[str]) -> ModelNotFound:
    shown = ", ".join(missing[:3])
    which = f"the model {shown}" if len(missing) == 1 else f"the models {shown}{' …' if len(missing) > 3 else ''}"
    there = name_hint(canonical_model(missing[0]), sorted(installed), number=3, cutoff=0.5)
    return ModelNotFound(f"no server has {which}", hint=f"{there} Get it with `swarm models pull {missing[0]}`")


def _living(layout: Layout) -> Workers:
    """The living workers that have a model server."""
    rows = registry.living(layout)
    return [(row, registry.read_heartbeat(layout, row.name)) for row in rows if row.url is not None]


def _is_clear(model: str, workers: Workers) -> bool:
    """Whether a worker holds the model, or has it and room for it, and none has failed to load it."""
    beats = [beat for _, beat in workers if beat is not None]
    if any(beat.model == model for beat in beats):
        return True
    failed = any(model in beat.models and beat.models[model].load_failures for beat in beats)
    return not failed and any(model in beat.servable for beat in beats)


def _installed(settings: Settings, workers: Workers) -> tuple[set[str], list[str]]:
    """Canonical names of what the servers have, and words for each that does not answer.

    What other engines than Ollama could serve is told by their workers, and relays are asked for all of their machine's.
    """
    from swarm.core.faults import TaskFault
    from swarm.views.row_servers import is_asked, server_of

    found: set[str] = set()
    silent: list[str] = []
    for row, beat in workers:
        if row.engines != ("ollama",) and beat is not None:
            found.update(beat.servable)
        if not is_asked(row):
            continue
        try:
            with server_of(row, settings) as server:
                found.update(canonical_model(model.name) for model in server.tags(ASK_S))
        except TaskFault as fault:
            silent.append(f"{row.name} does not say which models it has: {fault.message}")
    return found, silent


def find_unservable(settings: Settings, models: Iterable[str]) -> Unservable:
    """Which of these models no worker can serve as things are: a look at the swarm, its cards and disks."""
    from swarm.core.placement.fit import Planned, nowhere
    from swarm.runtime.open import open_observer
    from swarm.supervisor.state import load_plan
    from swarm.views.model_rows import installed_models

    snapshot = open_observer(settings).snapshot()
    disk = installed_models(snapshot, settings)
    plans = load_plan(Path(settings.queue.root) / "workers") if lives(settings, "supervisor") else None
    living = {view.name for view in snapshot.workers if view.alive}
    planned = [Planned(p.name, p.vram_mib) for p in plans or () if p.url is not None and p.name not in living]
    reasons: dict[str, str] = {}
    for model in sorted({canonical_model(model) for model in models}):
        size_mib = disk[model].size_mib if model in disk else 0
        why = nowhere(model, snapshot, settings, planned=planned, disk_mib=size_mib)
        if why is not None:
            reasons[model] = why
    return Unservable(reasons, others_work=_others_work(snapshot, reasons))


def _others_work(snapshot: SwarmSnapshot, unserved: Collection[str]) -> bool:
    """A task that waits for others is not counted: it goes when they do, or never."""
    from swarm.core.policy.decide import obstacle

    if any(claim.task_class != TaskClass.RESOURCE for claim in snapshot.claims):
        return True
    claimable = (lane for lane in snapshot.lanes if lane.pending and lane.task_class is not TaskClass.RESOURCE)
    if any(lane.model not in unserved for lane in claimable):
        return True
    may_come = ("time", "pause", "brain")
    return any(obstacle(b) in may_come and b.model not in unserved and b.resource is None for b in snapshot.blocked)


def does_not_fit(reasons: Mapping[str, str]) -> ModelDoesNotFit:
    """The models that no worker can serve, as a refusal."""
    from swarm.core.placement.fit import what_helps

    return ModelDoesNotFit("; ".join(reasons.values()), hint=what_helps(next(iter(reasons))))


def unservable_words(reasons: Mapping[str, str]) -> list[str]:
    """For the end of a wait: what is left, why, and what to do."""
    from swarm.core.placement.fit import what_helps

    return [f"not done: {why}; {what_helps(model)}" for model, why in reasons.items()]


class ServableWatch:
    """For who waits: asked now and then whether anything ever ends, at most one part in ``LOOK_SHARE`` of the time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._next_s = time.monotonic() + UNSERVABLE_S

    def moved(self) -> None:
        """Note that a task has ended: no check is needed for a while."""
        self._next_s = max(self._next_s, time.monotonic() + UNSERVABLE_S)

    def look(self, models: Callable[[], Collection[str]]) -> dict[str, str]:
        """Models that no worker can serve, with the reason, if all that is left waits for such; {} while something may end.

        ``models``: canonical names of all that is waited for.
        """
        began_s = time.monotonic()
        if began_s < self._next_s:
            return {}
        try:
            wanted = frozenset(models())
            found = find_unservable(self._settings, wanted)
        except SwarmError:
            return {}  # the next look, or whatever else is asked, says what is wrong
        finally:
            now_s = time.monotonic()
            self._next_s = now_s + max(UNSERVABLE_S, (now_s - began_s) * LOOK_SHARE)
        return found.reasons if found.reasons.keys() == wanted or not found.others_work else {}
