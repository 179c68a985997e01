"""A full, read-only or broken disk: say so once, try again with a bounded backoff, say when it is over."""

from __future__ import annotations

import logging

from swarm.errors import StorageFault
from swarm.runtime.ports import Clock

FIRST_S = 0.1
CAP_S = 5.0


class StorageCare:
    """Owned by the work loop. ``trouble`` is empty while the disk does what it is asked."""

    def __init__(self, *, clock: Clock, log: logging.Logger) -> None:
        self.trouble = ""
        self._clock = clock
        self._log = log
        self._pause_s = FIRST_S
        self._again_s = 0.0

    @property
    def may_try(self) -> bool:
        """No trouble, or long enough since the last try."""
        return not self.trouble or self._clock.mono_s() >= self._again_s

    @property
    def wait_s(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._again_s - self._clock.mono_s()) if self.trouble else 0.0

    def failed(self, fault: StorageFault, meanwhile: str) -> None:
        """The disk refused."""
        if fault.message != self.trouble:
            self._log.error("The disk refuses: %s; %s until it works again", fault.message, meanwhile)
        self.trouble = fault.message
        self._again_s = self._clock.mono_s() + self._pause_s
        self._pause_s = min(CAP_S, self._pause_s * 2)

    def worked(self) -> None:
        """The disk did as asked."""
        if self.trouble:
            self._log.info("The disk works again")
            self.trouble = ""
            self._pause_s = FIRST_S
