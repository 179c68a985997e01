"""Leftovers of dead processes beside the tasks, and the proof that their maker is dead."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

from swarm.core.task import TERMINAL, TaskState
from swarm.filesystem import temporary
from swarm.filesystem.entries import folder_status, is_file, list_inside, list_names, status_of
from swarm.queue import lookup
from swarm.queue.coordination import is_held
from swarm.queue.fsck.rules import Action, FsckFinding, to_quarantine
from swarm.queue.fsck.walk import is_staged
from swarm.queue.layout import Layout
from swarm.queue.operations.cancel import cancel_marks, mapped_task, requeue_marks
from swarm.queue.storage import REASON, list_ids
from swarm.queue.stores import registry

STAGING_AGE_S = 3600.0
"""A submission that was cut off is cleared away after this; its maker may be slow, or on a machine of other pids."""
_MAKER = re.compile(r".+\.(\d{1,10})").fullmatch


def leftovers(layout: Layout) -> Iterator[FsckFinding]:
    """All leftovers. Cheap: no directory of tasks is listed."""
    yield from stale_staging(layout)
    yield from temporaries(layout)
    yield from _cancel_marks(layout)
    yield from _requeue_marks(layout)
    yield from _hints(layout)
    yield from _abandoned(layout)
    yield from _reasons(layout)


def stale_staging(layout: Layout) -> Iterator[FsckFinding]:
    """Unaccepted submissions of dead processes, old enough."""
    for name in list_names(layout.staging):
        path = f"{layout.staging}/{name}"
        ours = is_staged(name) and (is_file(path) or folder_status(path) is not None)
        if not ours or not _old(path) or _maker_lives(name):
            continue
        what = "an incomplete submission: nothing in it was accepted"
        yield FsckFinding("staging", path, what, "removed", Action.REMOVE)


def temporaries(layout: Layout) -> Iterator[FsckFinding]:
    """Half a replacement, whose maker died before it was put in place."""
    flat = (
        layout.workers,
        layout.heartbeats,
        layout.batches,
        layout.feeds,
        layout.outbox,
        layout.sessions,
        layout.nodes,
        layout.corrupt,
        layout.pending,
    )
    deeper = (f"{layout.workers}/supervisor.requests", f"{layout.outbox}/undeliverable")
    answers = (f"{layout.cache}/{part}" for part in list_inside(layout.cache))
    for folder in (*flat, layout.control, layout.root, *deeper, *answers):
        for name in list_inside(folder):
            path = f"{folder}/{name}"
            if temporary.is_temporary(name) and temporary.is_left(path):
                yield FsckFinding("temporary", path, "its writer died before it was in place", "removed", Action.REMOVE)


def _maker_lives(name: str) -> bool:
    """Whether a process of the number in the name lives. A number that came round again only delays the clearing."""
    found = _MAKER(name)
    return found is not None and os.path.exists(f"/proc/{found.group(1)}")


def _old(path: str) -> bool:
    status = status_of(path)
    return status is not None and time.time() - status.st_mtime > STAGING_AGE_S


def _cancel_marks(layout: Layout) -> Iterator[FsckFinding]:
    for name in cancel_marks(layout):
        status = status_of(layout.cancel_mark(name))
        if status is not None and status.st_size:
            yield to_quarantine("odd", layout.cancel_mark(name), "it has content, but a cancel mark is an empty file")
            continue
        located = lookup.find(layout, name)
        if located is not None and located.state is TaskState.CANCELLED and mapped_task(located.path) is not None:
            continue  # the brain ends what is left of its children by it
        if located is None or located.state in TERMINAL:
            what = f"asks to cancel {name}, which {'does not exist' if located is None else f'is {located.state}'}"
            yield FsckFinding("cancel-mark", layout.cancel_mark(name), what, "removed", Action.REMOVE)


def _requeue_marks(layout: Layout) -> Iterator[FsckFinding]:
    for name in requeue_marks(layout):
        located = lookup.find(layout, name)
        if located is None or located.state is not TaskState.PROCESSING:
            what = f"asks to requeue {name}, which {'does not exist' if located is None else f'is {located.state}'}"
            yield FsckFinding("cancel-mark", layout.requeue_mark(name), what, "removed", Action.REMOVE)


def _hints(layout: Layout) -> Iterator[FsckFinding]:
    """Registrations and heartbeats without an owner; hints only, so they are reported and left."""
    left = "none: `swarm up` rewrites it, and nothing depends on it"
    for name in list_ids(layout.workers):
        if os.path.lexists(layout.lock(name)):
            continue
        yield FsckFinding("row", layout.row(name), f"a registration without a process lock: {name} never ran here", left)
    for name in list_ids(layout.heartbeats):
        if registry.read_row(layout, name) is None and not is_held(layout, name):
            yield FsckFinding("heartbeat", layout.heartbeat(name), f"a heartbeat of {name}, which is not registered", left)


def _abandoned(layout: Layout) -> Iterator[FsckFinding]:
    for worker in registry.holders(layout):
        held = list_inside(layout.held_by(worker))
        if held and not is_held(layout, worker):
            what = f"{worker} is dead and holds {len(held)}"
            yield FsckFinding(
                "abandoned", layout.held_by(worker), what, "none: the brain, or the worker at its next start, requeues them"
            )


def _reasons(layout: Layout) -> Iterator[FsckFinding]:
    names = set(list_names(layout.corrupt))
    for name in sorted(names):
        if not name.startswith(".") and not name.endswith(REASON) and f"{name}{REASON}" not in names:
            what = "in corrupt/ without a reason: its process died, or the disk was full"
            yield FsckFinding("no-reason", f"{layout.corrupt}/{name}", what, "a reason that says so", Action.REASON)
