"""Numbers, times and sizes as words for readers, and durations read from words."""

from __future__ import annotations

import re

from swarm.errors import InputError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def parse_duration_s(text: str) -> float:
    """``24h``, ``90s``, ``2d``, ``1h30m``, ``500ms`` in seconds. Raises ``InputError``."""
    squeezed = text.strip().lower().replace(" ", "")
    parts = _PART.findall(squeezed)
    if not parts or "".join(number + unit for number, unit in parts) != squeezed:
        raise InputError(f"{text!r} is no duration", hint="write a number and a unit: 90s, 15m, 24h, 2d, 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def duration(seconds: float | None) -> str:
    """``0.4s``, ``34s``, ``6m12s``, ``3h05m``, ``2d04h``; ``-`` when unknown."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def count(number: float) -> str:
    """``1,319``, ``12.4k``, ``3.1M``: at most six characters, for narrow columns."""
    if number < 10_000:
        return f"{number:,.0f}"
    for limit, letter in ((1e6, "k"), (1e9, "M"), (1e12, "G")):
        if number < limit * 0.9995:
            return f"{number / limit * 1e3:.1f}{letter}"
    return f"{number:.1e}"


def rate(per_s: float | None) -> str:
    """``0.25/s``, ``7.9/s``, ``1,234/s``; ``-`` when unknown."""
    if per_s is None:
        return "-"
    if per_s < 10:
        return f"{per_s:.2g}/s" if per_s < 1 else f"{per_s:.1f}/s"
    return f"{count(per_s)}/s"


def mib(used: int | None, total: int | None) -> str:
    """``7.8/24.0G``; ``?`` for what the driver did not say."""
    if used is None and total is None:
        return "-"
    return f"{_gib(used)}/{_gib(total)}G"


def _gib(size_mib: int | None) -> str:
    return "?" if size_mib is None else f"{size_mib / 1024:.1f}"


def percent(part: float | None) -> str:
    """``87%``; ``-`` when unknown."""
    return "-" if part is None else f"{part:.0f}%"


def plural(number: int, noun: str) -> str:
    """``1 task``, ``3 tasks``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
