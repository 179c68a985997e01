"""NVML's functions as values: what a driver lacks, refuses or answers with nonsense is None.

Any function may be missing in any driver (old ones, WSL2, Jetson, vGPU) and fail at any call. Where an older version of a
missing one exists, it is asked instead. Only two things are raised: ``DriverUnavailable`` and ``CardLost``.
"""
# ruff: noqa: ANN401 - NVML's binding has no types

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

from swarm.core.gpu_reading import GpuProcess

T = TypeVar("T")

LIBRARY_PATHS = (
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/nvidia/libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
    "/run/opengl-driver/lib/libnvidia-ml.so.1",
)
"""Where the library lies when the loader does not find it: WSL2, Jetson, Kubernetes' device plugin, NixOS."""
MAX_CARDS = 256
MAX_INSTANCES = 64
MAX_PROCESSES = 10_000
"""More than these is a driver's nonsense, not a machine."""
_MIB = 1 << 20
_MAX_MIB = 1 << 24
_MAX_CELSIUS = 200
_MAX_MILLIWATTS = 100_000_000
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")
_NAME_LENGTH = 96


class DriverUnavailable(Exception):
    """No library, no driver, no permission; the words say which."""


class CardLost(Exception):
    """The whole card, or the driver below it, is lost."""


class _ProcessV1(ctypes.Structure):
    """``nvmlProcessInfo_v1_t``: of drivers before 450, for which the binding has no call any more."""

    _fields_ = (("pid", ctypes.c_uint), ("usedGpuMemory", ctypes.c_ulonglong))


class _ProcessV2(ctypes.Structure):
    """``nvmlProcessInfo_v2_t``, which is version 3 as well: with the MIG instance's two numbers."""

    _fields_ = (*_ProcessV1._fields_, ("gpuInstanceId", ctypes.c_uint), ("computeInstanceId", ctypes.c_uint))


