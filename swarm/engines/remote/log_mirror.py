"""Copies the log of a server in another machine to a file here, as it grows.

* The file is bounded, and read as that of a server here. A mark beside it tells how far it was copied, over restarts.
* A machine or a disk that does not answer loses no more than what the relay does not keep: the copy goes on from its mark.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import msgspec

from swarm.core.faults import TaskFault
from swarm.engines.remote.relay_calls import RelayCalls
from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file
from swarm.filesystem.temporary import read_note, write_note
from swarm.proc.child import truncate_if_large

EVERY_S = 1.0
SELDOM_S = 5.0
"""While nothing comes, or nobody answers."""


class _Mark(msgspec.Struct, frozen=True):
    """``workers/<worker>.log.json``: how far the log of which life was copied."""

    life: str = ""
    after: int = 0


class LogMirror:
    """Of one worker's server; a thread of its own from ``start`` on."""

    def __init__(self, calls: RelayCalls, worker: str, *, root: Path, log: logging.Logger) -> None:
        self._calls = calls
        self._path = root / "logs" / f"ollama-{worker}.log"
        self._mark_path = root / "workers" / f"{worker}.log.json"
        self._mark = read_note(self._mark_path, _Mark) or _Mark()
        self._log = log
        self._said = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{worker}-log", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Copy no more; a call that is under way is left to itself."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def copy(self) -> bool:
        """Copy what has come; whether anything had. Raises ``TaskFault``, ``OSError``, ``OddEntry``."""
        part = self._calls.log(self._mark.life, self._mark.after)
        if part.text:
            truncate_if_large(self._path)
            fd = open_file(str(self._path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(fd, part.text.encode("utf-8", "replace"))
            finally:
                os.close(fd)
        mark = _Mark(part.life, part.after)
        if mark != self._mark:
            write_note(self._mark_path, mark)
            self._mark = mark
        return bool(part.text)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._ended.wait(pause_s):
            pause_s = SELDOM_S
            try:
                if self.copy():
                    pause_s = EVERY_S
                said = ""
            except TaskFault as fault:
                said = "" if self._calls.lost is not None else fault.message  # a lost machine is told of by its server
            except (OSError, OddEntry) as error:
                said = f"{self._path}: {error}"
            if said and said != self._said:
                self._log.warning("The log of the model server is not copied: %s", said)
            self._said = said
