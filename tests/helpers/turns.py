"""A brain without processes: looks into a real queue, decides, and applies, one turn at a time."""

from __future__ import annotations

import logging
import time
from typing import Any

from swarm.brain.apply import Applied, Effects
from swarm.clock import now_iso
from swarm.config.settings import Settings
from swarm.core.policy.decide import decide
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import TaskState, Trail
from swarm.queue.file_queue import FileQueue
from tests.helpers.crashworld import spare_rule
from tests.helpers.queues import claim_one, finish_one

ANSWER = Trail(result={"message": {"content": "done"}, "usage": {"total_tokens": 3}})


class TurnedBrain:
    """The brain of a queue in which no worker is registered: what it does with blocked, cancelled and dropped-in tasks."""

    def __init__(self, queue: FileQueue) -> None:
        self.queue = queue
        self.view = queue.brain_view(spare_rule, ready_only=True)
        self._effects = Effects(self.view, lambda *_: False, Settings(), logging.getLogger("swarm.test"))

    def turn(self) -> list[str]:
        """One turn; the lines of what was done."""
        snapshot = SwarmSnapshot(
            now_iso=now_iso(),
            mono_s=time.monotonic(),
            blocked=self.view.look().blocked,
            drop_ins=self.view.look().drop_ins,
            orphaned=self.view.look().orphaned,
            over_limit=self.view.look().over_limit,
        )
        outcomes = [self._effects.apply(decision) for decision in decide(snapshot, Settings())]
        return [o.detail for o in outcomes if isinstance(o, Applied)]

    def settle(self) -> list[str]:
        """Turns until two in a row do nothing; all lines."""
        lines: list[str] = []
        quiet = 0
        for _ in range(100):
            done = self.turn()
            lines += done
            quiet = 0 if done else quiet + 1
            if quiet == 2:
                return lines
        raise AssertionError(f"it does not come to rest: {lines[-5:]}")


def work(worker: Any, state: TaskState = TaskState.COMPLETED, trail: Trail = ANSWER) -> list[str]:
    """Finish all that can be claimed; ids in order."""
    done = []
    while (claim := claim_one(worker)) is not None:
        assert finish_one(worker, claim, state, trail)
        done.append(claim.task.task_id)
    return done
