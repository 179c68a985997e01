"""Troubles logged when they come, change or end, not each time they are met."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import TypeVar

from swarm.errors import SwarmError

T = TypeVar("T")


class LogOnce:
    """Remembers the last line about each thing, by its key. For one thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lines: dict[str, str] = {}

    def failing(self, key: str, line: str, level: int = logging.WARNING) -> None:
        """Log ``line`` unless it is what was logged last about ``key``."""
        if self._lines.get(key) != line:
            self._log.log(level, "%s", line)
        self._lines[key] = line

    def working(self, key: str, line: str) -> None:
        """The trouble with ``key``, if there was one, is over: log that."""
        if self._lines.pop(key, None) is not None:
            self._log.info("%s", line)

    def keep_only(self, keys: Container[str]) -> None:
        """Forget the troubles of all other keys, unlogged."""
        self._lines = {key: line for key, line in self._lines.items() if key in keys}

    def tried(self, what: str, action: Callable[[], T], otherwise: T) -> T:
        """What ``action`` answers; ``otherwise`` if it fails with ``OSError`` or ``SwarmError``."""
        try:
            answer = action()
        except (OSError, SwarmError) as error:
            self.failing(what, f"{what}: {words_of(error)}; it is tried again")
            return otherwise
        self.working(what, f"{what}: that is over")
        return answer


def words_of(error: OSError | SwarmError) -> str:
    """An error in one line, with its hint or its path."""
    if isinstance(error, SwarmError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason
