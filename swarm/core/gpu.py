"""A reading of one card. Any part may be missing; a lost card is a value, not a crash."""

from __future__ import annotations

import msgspec


class GpuProcess(msgspec.Struct, frozen=True):
    """A process that holds memory on a card."""

    pid: int
    used_mib: int | None


class GpuReading(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One card at one moment. ``None`` means the driver did not say; it never stands for zero."""

    index: int
    uuid: str
    name: str
    simulated: bool = False
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    utilisation_pct: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    energy_j: float | None = None
    """Used since the driver was loaded; only newer cards count it."""
    processes: tuple[GpuProcess, ...] | None = None
    fault: str | None = None
    """Set when the card is lost or unreadable: the driver's words."""
