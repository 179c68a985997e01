"""How much work waits per model, and what the workers have learned of it."""

from __future__ import annotations

import msgspec

from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import TaskClass
from swarm.core.worker import ModelTally

DEFAULT_TASK_S = 1.0
DEFAULT_LOAD_S = 10.0
"""Assumed until a worker has run one task, or done one load, of the model."""


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """One model's waiting work."""

    model: str
    waiting: int
    """Tasks no worker holds, those a dead worker is about to give back included."""
    running: int
    task_s: float
    """Learned seconds per task in one slot."""
    load_s: float
    """Learned seconds per load."""
    unserved_s: float
    size_mib: int
    """Largest size seen; 0 while unknown."""

    proven: bool = True
    """It was loaded somewhere: what it takes is known."""

    @property
    def work_s(self) -> float:
        """Slot-seconds of work left; a running task counts half."""
        return (self.waiting + self.running / 2) * self.task_s


def demands(snapshot: SwarmSnapshot) -> dict[str, Demand]:
    """Demand of every model that has tasks waiting or running, by model name."""
    alive = {w.name for w in snapshot.workers if w.alive}
    open_lanes = (lane for lane in snapshot.lanes if lane.pending and not snapshot.pauses.model(lane.model))
    waiting = {lane.model: lane.pending for lane in open_lanes if lane.model}
    unserved_s = {lane.model: lane.unserved_s for lane in snapshot.lanes if lane.model}
    running: dict[str, int] = {}
    for claim in snapshot.claims:
        if claim.task_class == TaskClass.LLM and claim.model is not None:
            counts = running if claim.worker in alive else waiting
            counts[claim.model] = counts.get(claim.model, 0) + 1
    tallies = _tallies(snapshot)
    every = [tally for of_model in tallies.values() for tally in of_model]
    return {
        model: msgspec.structs.replace(
            _learned(model, tallies.get(model, []), every),
            waiting=waiting.get(model, 0),
            running=running.get(model, 0),
            unserved_s=unserved_s.get(model, 0.0),
        )
        for model in sorted({*waiting, *running})
    }


def no_demand(model: str, snapshot: SwarmSnapshot) -> Demand:
    """A model for which nothing waits or runs, with what was learned of it."""
    tallies = _tallies(snapshot)
    every = [tally for of_model in tallies.values() for tally in of_model]
    return _learned(model, tallies.get(model, []), every)


def _learned(model: str, tallies: list[ModelTally], every: list[ModelTally]) -> Demand:
    return Demand(
        model=model,
        waiting=0,
        running=0,
        task_s=_task_s(tallies),
        load_s=_load_s(tallies, every),
        unserved_s=0.0,
        size_mib=max((t.size_mib for t in tallies), default=0),
        proven=any(t.loads or t.size_mib for t in tallies),
    )


def _tallies(snapshot: SwarmSnapshot) -> dict[str, list[ModelTally]]:
    found: dict[str, list[ModelTally]] = {}
    for view in snapshot.workers:
        if view.heartbeat is not None:
            for model, tally in view.heartbeat.models.items():
                found.setdefault(model, []).append(tally)
    return found


def _task_s(tallies: list[ModelTally]) -> float:
    done = sum(t.completed + t.failed for t in tallies)
    busy_s = sum(t.busy_s for t in tallies)
    return busy_s / done if done and busy_s > 0 else DEFAULT_TASK_S


def _load_s(tallies: list[ModelTally], every: list[ModelTally]) -> float:
    """Of this model where known, else the mean over all models, which is a better guess than a constant."""
    for known in (tallies, every):
        loads = sum(t.loads for t in known)
        if loads:
            return sum(t.load_s for t in known) / loads
    return DEFAULT_LOAD_S
