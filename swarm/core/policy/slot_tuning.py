"""How many requests at once: climbed or lowered on the batch's own requests, by tokens a second.

One ``Tuning`` belongs to one model, on one card, for requests of about one length. It is a value: each function returns the
next one, time is passed in.

* A *sample* is the total rate that one ended request implies: requests in flight x its tokens / its seconds. It counts only
  if the number in flight was the tuning's own for its whole life.
* Levels are those of ``LADDER``, and the limit itself. Two are *told apart* once their difference exceeds the noise of both,
  or enough samples say that there is none.
* Climbing doubles as long as each doubling pays ``WORTH``; if the first step up does not pay, the way down is tried.
* A settled tuning tries a neighbour now and then, less often each time that this changed nothing, and starts again when the
  rate of its own level has drifted.
* What ran out of memory lowers the limit for good.
"""

from __future__ import annotations

import math

import msgspec

from swarm.core.policy.slot_levels import (
    DRIFT,
    ENOUGH,
    FREE,
    LADDER,
    MEMORY,
    PLENTY,
    WORTH,
    Rate,
    at_most,
    below,
    between,
    drifted,
    few_end_s,
    mixed,
    told_apart,
)
from swarm.core.policy.slot_state import PROBE_SHARE, PROBE_SHARE_MAX, Phase, Tuning

FIRST = 4
"""Where a tuning starts that knows nothing, if the limit allows."""
NEAR = 0.1
"""The mean number in flight during a request may be off by this much for its sample to count."""
SOON, LATE = 1.25, 1.5
"""A step up is taken back if its first answers take ``SOON`` times as long as at the old rate, one to a level in between if
they take ``LATE`` times as long (what is in flight beyond it has to end first), and either after twice ``LATE`` where those
that came are not slow."""
LATE_LEAST_S = 3.0
"""Not before this: short requests may all be waiting for something else, such as a load that has just ended."""
HISTORY = 16

replace = msgspec.structs.replace


def start(limit: int, *, first: int = FIRST, now_s: float = 0.0) -> Tuning:
    """A tuning that knows nothing yet."""
    slots = at_most(min(first, limit), limit)
    return Tuning(slots=slots, best=slots, limit=max(1, limit), since_s=now_s, look_s=now_s)


def remembered(limit: int, slots: int, tokens_s: float, *, now_s: float) -> Tuning:
    """A tuning that takes up what an earlier life found: it is held, and starts again if that holds no more."""
    if slots > limit or tokens_s <= 0:
        return start(limit, first=slots or FIRST, now_s=now_s)
    known = Rate(tokens_s, (0.1 * tokens_s) ** 2, ENOUGH)
    return Tuning(
        slots=slots,
        best=slots,
        limit=limit,
        rates={slots: known},
        trying="held",
        climbed=True,
        since_s=now_s,
        look_s=now_s,
        step_s=ENOUGH,
    )


def measured(tuning: Tuning, in_flight: float, tokens_s: float) -> Tuning:
    """The same with one more sample, and nothing is tried: for a number that is set."""
    if abs(in_flight / tuning.slots - 1) > NEAR or tokens_s <= 0:
        return tuning
    total_s = tuning.slots * tokens_s
    recent = (*tuning.recent, total_s)[-MEMORY:]
    rates = {**tuning.rates, tuning.slots: mixed(tuning.rates.get(tuning.slots), total_s, 0.0)}
    return replace(tuning, rates=rates, recent=recent, trying="held")


def limited(tuning: Tuning, limit: int, now_s: float) -> Tuning:
    """The same under another limit. What is held climbs on if the limit stood in its way and stands higher now."""
    limit = max(1, limit)
    if limit == tuning.limit:
        return tuning
    climbs = limit > tuning.limit and tuning.settled and tuning.best == tuning.limit
    rates = {level: rate for level, rate in tuning.rates.items() if level <= limit}
    tuning = replace(tuning, limit=limit, rates=rates)
    if tuning.best > limit or tuning.slots > limit:
        best = max(rates, key=lambda level: rates[level].mean, default=at_most(limit, limit))
        return replace(tuning, slots=best, best=best, trying="here", since_s=now_s, look_s=now_s, recent=())
    if climbs and (up := _up(tuning)) is not None:
        return _moved(tuning, up, "up", now_s)
    return tuning


def out_of_memory(tuning: Tuning, slots: int, now_s: float) -> Tuning:
    """``slots`` did not fit: nothing from there on is tried again."""
    return limited(tuning, min(tuning.limit, below(slots)), now_s)


