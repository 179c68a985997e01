"""What the system refuses us, a disk most of all: said once for each change of words, and tried again later.

A full, read-only or broken disk: say so once, try again with a bounded backoff, say when it is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from swarm.errors import StorageFault, SwarmError
from swarm.runtime.ports import Clock

log = logging.getLogger(__name__)
T = TypeVar("T")


class Troubles:
    """For who has others to care for, and must not end because one thing fails."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def tried(self, what: str, action: Callable[[], T], otherwise: T) -> T:
        """What ``action`` answers; ``otherwise`` if it fails with ``OSError`` or ``SwarmError``."""
        try:
            answer = action()
        except (OSError, SwarmError) as error:
            words = words_of(error)
            if self._said.get(what) != words:
                log.warning("%s: %s; it is tried again", what, words)
            self._said[what] = words
            return otherwise
        if self._said.pop(what, None) is not None:
            log.info("%s: that is over", what)
        return answer


def words_of(error: OSError | SwarmError) -> str:
    """An error in one line, with its hint or its path."""
    if isinstance(error, SwarmError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason


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
