"""Values that are costly to make, kept for a short time: many open pages cost no more than one."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made")

MOST = 128
COST_SHARE = 10
"""A value is kept for at least so many times the time that making it took."""


class _Slot:
    """One value, its lock and until when it may be shown."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Any = None
        self.until_s = 0.0


class Remembered:
    """By key. Threads that want the same at once wait for one of them to make it."""

    def __init__(self, mono_s: Callable[[], float] = time.monotonic) -> None:
        self._mono_s = mono_s
        self._slots: OrderedDict[tuple[str, ...], _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], keep_s: float, make: Callable[[], Made]) -> Made:
        """What was made less than ``keep_s`` ago, else made now. What ``make`` raises is raised and not kept."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > MOST:
                self._slots.popitem(last=False)
        with slot.lock:
            began_s = self._mono_s()
            if began_s >= slot.until_s:
                slot.value = make()
                took_s = self._mono_s() - began_s
                slot.until_s = self._mono_s() + max(keep_s, COST_SHARE * took_s)
            value: Made = slot.value
            return value