def sampled(tuning: Tuning, in_flight: float, tokens_s: float, *, began_s: float, now_s: float) -> Tuning:
    """One ended request, beside which ``in_flight`` ran on average, itself included. Returns what to do from now on.

    ``tokens_s``: its own tokens over its own seconds.
    """
    if began_s < tuning.since_s or abs(in_flight / tuning.slots - 1) > NEAR or tokens_s <= 0:
        return tuning
    total_s = tuning.slots * tokens_s
    rate = mixed(tuning.rates.get(tuning.slots), total_s, now_s - began_s)
    tuning = replace(tuning, rates={**tuning.rates, tuning.slots: rate})
    return _held(tuning, total_s, now_s) if tuning.settled else _tried(tuning, now_s)


def overdue_s(tuning: Tuning, tokens: float) -> float | None:
    """When a step up is given up for want of answers (clock seconds): ``tokens`` is what a request has on average.

    Beyond the memory of a card answers come many times slower: waiting for enough of them would cost more than knowing.
    The first answer is due as soon as a few of those in flight would have ended at the old rate.
    """
    known = tuning.rates.get(tuning.slots)
    if tuning.trying not in {"up", "between"} or (known is not None and known.n >= ENOUGH):
        return None
    old = tuning.rates[tuning.best]
    life_s = max(tuning.slots, ENOUGH) * tokens / old.mean
    patience = SOON if tuning.trying == "up" else LATE
    if known is not None and SOON * known.mean > old.mean:
        patience = 2 * LATE
    elif known is None and tuning.trying == "up" and old.lives_s:
        life_s = tuning.slots / tuning.best * few_end_s(old, tuning.slots - tuning.best)
    return tuning.since_s + max(LATE_LEAST_S, patience * life_s)


def paused(tuning: Tuning, for_s: float) -> Tuning:
    """The same after a time in which too few requests were in flight to tell anything: what is timed goes on from there."""
    return replace(tuning, since_s=tuning.since_s + for_s, look_s=tuning.look_s + for_s)


def overdue(tuning: Tuning, now_s: float) -> Tuning:
    """The step up is taken back; what it was expected to give at most is put on record."""
    old = tuning.rates[tuning.best]
    slow = Rate(old.mean / LATE, (0.1 * old.mean) ** 2, ENOUGH)
    tuning = replace(tuning, rates={**tuning.rates, tuning.slots: slow})
    return _after_up(tuning, 1 / LATE, now_s) if tuning.trying == "up" else _settled(tuning, tuning.best, now_s)


def _up(tuning: Tuning) -> int | None:
    """The level at twice the best, or the highest the limit allows."""
    up = at_most(2 * tuning.best, tuning.limit)
    return up if up > tuning.best else None


def _down(tuning: Tuning) -> int | None:
    lower = [level for level in LADDER if level < tuning.best and 2 * level >= tuning.best]
    return lower[0] if lower else None


def _moved(tuning: Tuning, slots: int, trying: Phase, now_s: float) -> Tuning:
    """Keep another number in flight; what was known of it is measured anew, unless it is the one to be held."""
    fresh = {level: rate for level, rate in tuning.rates.items() if level != slots or trying == "held"}
    history = tuning.history
    if tuning.slots in tuning.rates:
        history = (*history, (tuning.slots, round(tuning.tokens_per_s, 3)))[-HISTORY:]
    since_s = tuning.since_s if slots == tuning.slots else now_s
    return replace(
        tuning,
        slots=slots,
        trying=trying,
        since_s=since_s,
        look_s=now_s,
        step_s=now_s - tuning.look_s,
        rates=fresh,
        recent=(),
        history=history,
    )


def _tried(tuning: Tuning, now_s: float) -> Tuning:
    new = tuning.rates[tuning.slots]
    if tuning.trying == "here":
        up = _up(tuning)
        if new.n < ENOUGH:
            return tuning
        return _moved(tuning, up, "up", now_s) if up is not None else _try_down(tuning, now_s)
    old = tuning.rates[tuning.best]
    if not told_apart(new, old, tuning.slots):
        return tuning
    gain = new.mean / old.mean
    if tuning.trying == "up":
        return _after_up(tuning, gain, now_s)
    if tuning.trying == "down":
        return _after_down(tuning, gain, now_s)
    return _after_between(tuning, gain, now_s)


