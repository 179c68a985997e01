"""Which places live requests have at a worker: how many, which batch requests give way, what is kept free after. Pure.

* A live request gets a slot of the engine at once: where all are taken, the batch requests that lost least are stopped.
* A place that a live request has left is kept free for the next one, for ``KEEP_S``.
* What batch work loses by both is paid from a credit in slot-seconds, which grows by the share that live requests may take.
  With it used up nothing is stopped and nothing kept: so a card with one slot gets on with its batches too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

KEEP_S = 5.0
CREDIT_S = 120.0
"""The credit is at most what so many seconds make."""
_EXACT = 1e-9
"""0.29 of 100 slots are 29, whatever the machine's numbers say."""


def place_limit(slots: int, share: float) -> int:
    """Live requests at once beside batch work, for a model with so many slots; none without slots."""
    return max(1, int(share * slots + _EXACT)) if slots > 0 else 0


class BatchRequest(NamedTuple):
    """A request of a batch at the engine."""

    age_s: float
    alone: bool = False
    """Nothing may run beside it."""


def giving_way(batch: Sequence[BatchRequest], *, live: int, room: int, credit_s: float) -> tuple[int, ...] | None:
    """Which of the batch requests are stopped so that one more live request finds a slot, by their index.

    ``live`` requests are at the engine already, which has ``room`` for so many at once. Empty: there is a slot.
    None: it has to wait, since nothing is left to be stopped or the credit is used up.
    """
    youngest_first = sorted(range(len(batch)), key=lambda index: (not batch[index].alone, batch[index].age_s))
    too_many = max(len(batch) + live + 1 - room, sum(one.alone for one in batch))
    if too_many <= 0:
        return ()
    if too_many > len(batch) or credit_s <= 0:
        return None
    return tuple(youngest_first[:too_many])


def surplus(batch: Sequence[BatchRequest], *, live: int, room: int) -> tuple[int, ...]:
    """Which batch requests began although a live one was about to have their slot: they have lost next to nothing."""
    too_many = len(batch) + live - room if live else 0
    return tuple(sorted(range(len(batch)), key=lambda index: batch[index].age_s)[: max(0, too_many)])


class LiveUse(msgspec.Struct, frozen=True, kw_only=True):
    """What live requests take up at a worker, up to the moment ``at_s`` (monotonic)."""

    at_s: float
    credit_s: float
    """Slot-seconds that batch work may still lose; below 0 after a stop that cost more."""
    in_flight: int = 0
    kept_until_s: tuple[float, ...] = ()
    """Of each place that is kept free; rising."""

    @property
    def kept(self) -> int:
        """Places that are kept free for the next live requests; none without credit."""
        return len(self.kept_until_s) if self.credit_s > 0 else 0

    @property
    def active(self) -> bool:
        """Live requests are here, or were a moment ago."""
        return self.in_flight > 0 or bool(self.kept_until_s)


def fresh_use(now_s: float, *, slots: int, share: float) -> LiveUse:
    """Nothing used yet, the credit full."""
    return LiveUse(at_s=now_s, credit_s=CREDIT_S * share * slots)


def advanced(use: LiveUse, now_s: float, *, slots: int, share: float) -> LiveUse:
    """The same at a later moment: the credit has grown by the share and paid for the places; some are kept no more."""
    passed_s = max(0.0, now_s - use.at_s)
    used_s = use.in_flight * passed_s
    if use.credit_s > 0:
        used_s += sum(max(0.0, min(until_s, now_s) - use.at_s) for until_s in use.kept_until_s)
    rate = share * slots
    return LiveUse(
        at_s=now_s,
        credit_s=min(use.credit_s + rate * passed_s - used_s, CREDIT_S * rate),
        in_flight=use.in_flight,
        kept_until_s=tuple(until_s for until_s in use.kept_until_s if until_s > now_s),
    )


def entered(use: LiveUse, lost_s: float = 0.0) -> LiveUse:
    """One more live request, in a kept place if there is one; batch requests of ``lost_s`` together were stopped for it.

    It takes the place that would be kept longest: the others run out.
    """
    return msgspec.structs.replace(
        use, in_flight=use.in_flight + 1, kept_until_s=use.kept_until_s[:-1], credit_s=use.credit_s - lost_s
    )


def left(use: LiveUse, now_s: float) -> LiveUse:
    """One live request has ended; its place is kept."""
    return msgspec.structs.replace(use, in_flight=use.in_flight - 1, kept_until_s=(*use.kept_until_s, now_s + KEEP_S))


def batch_slots(slots: int, use: LiveUse, *, room: int) -> int:
    """For how many requests, live ones included, batch work may be claimed. ``slots``: without live requests.

    With live requests about no more than the engine has ``room`` for: what waits in the engine would stand before them.
    """
    return max(0, min(slots, room) - use.kept) if use.active else slots
