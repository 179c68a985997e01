"""How many embedding texts go into one request: doubled while that makes them faster, by measured texts a second.

A size whose packs take too long is left, and for long not tried again.
"""

from __future__ import annotations

import msgspec

GAIN = 1.05
"""A larger size must be so many times as fast as half of it to be kept."""
FULL_SHARE = 0.75
"""A pack that is emptier than this part of its size says nothing about the size."""
MOST = 256
AGAIN_AFTER = 100
"""Full packs at the largest size that is allowed since larger ones took too long; then twice that is tried."""
_NEW_SHARE = 0.5
"""The part of the newest pack in the mean rate of a size."""


class PackSize(msgspec.Struct, frozen=True):
    """The size in use, and the rates measured at each size, which are powers of two."""

    size: int = 16
    most: int = MOST
    rates: dict[int, float] = {}
    """Characters a second; texts differ in length."""
    seen: int = 0
    """Packs measured at this size since it was chosen."""


def after_pack(state: PackSize, *, texts: int, characters: int, seconds: float) -> PackSize:
    """What one pack of ``texts`` teaches. A size is left after two full packs at least."""
    if seconds <= 0 or texts < state.size * FULL_SHARE:
        return state
    rate = characters / seconds
    known = state.rates.get(state.size)
    mean = rate if known is None else known + _NEW_SHARE * (rate - known)
    rates = {**state.rates, state.size: mean}
    if state.size == state.most and state.seen >= AGAIN_AFTER:
        state = msgspec.structs.replace(state, most=min(2 * state.most, MOST))
    size = state.size if state.seen < 1 else _better(state, rates)
    return msgspec.structs.replace(state, size=size, rates=rates, seen=state.seen + 1 if size == state.size else 0)


def after_timeout(state: PackSize, *, texts: int) -> PackSize:
    """What a pack of ``texts`` teaches that took too long: half of it is the most."""
    most = 1 << max(0, (texts // 2).bit_length() - 1)
    if most >= state.most:
        return state
    return msgspec.structs.replace(state, most=most, size=min(state.size, most), seen=0)


def _better(state: PackSize, rates: dict[int, float]) -> int:
    size, here = state.size, rates[state.size]
    half, double = rates.get(size // 2), rates.get(size * 2)
    if half is not None and here < half * GAIN:
        return size // 2
    if size * 2 <= state.most and (double is None or double > here * GAIN):
        return size * 2
    return size
