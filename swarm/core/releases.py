"""Blocked tasks: which may go to their lane now, and which can never run."""

from __future__ import annotations

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


def waits_for(blocked: BlockedView) -> str:
    """What a blocked task waits for, in words; the first obstacle only."""
    if blocked.failed_dependency is not None:
        return f"its dependency {blocked.failed_dependency} {blocked.failed_how}"
    if blocked.waiting_for:
        others = len(blocked.waiting_for) - 1
        more = f" and {others} more" if others else ""
        return f"waits for task {blocked.waiting_for[0]}{more} to complete"
    if not blocked.session_turn:
        return "waits for an earlier task of its session to end"
    if blocked.due_in_s is not None and blocked.due_in_s > 0:
        return f"waits until its time comes in {blocked.due_in_s:.0f}s"
    if blocked.batch_paused is not None:
        return f"waits because batch {blocked.batch_paused} is paused"
    return "is due and will be released at the brain's next turn"
