"""Blocked tasks: which may go to their lane now, and which can never run."""

from __future__ import annotations

from typing import Literal

from swarm.core.snapshot import BlockedView


def due(blocked: BlockedView) -> bool:
    """Time, dependencies and session all let it go."""
    return (
        blocked.failed_dependency is None
        and not blocked.waiting_for
        and blocked.session_turn
        and blocked.batch_paused is None
        and (blocked.due_in_s is None or blocked.due_in_s <= 0)
    )


Obstacle = Literal["task", "session", "time", "pause", "brain"]


def obstacle(blocked: BlockedView) -> Obstacle:
    """What holds a blocked task back, the first in the order in which they are told; ``brain``: it is its turn to act."""
    if blocked.failed_dependency is not None:
        return "brain"
    if blocked.waiting_for:
        return "task"
    if not blocked.session_turn:
        return "session"
    if blocked.due_in_s is not None and blocked.due_in_s > 0:
        return "time"
    return "brain" if blocked.batch_paused is None else "pause"


def waits_for(blocked: BlockedView) -> str:
    """What a blocked task waits for, in words; the first obstacle only."""
    if blocked.failed_dependency is not None:
        return f"its dependency {blocked.failed_dependency} {blocked.failed_how}"
    match obstacle(blocked):
        case "task":
            others = len(blocked.waiting_for) - 1
            more = f" and {others} more" if others else ""
            return f"waits for task {blocked.waiting_for[0]}{more} to complete"
        case "session":
            return "waits for an earlier task of its session to end"
        case "time":
            return f"waits until its time comes in {blocked.due_in_s:.0f}s"
        case "pause":
            return f"waits because batch {blocked.batch_paused} is paused"
        case "brain":
            return "is due and will be released at the brain's next turn"
