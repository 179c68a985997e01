"""A reader of the cards that ``CUDA_VISIBLE_DEVICES`` leaves.

Asks CUDA itself in which order it counts the cards: only it knows which one it takes for the fastest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from swarm.core.gpu_reading import GpuReading
from swarm.core.health.visible_gpus import VARIABLE, Visibility
from swarm.gpu.timeout_reader import Reader


class VisibleReader:
    """Fits the ``GpuReader`` port around a reader of all cards.

    ``decide`` is asked once, at the first reading that shows a card: one that falls off the bus later must not give its
    number to the next.
    """

    def __init__(self, reader: Reader, decide: Callable[[Sequence[GpuReading]], Visibility]) -> None:
        self._reader = reader
        self._decide = decide
        self._decided: Visibility | None = None

    @property
    def unavailable(self) -> str | None:
        """Why the machine shows no cards; None while they are read."""
        return self._reader.unavailable

    @property
    def visibility(self) -> Visibility:
        """The decision; before any card was seen: nothing is hidden."""
        return self._decided or Visibility()

    def read(self) -> tuple[GpuReading, ...]:
        """The cards that may be used, in CUDA's order."""
        cards = self._reader.read()
        if self._decided is None and cards:
            self._decided = self._decide(cards)
        return self.visibility.of(cards)


ASK_S = 20.0
"""CUDA's start on a large box whose driver was not loaded takes some seconds."""
# In a process of its own: CUDA once started would be held by this one, and reads its environment only then.
_PROGRAM = """
import ctypes, uuid
cuda = ctypes.CDLL("libcuda.so.1")
number, device, found = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(number)) == 0
for i in range(number.value):
    assert cuda.cuDeviceGet(ctypes.byref(device), i) == 0
    assert cuda.cuDeviceGetUuid(ctypes.byref(found), device) == 0
    print("GPU-" + str(uuid.UUID(bytes=bytes(found))))
"""


def cuda_order(env: Mapping[str, str] | None = None, *, timeout_s: float = ASK_S) -> tuple[str, ...] | None:
    """UUIDs of all cards by CUDA's number; None where CUDA cannot be asked. ``env``: of the process, this one's if None."""
    asked = {k: v for k, v in (os.environ if env is None else env).items() if k != VARIABLE}
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _PROGRAM], env=asked, capture_output=True, text=True, timeout=timeout_s, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no library, no driver, no answer in time: the caller says what is taken instead
    return tuple(done.stdout.split()) or None
