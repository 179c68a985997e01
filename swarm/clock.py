"""The system clock. Durations come from the monotonic clock; wall time is for display."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache


class SystemClock:
    """Fits the ``Clock`` port."""

    def mono_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def iso(self, offset_s: float = 0.0) -> str:
        """``now_iso``."""
        return now_iso(offset_s)


def now_iso(offset_s: float = 0.0) -> str:
    """Now, plus an offset, as ISO 8601 with milliseconds and the local offset."""
    now_ms = time.time_ns() // 1_000_000
    if offset_s:
        now_ms += round(offset_s * 1000)
    return _iso_ms(now_ms)


@lru_cache(maxsize=4)
def _iso_ms(epoch_ms: int) -> str:
    """Who submits one task after the other asks many times within a millisecond."""
    second, millisecond = divmod(epoch_ms, 1000)
    head, zone = _second(second)
    return f"{head}.{millisecond:03d}{zone}"


@lru_cache(maxsize=4)
def _second(second: int) -> tuple[str, str]:
    """Date and time, and the local offset then: asking the time zone costs more than all else, and lasts a second."""
    text = datetime.fromtimestamp(second, UTC).astimezone().isoformat(timespec="seconds")
    return text[:19], text[19:]


def parse_iso(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time; a time without an offset is local. Raises ``ValueError``."""
    return datetime.fromisoformat(text).timestamp()


def iso_of(epoch_s: float) -> str:
    """Seconds since the epoch as ISO 8601 with milliseconds and the local offset."""
    return datetime.fromtimestamp(epoch_s, UTC).astimezone().isoformat(timespec="milliseconds")
