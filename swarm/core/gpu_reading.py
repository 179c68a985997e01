"""One card's reading, as a driver told it. Any part of it may be missing; a lost card is a value, not a crash."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec


class GpuProcess(msgspec.Struct, frozen=True):
    """A process that holds memory on a card."""

    pid: int
    used_mib: int | None


class MigInstance(msgspec.Struct, frozen=True):
    """Which part of which card a MIG instance is."""

    gpu_index: int
    gpu_uuid: str
    gi: int | None = None
    """GPU instance and compute instance, where the driver tells them."""
    ci: int | None = None


class GpuReading(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One card at one moment. ``None`` means the driver did not say; it never stands for zero."""

    node: str = ""
    """Machine that it is in; empty: this one."""
    index: int
    """The driver's, in the order of the PCI bus; a MIG instance's is 100 and more (see ``swarm.gpu.nvml``)."""
    uuid: str
    """What ``CUDA_VISIBLE_DEVICES`` calls it: its UUID, or its index where the driver tells no UUID of its own."""
    name: str
    mig: MigInstance | None = None
    """Set for a MIG instance, which is a card like any other."""
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
    unreached: bool = False
    """It has a fault only since its machine is not reached."""

    @property
    def title(self) -> str:
        """``GPU 0``; of another machine ``GPU 0 of box2``."""
        return f"GPU {self.index} of {self.node}" if self.node else f"GPU {self.index}"

    def is_one_of(self, uuids: Collection[str]) -> bool:
        """Whether it is named there. A driver that tells a UUID only now and then had it called by its index meanwhile.

        Only a card of this machine is ever called by its index.
        """
        return self.uuid in uuids or (not self.node and str(self.index) in uuids)


def held_mib(cards: Iterable[GpuReading], uuids: Collection[str], pids: Collection[int]) -> int:
    """Memory of the named cards that these processes hold; 0 where the driver does not say."""
    return sum(one.used_mib or 0 for card in named(cards, uuids) for one in card.processes or () if one.pid in pids)


def named(cards: Iterable[GpuReading], uuids: Collection[str]) -> list[GpuReading]:
    """Those of these cards that are named there."""
    return [card for card in cards if card.is_one_of(uuids)]
