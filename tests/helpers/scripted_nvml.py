"""NVIDIA's library in Python, below the real binding: any function of it can be missing, fail, or answer with nonsense."""
# ruff: noqa: N802, N815 - the functions have the library's own names

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import pynvml

Wrong = int | Literal["missing", "nonsense", "stumbles"]
"""NVML's return code, or what else is wrong with a function; ``stumbles``: the binding itself raises something."""
OK, INVALID, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, TOO_SMALL, LOST, UNKNOWN = 0, 2, 3, 4, 6, 7, 15, 999
RESET = 16
MIB = 1 << 20
PID = 4000
UUID = "GPU-0000000{}-aaaa-bbbb-cccc-dddddddddddd"
MIG_UUID = "MIG-000000{}{}-aaaa-bbbb-cccc-dddddddddddd"
_INSTANCE = 1000


class ScriptedNvml:
    """Stands in for the ``CDLL``. ``wrong``: function to what is wrong with it; ``split``: MIG instances by card."""

    def __init__(self, cards: int = 2, *, split: Mapping[int, int] | None = None) -> None:
        self.cards = cards
        self.split = dict(split or {})
        self.wrong: dict[str, Wrong] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(type(self), f"_{name}", None)
        if function is None or self.wrong.get(name) == "missing":
            raise AttributeError(name)

        def call(*args: Any) -> Any:
            match self.wrong.get(name):
                case "nonsense":
                    return _nonsense(name, args)
                case "stumbles":
                    raise ValueError(f"{name}: the binding does not understand this")
                case int() as code:
                    return code
                case _:
                    return function(self, *args)

        return call

    def _place(self, handle: Any) -> tuple[int, int | None] | None:
        value = ctypes.cast(handle, ctypes.c_void_p).value or 0
        card, instance = (value // _INSTANCE - 1, value % _INSTANCE) if value >= _INSTANCE else (value - 1, None)
        there = 0 <= card < self.cards and (instance is None or instance < self.split.get(card, 0))
        return (card, instance) if there else None

    def _nvmlInitWithFlags(self, _flags: Any) -> int:
        return OK

    def _nvmlInit_v2(self) -> int:
        return OK

    _nvmlInit = _nvmlShutdown = _nvmlInit_v2

    def _nvmlErrorString(self, code: int) -> bytes:
        return b"error %d" % code

    def _nvmlDeviceGetCount_v2(self, number: Any) -> int:
        number._obj.value = self.cards
        return OK

    _nvmlDeviceGetCount = _nvmlDeviceGetCount_v2

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        if index.value >= self.cards:
            return INVALID
        ctypes.c_void_p.from_buffer(handle._obj).value = index.value + 1
        return OK

    _nvmlDeviceGetHandleByIndex = _nvmlDeviceGetHandleByIndex_v2

    def _nvmlDeviceGetUUID(self, handle: Any, text: Any, _length: Any) -> int:
        return self._say(handle, text, UUID, MIG_UUID)

    def _nvmlDeviceGetName(self, handle: Any, text: Any, _length: Any) -> int:
        return self._say(handle, text, "Test Card", "Test Card MIG 1g.10gb")

    def _say(self, handle: Any, text: Any, whole: str, part: str) -> int:
        place = self._place(handle)
        if place is None:
            return INVALID
        card, instance = place
        text.value = (whole.format(card) if instance is None else part.format(card, instance)).encode()
        return OK

    def _nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        if (place := self._place(handle)) is None:
            return INVALID
        share = 1 if place[1] is None else max(1, self.split[place[0]])
        memory._obj.total, memory._obj.used = 24576 * MIB // share, 1000 * MIB
        memory._obj.free = memory._obj.total - memory._obj.used
        return OK

    _nvmlDeviceGetMemoryInfo_v2 = _nvmlDeviceGetMemoryInfo

    def _nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        rates._obj.gpu = 50
        return self._whole_card(handle)

    def _nvmlDeviceGetTemperature(self, handle: Any, _sensor: Any, temperature: Any) -> int:
        temperature._obj.value = 40
        return self._whole_card(handle)

    def _nvmlDeviceGetPowerUsage(self, handle: Any, milliwatts: Any) -> int:
        milliwatts._obj.value = 100_000
        return self._whole_card(handle)

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, millijoules: Any) -> int:
        millijoules._obj.value = 5_000_000
        return self._whole_card(handle)

    def _whole_card(self, handle: Any) -> int:
        place = self._place(handle)
        return INVALID if place is None else NOT_SUPPORTED if place[1] is not None else OK

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, number: Any, found: Any) -> int:
        if (place := self._place(handle)) is None:
            return INVALID
        room, number._obj.value = number._obj.value, 1
        if room < 1:
            return TOO_SMALL
        found[0].pid, found[0].usedGpuMemory = PID + place[0], 900 * MIB
        return OK

    _nvmlDeviceGetComputeRunningProcesses_v2 = _nvmlDeviceGetComputeRunningProcesses_v3
    _nvmlDeviceGetComputeRunningProcesses = _nvmlDeviceGetComputeRunningProcesses_v3

    def _nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        place = self._place(handle)
        if place is None:
            return INVALID
        current._obj.value = pending._obj.value = int(place[0] in self.split)
        return OK if self.split else NOT_SUPPORTED

    def _nvmlDeviceGetMaxMigDeviceCount(self, _handle: Any, number: Any) -> int:
        number._obj.value = 7
        return OK

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, part: Any) -> int:
        place = self._place(handle)
        if place is None or index.value >= self.split.get(place[0], 0):
            return NOT_FOUND
        ctypes.c_void_p.from_buffer(part._obj).value = _INSTANCE * (place[0] + 1) + index.value
        return OK

    def _nvmlDeviceGetGpuInstanceId(self, handle: Any, number: Any) -> int:
        place = self._place(handle)
        if place is None or place[1] is None:
            return INVALID
        number._obj.value = 7 + place[1]
        return OK

    def _nvmlDeviceGetComputeInstanceId(self, handle: Any, number: Any) -> int:
        number._obj.value = 0
        return OK if self._place(handle) is not None else INVALID


FUNCTIONS = tuple(sorted(name[1:] for name in vars(ScriptedNvml) if name.startswith("_nvml")))


def _nonsense(name: str, args: tuple[Any, ...]) -> Any:
    """Success, and rubbish in all that the caller wanted filled in."""
    if name == "nvmlErrorString":
        return b"\xff\x1b[31m"
    for arg in args:
        target = getattr(arg, "_obj", None)
        if target is not None:
            ctypes.memset(ctypes.byref(target), 0xFF, ctypes.sizeof(target))
        elif isinstance(arg, ctypes.Array) and hasattr(arg, "raw"):
            arg.raw = b"\xff\x1b[31m,\n".ljust(ctypes.sizeof(arg), b"\0")
    if "RunningProcesses" in name and args[2] is None:
        args[1]._obj.value = 1 << 30
        return TOO_SMALL
    return OK


@contextmanager
def installed(library: ScriptedNvml) -> Iterator[ScriptedNvml]:
    """The real binding calls this library within the block."""
    before = pynvml.nvmlLib
    pynvml.nvmlLib = library
    try:
        yield library
    finally:
        pynvml.nvmlLib = before
        forget()


def forget() -> None:
    """The binding remembers functions; one that is missing from now on must be looked for again."""
    pynvml._nvmlGetFunctionPointer_cache.clear()
