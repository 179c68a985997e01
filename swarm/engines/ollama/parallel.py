"""For how many requests at once a worker's Ollama server was started, and its restart for another number.

Ollama takes ``OLLAMA_NUM_PARALLEL`` at its start only. The worker writes the number that a load wants into
``workers/<worker>.parallel.json``; whoever starts the server reads it there. It is no part of the fingerprint: a server that
was started for another number is still the right one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from swarm.config.settings import Settings
from swarm.core.faults import CancelToken, TaskFault
from swarm.core.policy.slot_capacity import CAUTIOUS
from swarm.filesystem.temporary import read_note, write_note

VARIABLE = "OLLAMA_NUM_PARALLEL"
MOST = 1024
POLL_S = 0.05
TAKEN_S = 10.0
"""For whoever keeps the server to take a request: they look once a second."""


class ParallelNote(msgspec.Struct, frozen=True, kw_only=True):
    """``workers/<worker>.parallel.json``."""

    slots: int


def fixed_parallel(settings: Settings) -> int:
    """What the configuration sets; 0: each load chooses."""
    set_by_hand = settings.ollama.env.get(VARIABLE, "").strip()
    if set_by_hand.isdecimal() and 0 < int(set_by_hand) <= MOST:
        return int(set_by_hand)
    return settings.llm.slots if isinstance(settings.llm.slots, int) else 0


def note_path(workers_dir: Path, worker: str) -> Path:
    """Where the wanted number is written."""
    return workers_dir / f"{worker}.parallel.json"


def wanted_parallel(path: Path, *, has_card: bool) -> int:
    """What to start a server for: the number last wanted, else a cautious one."""
    note = read_note(path, ParallelNote)
    if note is not None and 0 < note.slots <= MOST:
        return note.slots
    return CAUTIOUS if has_card else 1


class ParallelSlots:
    """Of one worker's own server. ``ensure`` is for the thread of a load."""

    def __init__(
        self,
        path: Path,
        *,
        serves: Callable[[str], bool] = lambda _model: True,
        running: Callable[[], tuple[int, int]],
        ready: Callable[[], bool],
        request_restart: Callable[[], bool],
        restart_taken: Callable[[], bool],
        withdraw: Callable[[], None],
        start_timeout_s: float,
        log: logging.Logger,
    ) -> None:
        """``serves``: whether a model is this server's. ``running``: process number of the server and what it was started
        for, 0 where nobody knows.

        ``request_restart``: False where nobody would start it again.
        """
        self._path = path
        self.serves = serves
        self._running = running
        self._ready = ready
        self._request_restart = request_restart
        self._restart_taken = restart_taken
        self._withdraw = withdraw
        self._start_timeout_s = start_timeout_s
        self._log = log

    @property
    def slots(self) -> int:
        """What it runs for now; 0: not known."""
        return self._running()[1]

    def ensure(self, model: str, slots: int, *, timeout_s: float, cancel: CancelToken | None) -> None:
        """Have it run for ``slots`` before the model is loaded. Where that cannot be had it stays as it is.

        Raises ``TaskFault``: it does not come back, or the load was cancelled.
        """
        pid, now = self._running()
        if not slots or not now or slots == now or not self.serves(model):
            return
        try:
            write_note(self._path, ParallelNote(slots=slots))
        except OSError as error:
            self._log.warning(
                "The model server stays at %d slots: %s cannot be written: %s", now, self._path, error.strerror
            )
            return
        if not self._request_restart():
            self._log.warning("The model server stays at %d slots instead of %d: nobody would start it again", now, slots)
            return
        self._log.info("The model server is started again for %d slots, it has %d", slots, now)
        self._wait(pid, slots, timeout_s, cancel)

    def _wait(self, pid: int, slots: int, timeout_s: float, cancel: CancelToken | None) -> None:
        began_s = time.monotonic()
        limit_s = min(timeout_s, self._start_timeout_s + TAKEN_S)
        while True:
            running, now = self._running()
            if running not in (0, pid) and now == slots and self._ready():
                return
            waited_s = time.monotonic() - began_s
            if not self._restart_taken() and waited_s > TAKEN_S:
                self._withdraw()
                self._log.warning("The model server stays at %d slots: its supervisor does not listen", now)
                return
            if cancel is not None and cancel.reason is not None:
                raise TaskFault("cancelled", cancel.reason, f"the load was stopped: {cancel.reason}")
            if waited_s > limit_s:
                raise TaskFault("infra", "server_down", f"the model server is not back {waited_s:.0f} s after its restart")
            time.sleep(POLL_S)
