"""Whether a directory holds anything, asked very often."""

from __future__ import annotations

import os
import time

from swarm.taskqueue.layout import GRAIN_NS


class Occupied:
    """Costs one ``stat`` while the directory does not change."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen_ns = -1
        self._answer = False

    def any(self) -> bool:
        """Whether anything lies in it; False when it is not there."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
            if changed_ns != self._seen_ns:
                with os.scandir(self._folder) as entries:
                    self._answer = next(entries, None) is not None
                settled = time.time_ns() - changed_ns > GRAIN_NS
                self._seen_ns = changed_ns if settled else -1
        except FileNotFoundError:
            return False
        return self._answer
