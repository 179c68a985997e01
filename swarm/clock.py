"""The system clock. Durations come from the monotonic clock; wall time is for people."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """Fits the ``Clock`` port."""

    def mono_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def iso(self, offset_s: float = 0.0) -> str:
        """Now, plus an offset, as ISO 8601 with milliseconds and the local offset."""
        return (datetime.now(UTC) + timedelta(seconds=offset_s)).astimezone().isoformat(timespec="milliseconds")


def parse_iso(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time; a time without an offset is local. Raises ``ValueError``."""
    return datetime.fromisoformat(text).timestamp()
