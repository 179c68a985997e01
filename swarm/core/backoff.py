"""Waits that double with each failure, up to a cap."""

from __future__ import annotations

_MOST_DOUBLINGS = 60
"""2^60 seconds is past any cap; more would only overflow."""


def doubled_s(base_s: float, doublings: int, cap_s: float) -> float:
    """``base_s`` doubled so many times; at most ``cap_s``."""
    return min(cap_s, base_s * 2.0 ** min(max(doublings, 0), _MOST_DOUBLINGS))
