"""Reads NVIDIA cards through NVML. Any reading may be missing, and a lost card is a value: nothing here crashes on hardware.

No driver or no library is a normal case: no cards, and ``unavailable`` says why.
"""
# ruff: noqa: ANN401 - NVML's binding has no types

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from swarm.core.gpu import GpuProcess, GpuReading

_MIB = 1 << 20
T = TypeVar("T")


class _Known(msgspec.Struct, frozen=True):
    """Who a card is: remembered, because a lost card can no longer say it."""

    uuid: str
    name: str
    total_mib: int | None


class NvmlReader:
    """Fits the ``GpuReader`` port. Not thread-safe. NVML is looked for at the first ``read``, and again while missing."""

    def __init__(self) -> None:
        self.unavailable: str | None = None
        """Why ``read`` finds no cards: no library, no driver, no permission. None while NVML answers."""
        self._nvml: Any = None
        self._known: dict[int, _Known] = {}

    def read(self) -> tuple[GpuReading, ...]:
        """All cards now, by index. Cards seen earlier stay in the list with a ``fault`` when they or the driver fail.

        A sick driver can block in the kernel; call it where that may be waited for (``PatientReader``).
        """
        try:
            nvml = self._open()
            number = int(nvml.nvmlDeviceGetCount())
        except ImportError as error:
            return self._without(f"the Python module pynvml (package nvidia-ml-py) cannot be loaded: {error}")
        except self._errors as error:
            self._nvml = None
            return self._without(_words(error))
        self.unavailable = None
        cards = [self._card(nvml, index) for index in sorted({*range(number), *self._known})]
        answering = {card.uuid for card in cards if card.fault is None}
        # After a driver reset a lost card may be gone from the count, and the others have moved up.
        return tuple(c for c in cards if c.fault is None or c.uuid not in answering)

    def close(self) -> None:
        """Let go of the library."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            _optional(nvml, nvml.nvmlShutdown)

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (importlib.import_module("pynvml").NVMLError,)

    def _open(self) -> Any:
        if self._nvml is None:
            # Late, so that machines without the library never load it.
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._nvml = nvml
        return self._nvml

    def _without(self, reason: str) -> tuple[GpuReading, ...]:
        self.unavailable = reason
        return tuple(self._lost(index, reason) for index in sorted(self._known))

    def _lost(self, index: int, fault: str) -> GpuReading:
        known = self._known.get(index, _Known("", "unknown", None))
        return GpuReading(index=index, uuid=known.uuid, name=known.name, memory_total_mib=known.total_mib, fault=fault)

    def _card(self, nvml: Any, index: int) -> GpuReading:
        try:
            # Looked up each time: a handle of before a driver reset would stay lost for ever.
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            known = self._identify(nvml, index, handle)
            memory = _reading(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
            load = _reading(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
            temperature = _reading(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
            power_mw = _reading(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
            energy_mj = _reading(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            running = _reading(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle)
        except nvml.NVMLError as error:
            return self._lost(index, _words(error))
        return GpuReading(
            index=index,
            uuid=known.uuid,
            name=known.name,
            memory_total_mib=int(memory.total) // _MIB if memory is not None else known.total_mib,
            memory_used_mib=int(memory.used) // _MIB if memory is not None else None,
            utilisation_pct=int(load.gpu) if load is not None else None,
            temperature_c=int(temperature) if temperature is not None else None,
            power_w=power_mw / 1000 if power_mw is not None else None,
            energy_j=energy_mj / 1000 if energy_mj is not None else None,
            processes=tuple(_process(p) for p in running) if running is not None else None,
        )

    def _identify(self, nvml: Any, index: int, handle: Any) -> _Known:
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        known = self._known.get(index)
        if known is None or known.uuid != uuid:
            name = _reading(nvml, nvml.nvmlDeviceGetName, handle)
            memory = _reading(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
            total_mib = int(memory.total) // _MIB if memory is not None else None
            known = self._known[index] = _Known(uuid, _text(name) if name is not None else "unknown", total_mib)
        return known


def _reading(nvml: Any, ask: Callable[..., T], *args: Any) -> T | None:
    """One reading, None where the card or driver does not offer it. A lost card raises: it is lost as a whole."""
    try:
        return ask(*args)
    except (nvml.NVMLError_GpuIsLost, nvml.NVMLError_DriverNotLoaded, nvml.NVMLError_Uninitialized):
        raise
    except nvml.NVMLError:
        return None


def _optional(nvml: Any, ask: Callable[[], object]) -> None:
    try:
        ask()
    except nvml.NVMLError:
        return


def _process(process: Any) -> GpuProcess:
    used = process.usedGpuMemory
    return GpuProcess(pid=int(process.pid), used_mib=int(used) // _MIB if used is not None else None)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
