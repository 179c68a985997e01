"""Quarantined cards: a file per worker that outlives restarts.

A quarantine ends by a command or by a trial that succeeds.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import msgspec

from swarm.config.settings import RepairSettings
from swarm.core.health.repair_ladder import quarantine_s
from swarm.filesystem.temporary import read_note, remove_note, write_note

RECHECK_S = 1.0
"""A worker looks at its quarantine note this often: it may be released from outside."""
log = logging.getLogger(__name__)


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """``workers/<worker>.quarantine.json``. Wall-clock seconds since the epoch, since it must survive a reboot."""

    worker: str
    gpu_uuids: tuple[str, ...]
    reason: str
    since: float
    until: float
    """From then on one trial: a success ends the quarantine, a failure doubles it."""
    times: int = 1
    """How often in a row."""

    @property
    def left_s(self) -> float:
        """Seconds until the trial; 0 when it is due, also where the clock was set back to before its beginning.

        Its age is unknown then, and a trial too early costs less than waiting for a date years ahead.
        """
        now = time.time()
        return max(self.until - now, 0.0) if now >= self.since else 0.0


def quarantine_path(workers_dir: Path, worker: str) -> Path:
    """Path of a worker's quarantine file."""
    return workers_dir / f"{worker}.quarantine.json"


def read(workers_dir: Path, worker: str, gpu_uuids: tuple[str, ...] | None = None) -> Quarantine | None:
    """The quarantine of a worker, due for a trial or not; None if there is none.

    With ``gpu_uuids`` only one of these very cards counts: a worker moved to another card starts afresh.
    """
    found = read_note(quarantine_path(workers_dir, worker), Quarantine)
    if found is None or (gpu_uuids is not None and found.gpu_uuids != gpu_uuids):
        return None
    return found


def put(workers_dir: Path, worker: str, gpu_uuids: tuple[str, ...], reason: str, limits: RepairSettings) -> Quarantine:
    """Quarantine a worker's cards, for longer each time that a trial fails; one that stands begins anew, no longer.

    Raises ``OSError``.
    """
    before = read(workers_dir, worker, gpu_uuids)
    times = 1 if before is None else before.times + (before.left_s <= 0)
    now = time.time()
    made = Quarantine(
        worker=worker, gpu_uuids=gpu_uuids, reason=reason, since=now, until=now + quarantine_s(times, limits), times=times
    )
    write_note(quarantine_path(workers_dir, worker), made)
    return made


def release(workers_dir: Path, worker: str) -> Quarantine | None:
    """End the quarantine of a worker; returns it, or None if there was none. The worker takes work again within seconds."""
    found = read(workers_dir, worker)
    remove_note(quarantine_path(workers_dir, worker))
    return found


def all_of(workers_dir: Path) -> tuple[Quarantine, ...]:
    """Every quarantine there is, by worker."""
    notes = (read_note(path, Quarantine) for path in sorted(workers_dir.glob("*.quarantine.json")))
    return tuple(note for note in notes if note is not None)


class WorkerQuarantine:
    """The quarantine of one worker's cards, for its supervisor."""

    def __init__(self, workers_dir: Path, worker: str, gpu_uuids: tuple[str, ...], limits: RepairSettings) -> None:
        self._workers_dir = workers_dir
        self._worker = worker
        self._uuids = gpu_uuids
        self._limits = limits

    def standing(self) -> tuple[float, str] | None:
        """Seconds until its trial, and why; None when there is no quarantine or its trial is due."""
        found = read(self._workers_dir, self._worker, self._uuids)
        return None if found is None or found.left_s <= 0 else (found.left_s, found.reason)

    def enter(self, reason: str) -> None:
        """Record a quarantine. Raises ``OSError``."""
        put(self._workers_dir, self._worker, self._uuids, reason, self._limits)

    def release(self) -> None:
        """End the quarantine now."""
        release(self._workers_dir, self._worker)


class CardQuarantine:
    """The quarantine of one worker's cards, for the worker. Thread-safe."""

    def __init__(self, workers_dir: Path, worker: str, gpu_uuids: tuple[str, ...], limits: RepairSettings) -> None:
        self._workers_dir = workers_dir
        self._worker = worker
        self._uuids = gpu_uuids
        self._limits = limits
        self._looked_s = float("-inf")
        self._note: Quarantine | None = None
        self._deciding = threading.Lock()
        """A card may be lost on one thread while a request succeeds on another."""

    def quarantine(self, reason: str) -> str:
        """Record it, so that it outlives the worker; returns a line for the operator."""
        try:
            with self._deciding:
                note = put(self._workers_dir, self._worker, self._uuids, reason, self._limits)
        except OSError as error:
            return f"the quarantine cannot be recorded ({error.strerror}): it is tried again at the next fault"
        self._looked_s = float("-inf")
        return f"tried again in {note.left_s / 60:.0f} min, or at once after `swarm workers release {self._worker}`"

    def quarantined(self) -> str:
        """Why the card is quarantined, read at most once a second; empty if it is not."""
        note = self._current()
        if note is None or note.left_s <= 0:
            return ""
        cards = ", ".join(note.gpu_uuids) or "its server"
        return (
            f"{cards} quarantined for another {note.left_s / 60:.0f} min: {note.reason}; "
            f"release it with `swarm workers release {self._worker}`"
        )

    def on_trial(self) -> bool:
        """Whether a quarantine is due for its trial."""
        note = self._current()
        return note is not None and note.left_s <= 0

    def recovered(self) -> None:
        """A request succeeded: a quarantine that is due for its trial ends.

        One that has just begun stays: the request may have started before the card was lost. A file that cannot be removed
        stays due, and does not cost the answer that came.
        """
        if not self.on_trial():
            return
        with self._deciding:
            note = read(self._workers_dir, self._worker, self._uuids)
            if note is None or note.left_s > 0:
                return
            self._note = None
            try:
                release(self._workers_dir, self._worker)
            except OSError as error:
                log.warning("%s: its quarantine is over, but the note cannot be removed: %s", self._worker, error.strerror)
                return
        log.info("%s: quarantine ended, its server works again", self._worker)

    def _current(self) -> Quarantine | None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= RECHECK_S:
            self._looked_s = now_s
            self._note = read(self._workers_dir, self._worker, self._uuids)
        return self._note
