"""Finds odd entries beside the tasks: what is no file or directory of swarm's.

Those among the tasks are found by ``walk``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from swarm.core.lanes import parse_lane
from swarm.filesystem.entries import FACCESSAT2, is_text, kind_words, list_inside, status_of
from swarm.queue.fsck.rules import Action, FsckFinding, to_quarantine
from swarm.queue.layout import Layout

_PLAIN = re.compile(r"\.?[A-Za-z0-9][A-Za-z0-9._@-]{0,150}").fullmatch
"""So are all names that swarm gives; longer ones, and others, are somebody else's."""
_DROP_IN = re.compile(r"\.[ -~]{1,150}|[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.json").fullmatch
"""Waits to be filed; one with a dot is still being written."""
_STAGED = re.compile(r"[0-9a-z]+\.[0-9]{1,10}").fullmatch
_REQUESTS = "supervisor.requests"
_GIVEN_UP = "undeliverable"


def odd_entries(layout: Layout) -> Iterator[FsckFinding]:
    """All odd entries. Nothing is opened; only names are listed, no directory of tasks among them."""
    yield from _top(layout)
    yield from _drop_ins(layout)
    yield from _staged(layout)
    flat = (layout.batches, layout.feeds, layout.control, layout.heartbeats, layout.logs)
    for folder in (*flat, layout.sessions, layout.cancels, f"{layout.workers}/{_REQUESTS}"):
        yield from _files(folder)
    yield from _files(layout.workers, folders=(_REQUESTS,))
    yield from _files(layout.outbox, folders=(_GIVEN_UP,))
    yield from _files(f"{layout.outbox}/{_GIVEN_UP}")
    for part in list_inside(layout.cache):
        yield from _files(f"{layout.cache}/{part}")
        yield from _foreign(f"{layout.cache}/{part}", "cache/ holds 256 directories of answers", folder=True)
    for name in list_inside(layout.corrupt):
        path = f"{layout.corrupt}/{name}"
        status = status_of(path) if name.endswith(".reason") else None
        if status is not None and (words := odd_kind(path, status)):  # whatever its name: that of what was quarantined
            yield to_quarantine("odd", path, f"it {words}, and a reason is a file")


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
    ours = {*layout.directories(), layout.feeds, layout.outbox, layout.cache}
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