class NvmlCalls:
    """An initialised library. Not thread-safe."""

    def __init__(self) -> None:
        """Load and initialise it. Raises ``DriverUnavailable``."""
        try:
            # Late, so that machines without the library never load it.
            self._binding: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise DriverUnavailable(f"the Python module pynvml (package nvidia-ml-py) cannot be loaded: {error}") from error
        binding = self._binding
        self._absent = (binding.NVMLError_FunctionNotFound, binding.NVMLLibraryMismatchError)
        self._lost = (
            binding.NVMLError_GpuIsLost,
            binding.NVMLError_ResetRequired,
            binding.NVMLError_DriverNotLoaded,
            binding.NVMLError_Uninitialized,
        )
        self._whole(self._initialise)

    def close(self) -> None:
        """Release the library."""
        self._value_or_none(self._binding.nvmlShutdown)

    def count(self) -> int:
        """Number of cards. Raises ``DriverUnavailable``."""
        number = self._whole(lambda: self._first_there(self._binding.nvmlDeviceGetCount, self._count_v1))
        if not 0 <= number <= MAX_CARDS:
            raise DriverUnavailable(f"the driver counts {number} cards")
        return int(number)

    def handle(self, index: int) -> Any | None:
        """For the calls below; None where this driver gives none at all. Raises ``CardLost`` when it refuses this one."""
        binding = self._binding
        try:
            return self._first_there(lambda: binding.nvmlDeviceGetHandleByIndex(index), lambda: self._handle_v1(index))
        except (*self._absent, binding.NVMLError_NotSupported):
            return None
        except Exception as error:  # a binding may turn a driver's nonsense into anything
            raise CardLost(_words(error)) from error

    def instances(self, handle: Any) -> list[tuple[int, Any]] | None:
        """The MIG instances of a card with their places; None where it is not split, or that is unknown."""
        binding = self._binding
        mode = self._value(lambda: list(binding.nvmlDeviceGetMigMode(handle)))
        number = self._value(lambda: int(binding.nvmlDeviceGetMaxMigDeviceCount(handle))) if mode and mode[0] == 1 else None
        if number is None or not 0 < number <= MAX_INSTANCES:
            return None
        found, unclear = [], False
        for place in range(number):
            try:
                found.append((place, binding.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)))
            except self._lost as error:
                raise CardLost(_words(error)) from error
            except binding.NVMLError_NotFound:
                continue  # an empty place
            except Exception:  # noqa: BLE001 - as above
                unclear = True
        return None if unclear and not found else found

    def instance_ids(self, handle: Any) -> tuple[int, int] | None:
        """GPU instance and compute instance of a MIG handle."""
        binding = self._binding
        return self._value(
            lambda: (int(binding.nvmlDeviceGetGpuInstanceId(handle)), int(binding.nvmlDeviceGetComputeInstanceId(handle)))
        )

    def uuid(self, handle: Any) -> str | None:
        """As CUDA takes it."""
        text = self._text(lambda: self._binding.nvmlDeviceGetUUID(handle))
        return text if text is not None and _UUID.fullmatch(text) else None

    def name(self, handle: Any) -> str | None:
        """The model's name, fit to be printed."""
        return self._text(lambda: self._binding.nvmlDeviceGetName(handle))

    def memory_mib(self, handle: Any) -> tuple[int, int | None] | None:
        """Total and used."""
        binding = self._binding
        memory = self._value(
            lambda: self._first_there(
                lambda: binding.nvmlDeviceGetMemoryInfo(handle),
                lambda: binding.nvmlDeviceGetMemoryInfo(handle, version=binding.nvmlMemory_v2),
            )
        )
        if memory is None:
            return None
        total_mib, used_mib = int(memory.total) // _MIB, int(memory.used) // _MIB
        if not 0 < total_mib <= _MAX_MIB:
            return None
        return total_mib, used_mib if used_mib <= total_mib else None

    def utilisation_pct(self, handle: Any) -> int | None:
        """Share of the last moments in which something ran."""
        return _within(self._value(lambda: int(self._binding.nvmlDeviceGetUtilizationRates(handle).gpu)), 100)

    def temperature_c(self, handle: Any) -> int | None:
        """Of the chip."""
        binding = self._binding
        sensor = binding.NVML_TEMPERATURE_GPU
        return _within(self._value(lambda: int(binding.nvmlDeviceGetTemperature(handle, sensor))), _MAX_CELSIUS)

    def power_w(self, handle: Any) -> float | None:
        """Drawn now."""
        milliwatts = _within(self._value(lambda: int(self._binding.nvmlDeviceGetPowerUsage(handle))), _MAX_MILLIWATTS)
        return milliwatts / 1000 if milliwatts is not None else None

    def energy_j(self, handle: Any) -> float | None:
        """Used since the driver was loaded."""
        unknown = (1 << 63) - 1
        millijoules = _within(self._value(lambda: int(self._binding.nvmlDeviceGetTotalEnergyConsumption(handle))), unknown)
        return millijoules / 1000 if millijoules is not None else None

    def processes(self, handle: Any) -> tuple[GpuProcess, ...] | None:
        """Who computes there; None: the driver does not list them."""
        running = self._value(
            lambda: self._first_there(
                lambda: self._running("nvmlDeviceGetComputeRunningProcesses_v3", _ProcessV2, handle),
                lambda: self._running("nvmlDeviceGetComputeRunningProcesses_v2", _ProcessV2, handle),
                lambda: self._running("nvmlDeviceGetComputeRunningProcesses", _ProcessV1, handle),
            )
        )
        return tuple(map(_process, running)) if running is not None else None

    def _initialise(self) -> None:
        binding = self._binding
        if binding.nvmlLib is None:
            binding.nvmlLib = _library()
        self._first_there(binding.nvmlInit, lambda: self._c("nvmlInit_v2"), lambda: self._c("nvmlInit"))

    def _count_v1(self) -> int:
        number = ctypes.c_uint()
        self._c("nvmlDeviceGetCount", ctypes.byref(number))
        return number.value

    def _handle_v1(self, index: int) -> Any:
        handle = self._binding.c_nvmlDevice_t()
        self._c("nvmlDeviceGetHandleByIndex", ctypes.c_uint(index), ctypes.byref(handle))
        return handle

    def _running(self, name: str, kind: Any, handle: Any) -> list[Any]:
        """Not the binding's own call: that one believes any number of processes."""
        number = ctypes.c_uint(0)
        try:
            self._c(name, handle, ctypes.byref(number), None)
        except self._binding.NVMLError_InsufficientSize:
            room = min(number.value * 2 + 5, MAX_PROCESSES)  # others may start meanwhile
            number, found = ctypes.c_uint(room), (kind * room)()
            self._c(name, handle, ctypes.byref(number), found)
            return list(found[: min(number.value, room)])
        return []

    def _c(self, name: str, *args: Any) -> None:
        """A function of the library itself. Raises the binding's errors."""
        function = getattr(self._binding.nvmlLib, name, None)
        code = self._binding.NVML_ERROR_FUNCTION_NOT_FOUND if function is None else function(*args)
        if code:
            raise self._binding.NVMLError(code)

    def _first_there(self, *versions: Callable[[], T]) -> T:
        """The answer of the first version that the library has, newest first."""
        for ask in versions[:-1]:
            try:
                return ask()
            except self._absent:
                continue  # the driver is older than this one
        return versions[-1]()

    def _whole(self, ask: Callable[[], T]) -> T:
        """A call without which nothing works."""
        try:
            return ask()
        except Exception as error:  # a binding may turn a driver's nonsense into anything
            raise DriverUnavailable(_words(error)) from error

    def _value(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except self._lost as error:
            raise CardLost(_words(error)) from error
        except Exception:  # noqa: BLE001 - not offered, not permitted, or nonsense that the binding stumbled over
            return None

    def _value_or_none(self, ask: Callable[[], T]) -> T | None:
        try:
            return self._value(ask)
        except CardLost:
            return None

    def _text(self, ask: Callable[[], Any]) -> str | None:
        def decoded() -> str:
            try:
                answer = ask()
            except UnicodeDecodeError as error:
                answer = error.object
            return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)

        text = self._value(decoded)
        # Terminals and logs are shown what a driver says: nothing in it may act there.
        clean = "".join(c if c.isprintable() else "?" for c in (text or "")[:_NAME_LENGTH]).strip()
        return clean or None


def _library() -> Any | None:
    """The library, where the loader does not find it by its name; None: the binding finds it, or nobody does."""
    for path in ("libnvidia-ml.so.1", *LIBRARY_PATHS):
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue  # not there; that none is there the binding says
    return None


def _process(process: Any) -> GpuProcess:
    # "Not available" is the greatest number there is.
    return GpuProcess(pid=int(process.pid), used_mib=_within(int(process.usedGpuMemory) // _MIB, _MAX_MIB))


def _within(value: int | None, most: int) -> int | None:
    return value if value is not None and 0 <= value <= most else None


def _words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the binding asks the library for the words
        text = ""
    return "".join(c if c.isprintable() else "?" for c in text)[:200] or type(error).__name__
