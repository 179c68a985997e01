"""What ``fsck`` can find, and the rules for one file at its place.

Reads files; changes nothing.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from swarm.core.lanes import lane_of
from swarm.core.task import TERMINAL, Task, TaskState, Trail
from swarm.errors import TaskInvalid
from swarm.filesystem.entries import read_file
from swarm.queue import codec
from swarm.queue.layout import shard_of


class Action(StrEnum):
    """What a repair does; none of them deletes a task."""

    NONE = "none"
    QUARANTINE = "aside"
    """Move to ``corrupt/`` with the reason beside it."""
    REMOVE = "remove"
    """Remove what was never accepted, or is no task."""
    MOVE = "move"
    """Move to where it belongs (``target``), never over anything."""
    STATUS = "status"
    """Write the status that the directory says behind the body."""
    REASON = "reason"
    """Write the missing ``.reason``."""


class FsckFinding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it should be."""

    kind: str
    """One word for machines, such as ``several-states``."""
    path: str
    what: str
    repair: str
    """What ``--repair`` does about it, or what else will."""
    action: Action = Action.NONE
    target: str = ""
    """Where the thing belongs (``move``), or the other place it is in (``several-states``)."""


class Placed(msgspec.Struct, frozen=True):
    """A file where a task may be, as its directory and name show."""

    state: TaskState
    path: str
    task_id: str
    home: str = ""
    """The lane, worker or shard it lies in."""
    live: bool = False
    """In ``processing``: its worker lives, and the file is that worker's alone."""


def to_quarantine(kind: str, path: str, what: str, *, target: str = "") -> FsckFinding:
    """A finding that is repaired by moving the file to ``corrupt/``."""
    return FsckFinding(kind, path, what, "moved to corrupt/ with this reason", Action.QUARANTINE, target)


def check(placed: Placed) -> list[FsckFinding]:
    """All that is wrong with one file at its place; [] too when its state has changed."""
    try:
        data = read_file(placed.path, codec.MAX_FILE_BYTES)
        task = codec.parse(data).task
    except FileNotFoundError:
        return []
    except (TaskInvalid, ValueError) as exc:
        return _held(placed, to_quarantine("unreadable", placed.path, str(exc)))
    except OSError as exc:
        return [
            FsckFinding("unreadable", placed.path, f"it cannot be read: {exc.strerror}", "none: the disk reports an error")
        ]
    return _judge(placed, data, task)


def _judge(placed: Placed, data: bytes, task: Task) -> list[FsckFinding]:
    if task.task_id != placed.task_id:
        what = f"its task_id is {task.task_id}, its file is named {placed.task_id}"
        return _held(placed, to_quarantine("wrong-name", placed.path, what))
    if placed.state in TERMINAL:
        return [*_shard(placed), *_status(placed, data)]
    if placed.state is TaskState.PENDING:
        return [*_lane(placed, task), *_history(placed, data)]
    return _history(placed, data)


def _held(placed: Placed, found: FsckFinding) -> list[FsckFinding]:
    """What is in a worker's hands is not moved from here."""
    if placed.state is not TaskState.PROCESSING:
        return [found]
    who = "its worker" if placed.live else "the brain, which requeues it"
    return [msgspec.structs.replace(found, repair=f"left to {who}", action=Action.NONE)]


def _lane(placed: Placed, task: Task) -> list[FsckFinding]:
    lane = lane_of(task)
    if lane == placed.home:
        return []
    what = f"it is in lane {placed.home} and belongs to {lane}"
    return [FsckFinding("wrong-lane", placed.path, what, f"moved to lane {lane}", Action.MOVE, lane)]


def _shard(placed: Placed) -> list[FsckFinding]:
    shard = shard_of(placed.task_id)
    if shard == placed.home:
        return []
    top = placed.path.rsplit("/", 2)[0]
    target = f"{top}/{shard}/{placed.task_id}.json"
    what = f"look-ups by id do not find it: it is in shard {placed.home} and belongs to {shard}"
    return [FsckFinding("wrong-shard", placed.path, what, f"moved to shard {shard}", Action.MOVE, target)]


def read_trail(data: bytes) -> Trail | None:
    """The trail of a task file with a whole body; None when it is torn."""
    _, tail = codec.split(data)
    try:
        return Trail() if tail is None else msgspec.json.decode(tail, type=Trail)
    except (ValueError, RecursionError):
        return None


def _history(placed: Placed, data: bytes) -> list[FsckFinding]:
    if read_trail(data) is not None or placed.live:
        return []
    what = "its history is incomplete; the task itself is whole"
    return [FsckFinding("torn-history", placed.path, what, "none needed: it is rewritten when the task changes its state")]


def _status(placed: Placed, data: bytes) -> list[FsckFinding]:
    trail = read_trail(data)
    status = None if trail is None else trail.status
    if status == placed.state:
        return []
    if status is not None:
        what = f"its status is {status}, its directory {placed.state}"
        return [
            FsckFinding("wrong-status", placed.path, what, "none: the directory counts; look at it with `swarm queue show`")
        ]
    what = "it has no status: its process died before it wrote the reason"
    if placed.state is TaskState.COMPLETED:
        repair = "none: the result is lost; submit the task again if you need it"
        return [FsckFinding("no-result", placed.path, "it is completed and has no result", repair)]
    return [FsckFinding("no-status", placed.path, what, f"status {placed.state} written into it", Action.STATUS)]