def _after_down(tuning: Tuning, gain: float, now_s: float) -> Tuning:
    """One that costs nothing is kept, and the next tried.

    If it cost too much, the best may still lie below the level above, if that was tried on the way and worse.
    """
    if tuning.rates[tuning.best].n >= PLENTY and gain > 1 + DRIFT:  # no: the card has changed meanwhile
        return _settled(tuning, tuning.best, now_s)
    if gain >= FREE:
        middle = between(tuning.slots, tuning.best) if gain > WORTH and not tuning.climbed else None
        tuning = replace(tuning, best=tuning.slots, patience=PROBE_SHARE)
        return _try_down(tuning, now_s) if middle is None else _moved(tuning, middle, "between", now_s)
    left = sorted(level for level in tuning.rates if level > tuning.best)
    worse = bool(left) and tuning.rates[left[0]].mean < FREE * tuning.rates[tuning.best].mean
    middle = between(tuning.best, left[0]) if (len(left) > 1 or worse) and not tuning.climbed else None
    return _settled(tuning, tuning.best, now_s) if middle is None else _moved(tuning, middle, "between", now_s)


def _after_up(tuning: Tuning, gain: float, now_s: float) -> Tuning:
    if gain >= WORTH:
        tuning = replace(tuning, best=tuning.slots, climbed=True, patience=PROBE_SHARE)
        up = _up(tuning)
        return _moved(tuning, up, "up", now_s) if up is not None else _settled(tuning, tuning.slots, now_s)
    middle = between(tuning.best, tuning.slots)
    if gain < FREE and middle is not None and tuning.climbed:
        return _moved(tuning, middle, "between", now_s)
    return _settled(tuning, tuning.best, now_s) if tuning.climbed else _try_down(tuning, now_s)


def _after_between(tuning: Tuning, gain: float, now_s: float) -> Tuning:
    """The better of both is held, unless the way further down is not known yet."""
    if gain > 1.0:
        return _settled(tuning, tuning.slots, now_s)
    down = _down(tuning)
    return _settled(tuning, tuning.best, now_s) if tuning.climbed or down in tuning.rates else _try_down(tuning, now_s)


def _try_down(tuning: Tuning, now_s: float) -> Tuning:
    down = _down(tuning)
    return _moved(tuning, down, "down", now_s) if down is not None else _settled(tuning, tuning.best, now_s)


def _settled(tuning: Tuning, best: int, now_s: float) -> Tuning:
    patience = PROBE_SHARE if best != tuning.best else min(tuning.patience * 2, PROBE_SHARE_MAX)
    return replace(_moved(tuning, best, "held", now_s), best=best, patience=patience)


def _held(tuning: Tuning, tokens_s: float, now_s: float) -> Tuning:
    tuning = replace(tuning, recent=(*tuning.recent, tokens_s)[-MEMORY:])
    if drifted(tuning.recent, tuning.rates[tuning.best]):
        fresh = start(tuning.limit, first=tuning.best, now_s=now_s)
        return replace(fresh, history=(*tuning.history, (tuning.best, round(tuning.best_tokens_per_s, 3)))[-HISTORY:])
    if (better := _regretted(tuning)) is not None:
        return _moved(tuning, better, "up" if better > tuning.best else "between", now_s)
    target = _neighbour(tuning)
    if now_s - tuning.look_s < tuning.patience * max(tuning.step_s, 1.0) * _dread(tuning, target):
        return tuning
    if target is None:
        return replace(tuning, look_s=now_s)
    tuning = replace(tuning, looks=tuning.looks + 1, climbed=True)
    return _moved(tuning, target, "up" if target > tuning.best else "down", now_s)


def _neighbour(tuning: Tuning) -> int | None:
    """The level to look at next: above and below in turn, and never beyond one above that was worse."""
    up, down = _up(tuning), _down(tuning)
    worse = [level for level in tuning.rates if level > tuning.best]
    if up is not None and worse:
        up = min(up, *worse)
    order = (up, down) if tuning.looks % 2 == 0 else (down, up)
    return next((one for one in order if one is not None), None)


def _dread(tuning: Tuning, target: int | None) -> float:
    """How many times as long a look at this level is put off: by so much as it was worse, at least 1."""
    known = tuning.rates.get(target) if target is not None else None
    return max(1.0, tuning.rates[tuning.best].mean / known.mean) if known is not None else 1.0


def _regretted(tuning: Tuning) -> int | None:
    """A level that was left for this one, whose first few samples promised more than it gives now that it is well known."""
    own = tuning.rates[tuning.best]
    if not 2 * ENOUGH <= own.n <= PLENTY:
        return None
    doubt = 1.0 if own.n < PLENTY else 0.0
    known = [
        level
        for level, rate in tuning.rates.items()
        if rate.n >= ENOUGH and rate.mean - WORTH * own.mean > doubt * math.hypot(rate.error, own.error)
    ]
    return max(known, key=lambda level: tuning.rates[level].mean, default=None)
