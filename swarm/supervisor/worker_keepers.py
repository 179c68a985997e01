"""The keepers of workers: those of the configuration, and those that come and go with cards of other machines.

What is to be kept is decided by ``core.nodes.worker_changes``. A worker that has ended for good is kept listed while the
configuration names it, and dropped otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from swarm.core.nodes.node_record import NodesSeen
from swarm.core.nodes.worker_changes import (
    AddWorker,
    DrainWorker,
    KeptWorker,
    StopWorker,
    UpdatePlan,
    WantedWorkers,
    WorkerChange,
    wanted_workers,
    worker_changes,
)
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.supervisor.keeper import Keeper
from swarm.supervisor.state import ChildState

log = logging.getLogger(__name__)


class _Kept:
    """One worker, with its keeper."""

    def __init__(self, plan: WorkerPlan, keeper: Keeper) -> None:
        self.plan = plan
        self.keeper = keeper
        self.leaving = self.stopping = False

    @property
    def value(self) -> KeptWorker:
        return KeptWorker(self.plan, self.keeper.state is ChildState.EXITED, self.leaving)


class WorkerKeepers:
    """Used by one thread."""

    def __init__(
        self,
        planned: Sequence[WorkerPlan],
        keeper_of: Callable[[WorkerPlan], Keeper],
        look: Callable[[], NodesSeen] | None = None,
        sources: Collection[str] = (),
    ) -> None:
        """``look`` tells the records of nodes, the same object while they are the same; None: only ``planned`` is kept.

        ``sources``: who writes such records here.
        """
        self._planned = tuple(planned)
        self._keeper_of = keeper_of
        self._look = look
        self._sources = frozenset(sources)
        self._kept = {plan.name: _Kept(plan, keeper_of(plan)) for plan in planned}
        self._seen: NodesSeen | None = None
        self._wanted = WantedWorkers({})

    @property
    def plans(self) -> tuple[WorkerPlan, ...]:
        """Of all that are kept."""
        return tuple(kept.plan for kept in self._kept.values())

    @property
    def keepers(self) -> tuple[Keeper, ...]:
        """Of all of them."""
        return tuple(kept.keeper for kept in self._kept.values())

    def follow(self) -> bool:
        """Have what the records ask for; whether the plans have changed. Raises ``StorageFault``."""
        if self._look is None:
            return False
        seen = self._look()
        if seen is not self._seen:
            self._seen, self._wanted = seen, wanted_workers(self._planned, seen, self._sources)
            for trouble in self._wanted.troubles:
                log.warning("%s", trouble)
        before = self.plans
        for change in worker_changes({name: kept.value for name, kept in self._kept.items()}, self._wanted.workers):
            self._carry_out(change)
        return self.plans != before

    def _carry_out(self, change: WorkerChange) -> None:
        match change:
            case AddWorker(plan):
                self._drop(plan.name)
                self._kept[plan.name] = _Kept(plan, self._keeper_of(plan))
                log.info("%s is kept, for card %s", plan.name, plan.url)
            case UpdatePlan(plan):
                self._kept[plan.name].plan = plan
            case DrainWorker(name, reason):
                self._kept[name].leaving = True
                self._kept[name].keeper.drain(reason)
                log.info("%s finishes its work: %s", name, reason)
            case StopWorker(name, reason):
                kept = self._kept[name]
                if not kept.stopping:
                    (log.info if kept.leaving else log.warning)("%s is stopped: %s", name, reason)
                    kept.leaving = kept.stopping = True
                    kept.keeper.stop(reason)
            case _:
                self._drop(change.name)

    def _drop(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            kept.keeper.process.close()
