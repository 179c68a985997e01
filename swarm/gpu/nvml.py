"""Reads NVIDIA cards through NVML.

* Any reading may be missing, and a lost card is a value: nothing here crashes on hardware.
* No driver or no library is a normal case: no cards, and ``unavailable`` says why.
* A card split by MIG is as many cards as it has instances, numbered from 100 on card 0, from 200 on card 1, and so on: the
  others keep their numbers.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from swarm.core.gpu_reading import GpuReading, MigInstance
from swarm.gpu.nvml_calls import CardLost, DriverUnavailable, NvmlCalls

UNKNOWN = "unknown"
NO_INSTANCE = "MIG mode is on and the card has no instance: create one (nvidia-smi mig -cgi … -C), or switch the mode off"
_INSTANCES = 100


class _Known(msgspec.Struct, frozen=True):
    """Who a card is: remembered, because a lost card can no longer say it."""

    uuid: str
    name: str
    total_mib: int | None
    mig: MigInstance | None = None


class NvmlReader:
    """Fits the ``GpuReader`` port. Not thread-safe. NVML is looked for at the first ``read``, and again while missing."""

    def __init__(self) -> None:
        self.unavailable: str | None = None
        """Why ``read`` finds no cards: no library, no driver, no permission. None while NVML answers."""
        self._nvml: NvmlCalls | None = None
        self._known: dict[int, dict[int, _Known]] = {}
        """By the driver's index, then by ours."""

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now, by index. Cards seen earlier stay in the list with a ``fault`` when they or the driver fail.

        A sick driver can block in the kernel; call it where that may be waited for (``TimeoutReader``).
        """
        try:
            nvml = self._nvml = self._nvml or NvmlCalls()
            number = nvml.count()
        except DriverUnavailable as error:
            self._nvml = None
            self.unavailable = str(error)
            return tuple(card for place in sorted(self._known) for card in self._lost(place, str(error)))
        self.unavailable = None
        places = sorted({*range(number), *self._known})
        cards = _with_unique_uuids([card for place in places for card in self._cards(nvml, place)])
        answering = {card.uuid for card in cards if card.fault is None}
        # After a driver reset a lost card may be missing from the count, and the others have moved up.
        return tuple(c for c in cards if c.fault is None or c.uuid not in answering)

    def close(self) -> None:
        """Release the library."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            nvml.close()

    def _cards(self, nvml: NvmlCalls, place: int) -> list[GpuReading]:
        """The card at one of the driver's places: one, or its MIG instances."""
        try:
            # Looked up each time: a handle of before a driver reset would stay lost for ever.
            handle = nvml.handle(place)
            if handle is None:
                return [self._reading(nvml, place, place, None)]
            parts = nvml.instances(handle)
            if parts is None:
                return [self._reading(nvml, place, place, handle)]
            if not parts:
                return [msgspec.structs.replace(self._reading(nvml, place, place, handle), fault=NO_INSTANCE)]
            whole = nvml.uuid(handle) or str(place)
            return [self._instance(nvml, place, number, whole, handle, part) for number, part in parts]
        except CardLost as error:
            return self._lost(place, str(error))

    def _lost(self, place: int, fault: str) -> list[GpuReading]:
        known = self._known.get(place) or {place: _Known(str(place), UNKNOWN, None)}
        return [
            GpuReading(index=i, uuid=k.uuid, name=k.name, memory_total_mib=k.total_mib, mig=k.mig, fault=fault)
            for i, k in sorted(known.items())
        ]

    def _instance(self, nvml: NvmlCalls, place: int, number: int, whole: str, parent: Any, handle: Any) -> GpuReading:  # noqa: ANN401
        """A MIG instance. The temperature is the whole card's; power and energy cannot be split, so no instance has them."""
        ids = nvml.instance_ids(handle)
        mig = MigInstance(gpu_index=place, gpu_uuid=whole, gi=ids[0] if ids else None, ci=ids[1] if ids else None)
        card = self._reading(nvml, place, _INSTANCES * (place + 1) + number, handle, mig)
        return msgspec.structs.replace(card, temperature_c=nvml.temperature_c(parent), power_w=None, energy_j=None)

    def _reading(self, nvml: NvmlCalls, place: int, index: int, handle: Any, mig: MigInstance | None = None) -> GpuReading:  # noqa: ANN401
        """One card's readings; without a ``handle`` nothing is known of it but that it is there."""
        if handle is None:
            return GpuReading(index=index, uuid=str(index), name=UNKNOWN)
        memory = nvml.memory_mib(handle)
        known = self._identify(nvml, place, index, handle, memory[0] if memory else None, mig)
        return GpuReading(
            index=index,
            uuid=known.uuid,
            name=known.name,
            mig=mig,
            memory_total_mib=known.total_mib,
            memory_used_mib=memory[1] if memory else None,
            utilisation_pct=nvml.utilisation_pct(handle),
            temperature_c=nvml.temperature_c(handle),
            power_w=nvml.power_w(handle),
            energy_j=nvml.energy_j(handle),
            processes=nvml.processes(handle),
        )

    def _identify(
        self,
        nvml: NvmlCalls,
        place: int,
        index: int,
        handle: Any,  # noqa: ANN401
        total_mib: int | None,
        mig: MigInstance | None,
    ) -> _Known:
        """Who it is; what it does not say now is as it was before."""
        before = self._known.get(place, {}).get(index)
        uuid = nvml.uuid(handle) or (before.uuid if before is not None else None) or _name_for(index, mig)
        if before is not None and before.uuid != uuid:
            before = None
        name = (before.name if before is not None and before.name != UNKNOWN else None) or nvml.name(handle) or UNKNOWN
        total_mib = total_mib if total_mib is not None else (before.total_mib if before is not None else None)
        known = _Known(uuid, name, total_mib, mig)
        siblings = self._known.get(place, {}).items() if mig is not None else ()
        self._known[place] = {**{i: k for i, k in siblings if k.mig is not None}, index: known}
        return known


def _name_for(index: int, mig: MigInstance | None) -> str:
    """What CUDA accepts instead of a UUID that the driver does not give."""
    if mig is not None and mig.gi is not None and mig.gpu_uuid.startswith("GPU-"):
        return f"MIG-{mig.gpu_uuid}/{mig.gi}/{mig.ci}"
    return str(index)


def _with_unique_uuids(cards: list[GpuReading]) -> list[GpuReading]:
    """Cards that share a UUID (a driver's fault) are called by their indices."""
    times = Counter(card.uuid for card in cards if card.fault is None)
    return [msgspec.structs.replace(c, uuid=str(c.index)) if c.fault is None and times[c.uuid] > 1 else c for c in cards]
