"""``swarm queue fsck``: checks that each task is in one state and every file has an owner.

* A scan is no snapshot, since tasks move while it reads: only what two scans agree on is a finding, and each repair looks
  once more before it acts.
* Safe while the swarm works.
* No task is ever deleted: what has no place goes to ``corrupt/``.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator

from swarm.clock import now_iso
from swarm.core.task import TaskError, TaskState, Trail
from swarm.errors import StorageFault
from swarm.filesystem import temporary
from swarm.filesystem.entries import folder_status, read_file, status_of
from swarm.plain_text import one_line
from swarm.queue import codec
from swarm.queue.fsck.leftovers import leftovers, stale_staging, temporaries
from swarm.queue.fsck.rules import Action, FsckFinding, Placed, check, read_trail, to_quarantine
from swarm.queue.fsck.walk import RANK, damaged_records, has_plain_name, odd_entries, walk
from swarm.queue.layout import Layout, parse_task_file
from swarm.queue.pending import BucketChooser, returned_bucket
from swarm.queue.storage import REASON, Storage, storage_faults
from swarm.queue.worker.transitions import rewrite_tail

log = logging.getLogger(__name__)
AGREE_S = 0.3
"""Between two scans: longer than any task is between two places."""


def scan(layout: Layout) -> Iterator[FsckFinding]:
    """One look at everything; reads every document. May see what is on the move twice or not at all."""
    kept: dict[str, Placed] = {}
    for found in walk(layout):
        if isinstance(found, FsckFinding):
            yield found
            continue
        yield from check(found)
        other = kept.get(found.task_id)
        if other is None:
            kept[found.task_id] = found
            continue
        first, extra = sorted((other, found), key=_precedence)
        kept[found.task_id] = first
        if not _two_files(first.path, extra.path):
            continue
        what = f"task {extra.task_id} is in {extra.state} and in {first.state} too: {first.path}"
        yield to_quarantine("several-states", extra.path, what, target=first.path)
    yield from leftovers(layout)
    yield from odd_entries(layout)
    yield from damaged_records(layout)


def _two_files(one: str, other: str) -> bool:
    """Whether both are there and are not one file seen twice on its way; a second hard link counts as a second file."""
    here, there = status_of(one), status_of(other)
    if here is None or there is None:
        return False
    return here.st_ino != there.st_ino or there.st_nlink > 1


def _precedence(placed: Placed) -> tuple[int, int, str]:
    """The state that counts most first; within one state the attempt counted highest."""
    parsed = parse_task_file(os.path.basename(placed.path))
    return RANK[placed.state], -(parsed.attempt if parsed else 0), placed.path


def look(layout: Layout, *, agree_s: float = AGREE_S) -> tuple[FsckFinding, ...]:
    """What two scans agree on, ordered by kind and path; () for a sound queue, after one scan."""
    first = set(scan(layout))
    if not first:
        return ()
    time.sleep(agree_s)
    return tuple(sorted(first.intersection(scan(layout)), key=lambda f: (f.kind, f.path)))


def repair(layout: Layout, storage: Storage, findings: Iterable[FsckFinding]) -> tuple[FsckFinding, ...]:
    """Do what each finding says; returns those that were carried out. Safe to repeat."""
    repairer = _Repairer(layout, storage)
    done = []
    for finding in findings:
        try:
            with storage_faults(f"cannot repair {one_line(finding.path)}"):
                if repairer.carry_out(finding):
                    done.append(finding)
        except (StorageFault, OSError) as fault:  # one that cannot be moved keeps no other from being put right
            log.warning("%s", fault)
    return tuple(done)


def recover_root(layout: Layout, storage: Storage) -> tuple[str, ...]:
    """At the brain's start, under its process lock: clear away what dead processes provably left; a line for each.

    Cheap (no directory of tasks is listed) and idempotent; everything that needs judgement waits for ``swarm queue fsck``.
    """
    found = (*stale_staging(layout), *temporaries(layout))
    return tuple(f"Removed {f.path}: {f.what}" for f in repair(layout, storage, found))


class _Repairer:
    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._buckets = BucketChooser(layout, storage)

    def carry_out(self, finding: FsckFinding) -> bool:
        """False: there is nothing to do, or its state has changed."""
        if finding.action is Action.NONE or not os.path.lexists(finding.path):
            return False
        match finding.action:
            case Action.QUARANTINE:
                return self._quarantine(finding)
            case Action.REMOVE:
                return _remove(finding.path)
            case Action.MOVE:
                return self._move(finding)
            case Action.STATUS:
                return self._write_status(finding.path)
            case _:
                return self._give_reason(finding)

    def _give_reason(self, finding: FsckFinding) -> bool:
        reason = f"unknown: {finding.what}"
        if has_plain_name(finding.path):
            self._storage.replace(f"{finding.path}{REASON}", f"{reason}\n".encode(), durable=True)
            return True
        return self._storage.quarantine(finding.path, reason) is not None  # under a name that has room for the reason's

    def _quarantine(self, finding: FsckFinding) -> bool:
        if finding.target and not os.path.lexists(finding.target):
            return False  # the one that counted has moved: two places may have become one
        return self._storage.quarantine(finding.path, f"{finding.what} (moved here by fsck)") is not None

    def _move(self, finding: FsckFinding) -> bool:
        try:
            if finding.kind == "wrong-lane":
                parsed = parse_task_file(os.path.basename(finding.path))
                assert parsed is not None
                priority = codec.read(finding.path).task.priority
                tried = parsed.attempt > 0  # buckets of fresh work hold none that was tried
                bucket = returned_bucket(priority) if tried else self._buckets.at_end(finding.target, priority)
                self._buckets.move_in(finding.path, finding.target, bucket, *parsed)
            else:
                self._storage.make_dir(os.path.dirname(finding.target))
                self._storage.move(finding.path, finding.target)
        except FileNotFoundError:
            return False
        except FileExistsError:
            self._storage.quarantine(finding.path, f"{finding.what}, where another one is (moved here by fsck)")
        return True

    def _write_status(self, path: str) -> bool:
        data = read_file(path, codec.MAX_FILE_BYTES)
        parts, trail = codec.parse(data), read_trail(data)
        if trail is not None and trail.status is not None:
            return False
        state = TaskState(path.rsplit("/", 3)[1])
        assert state in (TaskState.FAILED, TaskState.CANCELLED)
        ended = Trail(
            status="failed" if state is TaskState.FAILED else "cancelled",
            completed_at=now_iso(),
            error=TaskError(type="unknown", message="its process died before it wrote the reason"),
            attempts=() if trail is None else trail.attempts,
            children=None if trail is None else trail.children,
        )
        rewrite_tail(self._storage, path, parts.body_size - 1, codec.encode_trail(ended))
        return True


def _remove(path: str) -> bool:
    if temporary.is_temporary(os.path.basename(path)):
        return temporary.remove_left(path)
    if folder_status(path) is not None:
        shutil.rmtree(path)
        return True
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
