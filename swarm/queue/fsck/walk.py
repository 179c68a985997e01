"""Walks the queue root for ``fsck``: all places of tasks, whatever else is there, odd entries and damaged records beside."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial

from swarm.core.lanes import parse_lane
from swarm.core.task import ID_RE, TERMINAL, TaskState
from swarm.errors import QueueError
from swarm.filesystem.entries import (
    FACCESSAT2,
    folder_status,
    is_file,
    is_text,
    kind_words,
    list_inside,
    list_names,
    status_of,
)
from swarm.queue.batches.api_batches import ENDED, OPEN, ApiBatches
from swarm.queue.coordination import is_held
from swarm.queue.fsck.rules import Action, FsckFinding, Placed, to_quarantine
from swarm.queue.layout import Layout, bucket_priority, is_shard, parse_task_file
from swarm.queue.storage import REASON, Storage
from swarm.queue.stores.file_store import CONTENT, RECORD, FileStore, is_file_id

RANK = {
    TaskState.COMPLETED: 0,
    TaskState.FAILED: 1,
    TaskState.CANCELLED: 2,
    TaskState.PROCESSING: 3,
    TaskState.BLOCKED: 4,
    TaskState.PENDING: 5,
}
"""Of a task in several states the first of these counts: what was recorded is never undone."""


def walk(layout: Layout) -> Iterator[Placed | FsckFinding]:
    """All tasks by name, in the direction they move, and what is foreign. Temporary files (dotted names) are left out."""
    yield from _pending(layout)
    yield from _flat(TaskState.BLOCKED, layout.blocked)
    for worker in list_names(layout.processing):
        folder = layout.held_by(worker)
        if folder_status(folder) is None or not ID_RE.fullmatch(worker):
            yield from _no_task(folder, "processing/ holds one directory per worker")
            continue
        yield from _flat(TaskState.PROCESSING, folder, home=worker, live=is_held(layout, worker))
    for state in TERMINAL:
        yield from _terminal(layout, state)


def _pending(layout: Layout) -> Iterator[Placed | FsckFinding]:
    for lane in list_names(layout.pending):
        if parse_lane(lane) is None or not is_text(lane) or folder_status(layout.lane(lane)) is None:
            continue  # a drop-in, or odd: see ``odd_entries``
        for bucket in list_inside(layout.lane(lane)):
            folder = f"{layout.lane(lane)}/{bucket}"
            if bucket_priority(bucket) is None or folder_status(folder) is None:
                yield from _no_task(folder, "a lane holds buckets only")
            else:
                yield from _flat(TaskState.PENDING, folder, home=lane)


def _flat(state: TaskState, folder: str, *, home: str = "", live: bool = False) -> Iterator[Placed | FsckFinding]:
    yield from _barred(folder)
    for name in list_inside(folder):
        parsed = parse_task_file(name)
        if parsed is None:
            yield from _no_task(f"{folder}/{name}", f"a foreign name in {state}/, where files are <task id>.<attempts>.json")
        else:
            yield Placed(state, f"{folder}/{name}", parsed.task_id, home, live)


def _terminal(layout: Layout, state: TaskState) -> Iterator[Placed | FsckFinding]:
    top = f"{layout.root}/{state}"
    for shard in list_names(top):
        names = list_inside(f"{top}/{shard}")
        if folder_status(f"{top}/{shard}") is None or not (is_shard(shard) or any(_is_document(n) for n in names)):
            yield from _no_task(f"{top}/{shard}", f"{state}/ holds shards only")
            continue
        yield from _barred(f"{top}/{shard}")
        for name in names:
            path = f"{top}/{shard}/{name}"
            if _is_document(name):
                yield Placed(state, path, name[:-5], shard)
            else:
                yield from _no_task(path, f"a foreign name in {state}/, where files are <task id>.json")


def _is_document(name: str) -> bool:
    return name.endswith(".json") and ID_RE.fullmatch(name[:-5]) is not None


def _no_task(path: str, what: str) -> Iterator[FsckFinding]:
    """Temporary files have dotted names; nothing else has."""
    if os.path.lexists(path) and not (os.path.basename(path).startswith(".") and is_file(path)):
        yield to_quarantine("foreign", path, what)


def _barred(folder: str) -> Iterator[FsckFinding]:
    status = folder_status(folder)
    if status is not None and (words := odd_kind(folder, status, folder=True)):
        yield FsckFinding("barred", folder, f"it {words}", f"none: `chown` or `chmod u+rwx {folder}`")


_PLAIN = re.compile(r"\.?[A-Za-z0-9][A-Za-z0-9._@-]{0,150}").fullmatch
"""So are all names that swarm gives; longer ones, and others, are somebody else's."""
_DROP_IN = re.compile(r"\.[ -~]{1,150}|[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.json").fullmatch
"""Waits to be filed; one with a dot is still being written."""
_STAGED = re.compile(r"[0-9a-z]+\.[0-9]{1,10}").fullmatch
_REQUESTS = "supervisor.requests"
_GIVEN_UP = "undeliverable"


def odd_entries(layout: Layout) -> Iterator[FsckFinding]:
    """What is no file or directory of swarm's, beside the tasks. Nothing is opened; only names are listed."""
    yield from _top(layout)
    yield from _drop_ins(layout)
    yield from _staged(layout)
    flat = (layout.batches, layout.feeds, layout.control, layout.heartbeats, layout.logs, layout.nodes)
    for folder in (*flat, layout.sessions, layout.cancels, f"{layout.workers}/{_REQUESTS}"):
        yield from _files(folder)
    yield from _files(layout.workers, folders=(_REQUESTS,))
    yield from _files(layout.outbox, folders=(_GIVEN_UP,))
    yield from _files(f"{layout.outbox}/{_GIVEN_UP}")
    for part in list_inside(layout.cache):
        yield from _files(f"{layout.cache}/{part}")
        yield from _foreign(f"{layout.cache}/{part}", "cache/ holds 256 directories of answers", folder=True)
    yield from _api_files(layout)
    for name in list_inside(layout.corrupt):
        path = f"{layout.corrupt}/{name}"
        status = status_of(path) if name.endswith(REASON) else None
        if status is not None and (words := odd_kind(path, status)):  # whatever its name: that of what was quarantined
            yield to_quarantine("odd", path, f"it {words}, and a reason is a file")


