"""Quarantined cards: a file per worker that outlives restarts.

A quarantine ends by a command or by a trial that succeeds.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from swarm.config.settings import RepairSettings
from swarm.core.health.repair_ladder import quarantine_s
from swarm.filesystem.temporary import read_note, remove_note, write_note


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
