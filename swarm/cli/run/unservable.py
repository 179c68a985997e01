"""Models that no worker here can ever serve, so that nobody waits for them without end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from swarm.cli.views.installed_models import installed_models
from swarm.config.settings import Settings
from swarm.core.placement.fit import Planned, nowhere, what_helps
from swarm.core.policy.decide import obstacle
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import TaskClass, canonical_model
from swarm.errors import ModelDoesNotFit, SwarmError
from swarm.runtime.open import lives, open_observer
from swarm.supervisor.state import load_plan

UNSERVABLE_S = 4.0
"""When nothing has ended for so long, and then as often, it is asked whether anything ever will."""
LOOK_SHARE = 20


class Unservable(msgspec.Struct, frozen=True):
    """What was found."""

    reasons: dict[str, str]
    """By canonical model name: why no worker can serve it, with the numbers."""
    others_work: bool
    """Something runs, or may yet run, that is for none of these."""


def find_unservable(settings: Settings, models: Iterable[str]) -> Unservable:
    """Which of these models nobody can serve as things are. Asks the living workers' servers what they have on disk."""
    snapshot = open_observer(settings).snapshot()
    disk, planned = installed_models(snapshot, settings.queue.root), _planned(settings, snapshot)
    reasons: dict[str, str] = {}
    for model in sorted({canonical_model(model) for model in models}):
        size_mib = disk[model].size_mib if model in disk else 0
        why = nowhere(model, snapshot, settings, planned=planned, disk_mib=size_mib)
        if why is not None:
            reasons[model] = why
    return Unservable(reasons, others_work=_others_work(snapshot, reasons))


class ServableWatch:
    """For who waits: asked now and then whether anything ever ends, at most one part in ``LOOK_SHARE`` of the time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._next_s = time.monotonic() + UNSERVABLE_S

    def moved(self) -> None:
        """Something has ended: nothing need be asked for a while."""
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


def check_fit(settings: Settings, models: Iterable[str]) -> None:
    """Whether each of these models may fit somewhere. Raises ``ModelDoesNotFit`` with the numbers."""
    reasons = find_unservable(settings, models).reasons
    if reasons:
        first = next(iter(reasons))
        raise ModelDoesNotFit("; ".join(reasons.values()), hint=what_helps(first))


def _planned(settings: Settings, snapshot: SwarmSnapshot) -> list[Planned]:
    """Workers with a model server that the running swarm is to have and that do not live now."""
    plans = load_plan(Path(settings.queue.root) / "workers") if lives(settings, "supervisor") else None
    living = {view.name for view in snapshot.workers if view.alive}
    return [Planned(p.name, p.vram_mib) for p in plans or () if p.url is not None and p.name not in living]


def _others_work(snapshot: SwarmSnapshot, models: Iterable[str]) -> bool:
    """A task that waits for others is not counted: it goes when they do, or never."""
    unserved = set(models)
    if any(claim.task_class != TaskClass.RESOURCE for claim in snapshot.claims):
        return True
    claimable = (lane for lane in snapshot.lanes if lane.pending and lane.task_class is not TaskClass.RESOURCE)
    if any(lane.model not in unserved for lane in claimable):
        return True
    may_come = ("time", "pause", "brain")
    return any(obstacle(b) in may_come and b.model not in unserved and b.resource is None for b in snapshot.blocked)


def unservable_words(reasons: Mapping[str, str]) -> list[str]:
    """For the end of a wait: what is left, why, and what to do."""
    return [f"not done: {why}; {what_helps(model)}" for model, why in reasons.items()]


def say_unservable(settings: Settings, models: Iterable[str]) -> None:
    """A note on standard error: such tasks are taken all the same, for a bigger card may come."""
    for why in find_unservable(settings, models).reasons.values():
        print(f"note: {why}; its tasks wait until that has changed", file=sys.stderr)
