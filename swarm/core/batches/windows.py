"""How much of each batch may wait in the queue, so that one client's large batch does not hold up another's small one.

The queue is first in, first out. So a batch is submitted in windows: each client has ``WINDOW`` requests waiting at most,
shared by its batches, oldest first; a batch behind others may always have ``LEAST``, so that one whose model no card can
serve does not stop the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

WINDOW = 4000
LEAST = 500


class WindowClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that is being submitted."""

    batch_id: str
    client: str
    waiting: int
    """Of its requests, in the queue and not ended."""
    left: int
    """Not in the queue yet."""


def windows(claims: Sequence[WindowClaim]) -> dict[str, int]:
    """How many requests of each batch to submit now; those left out: none. ``claims``: all open batches, oldest first.

    One that is not running dry is refilled once half of the window is free, or with all that is left.
    """
    room: dict[str, int] = {}
    for claim in claims:
        room[claim.client] = room.get(claim.client, WINDOW) - claim.waiting
    found: dict[str, int] = {}
    for claim in claims:
        number = min(claim.left, max(room[claim.client], LEAST - claim.waiting))
        if number > 0 and (number == claim.left or number >= WINDOW // 2 or claim.waiting < LEAST // 2):
            found[claim.batch_id] = number
            room[claim.client] -= number
    return found