def _api_files(layout: Layout) -> Iterator[FsckFinding]:
    belongs = "files/ holds one directory for each file of the HTTP API"
    for name in list_inside(layout.files):
        folder = f"{layout.files}/{name}"
        if not is_file_id(name):
            yield to_quarantine("odd", folder, f"it has no file's id, and {belongs}")
            continue
        yield from _foreign(folder, belongs, folder=True)
        yield from _files(folder)
        missing = sorted({CONTENT, RECORD}.difference(list_inside(folder)))
        if missing and folder_status(folder) is not None:
            what = f"it is a file of the HTTP API without {' and '.join(missing)}"
            yield FsckFinding("file", folder, what, "none: remove the directory, and upload the file again")


def damaged_records(layout: Layout) -> Iterator[FsckFinding]:
    """Records of the HTTP API's files and batches that cannot be read, without those that ``odd_entries`` names."""
    storage = Storage("fast", layout.root)  # nothing is written
    store, book = FileStore(layout, storage), ApiBatches(layout, storage)
    for name in list_inside(layout.files):
        again = "delete the file, and upload it again"
        yield from _damaged("file", f"{layout.files}/{name}/{RECORD}", partial(store.stored, name), again)
    for name in list_inside(layout.batches):
        if name.endswith((OPEN, ENDED)):
            find, again = partial(book.find, name.partition(".")[0]), "remove it, and create the batch again"
            yield from _damaged("batch", f"{layout.batches}/{name}", find, again)


def _damaged(kind: str, path: str, read: Callable[[], object], again: str) -> Iterator[FsckFinding]:
    status = status_of(path)
    if status is None or odd_kind(path, status):
        return
    try:
        read()
    except QueueError as fault:
        yield FsckFinding(kind, path, fault.message, f"none: {again}")


def _files(folder: str, *, folders: tuple[str, ...] = ()) -> Iterator[FsckFinding]:
    for name in list_inside(folder):
        what = f"{folder.rpartition('/')[2]}/ holds files that swarm made"
        yield from _foreign(f"{folder}/{name}", what, folder=name in folders)


def _foreign(path: str, belongs: str, *, folder: bool = False) -> Iterator[FsckFinding]:
    status = status_of(path)
    if status is None:
        return
    words = odd_kind(path, status, folder=folder)
    if not words and not has_plain_name(path):
        words = "has a name that swarm does not use"
    if words:
        yield to_quarantine("odd", path, f"it {words}, and {belongs}")


def odd_kind(path: str, status: os.stat_result, *, folder: bool = False) -> str:
    """What is wrong with its kind, to follow ``it``; empty for what is wanted: a file, or a ``folder``, that can be read."""
    wanted = stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode)
    if not wanted:
        return kind_words(status)
    needed = os.R_OK | os.X_OK if folder else os.R_OK
    return "" if os.access(path, needed, effective_ids=FACCESSAT2) else "may not be read by this user"


def _top(layout: Layout) -> Iterator[FsckFinding]:
    """Directories that swarm has here or makes when needed; what else lies here does no harm."""
    ours = {*layout.directories(), layout.feeds, layout.outbox, layout.cache, layout.files, layout.live, layout.nodes}
    for name in list_inside(layout.root):
        path = f"{layout.root}/{name}"
        status = status_of(path)
        if status is None:
            continue
        if path in ours:
            yield from _foreign(path, "a directory of swarm's belongs there", folder=True)
        elif path == layout.wakeup or name.startswith(".pull."):
            yield from _foreign(path, "a file of swarm's belongs there")
        elif words := "" if stat.S_ISDIR(status.st_mode) else odd_kind(path, status):
            yield FsckFinding("odd", path, f"it {words}", "none: it does not belong to swarm", Action.NONE)


def _drop_ins(layout: Layout) -> Iterator[FsckFinding]:
    """The brain quarantines these by itself, while one runs."""
    for name in list_inside(layout.pending):
        path = f"{layout.pending}/{name}"
        status = status_of(path)
        if status is None:
            continue
        lane = stat.S_ISDIR(status.st_mode) and parse_lane(name) is not None and is_text(name)
        words = odd_kind(path, status, folder=lane)
        if not words and not lane and not _DROP_IN(name):
            words = "has no drop-in's name"
        if words:
            yield to_quarantine("odd", path, f"it {words}, and pending/ holds lanes and drop-ins, <task id>.json")


def _staged(layout: Layout) -> Iterator[FsckFinding]:
    for name in list_inside(layout.staging):
        path = f"{layout.staging}/{name}"
        status = status_of(path)
        if status is None:
            continue
        folder = stat.S_ISDIR(status.st_mode) and is_staged(name)
        words = odd_kind(path, status, folder=folder)
        if not words and not is_staged(name) and not name.startswith("."):
            words = "is no submission's"
        if words:
            yield to_quarantine("odd", path, f"it {words}, and .staging/ holds what is being submitted")


def has_plain_name(path: str) -> bool:
    """Whether its name is of the kind that swarm gives."""
    return _PLAIN(os.path.basename(path)) is not None


def is_staged(name: str) -> bool:
    """Whether a submission of ours may have made it: ``<id>.<pid>``."""
    return _STAGED(name) is not None
