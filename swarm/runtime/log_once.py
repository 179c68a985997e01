"""What the system refuses us, a disk most of all: said once for each change of words, and tried again later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from swarm.errors import SwarmError

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
