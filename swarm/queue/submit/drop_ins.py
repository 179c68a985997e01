"""Accepts drop-ins: task files put directly into ``pending/`` by hand.

They are checked, made canonical in place, then moved to their lane. These are two atomic steps (replace by the canonical
form, rename into the lane), each leaving the task in exactly one place, so that a crash in between costs nothing: the next
look goes on where this one stopped.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any

import msgspec

from swarm.clock import now_iso
from swarm.core.lanes import lane_of
from swarm.core.task import MAX_TASK_BYTES, Task
from swarm.errors import TaskInvalid
from swarm.filesystem.entries import read_file, status_of
from swarm.plain_text import ForeignText, without_bom
from swarm.queue import lookup
from swarm.queue.codec import encode_body, validate
from swarm.queue.layout import Layout
from swarm.queue.pending import BucketChooser
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.stores.notifications import enqueue_for
from swarm.queue.submit.producer import waits

_SAFE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.json\Z")


class DropInFiler:
    """Files drop-ins one by one."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._buckets = BucketChooser(layout, storage)

    def file(self, file_name: str) -> str:
        """Move one drop-in to its lane, ``blocked`` or ``corrupt``; returns a line for the log. Raises ``StorageFault``."""
        path = f"{self._layout.pending}/{os.path.basename(file_name)}"
        with storage_faults(f"cannot file the drop-in {file_name}"):
            try:
                data = read_file(path, MAX_TASK_BYTES)
                document = _decode(data)
                task = self._check(document, file_name)
                body = encode_body(document)
            except FileNotFoundError:
                return f"Drop-in {file_name} is gone"
            except (ValueError, TaskInvalid, RecursionError) as exc:
                return self._refuse(path, file_name, str(exc))
            if body != data:
                self._storage.replace(path, body, durable=True)
            return self._move(path, task)

    def _check(self, document: dict[str, Any], file_name: str) -> Task:
        if not _SAFE_NAME.match(file_name):
            raise TaskInvalid("its name must be <task id>.json: letters, digits, `_` and `-`, at most 64")
        stem = file_name[: -len(".json")]
        task_id = document.setdefault("task_id", stem)
        if task_id != stem:
            raise TaskInvalid(f"field `task_id`: {task_id!r} must equal the file's name without .json, {stem!r}")
        if not document.get("created_at"):
            document["created_at"] = now_iso()
        task = validate(document)
        if lookup.find(self._layout, task.task_id) is not None:
            raise TaskInvalid(f"a task {task.task_id} exists already; that one is untouched")
        return task

    def _refuse(self, path: str, file_name: str, reason: str) -> str:
        status = status_of(path)
        if status is None:
            return f"Drop-in {file_name} is gone"
        young = lookup.quiet_s(status) < lookup.PATIENCE_S
        if young and stat.S_ISREG(status.st_mode) and status.st_size <= MAX_TASK_BYTES:
            return f"Drop-in {file_name} may still be being written: {reason}"
        self._storage.quarantine(path, reason)
        return f"Drop-in {file_name} is no valid task and went to corrupt/: {reason}"

    def _move(self, path: str, task: Task) -> str:
        enqueue_for(self._layout, self._storage, task)
        if waits(task):
            self._storage.move(path, self._layout.blocked_file(task.task_id, 0))
            return f"Filed drop-in {task.task_id} under blocked"
        lane = lane_of(task)
        self._buckets.move_in(path, lane, self._buckets.at_end(lane, task.priority), task.task_id, 0)
        return f"Filed drop-in {task.task_id} under {lane}"


def _decode(data: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = msgspec.json.decode(without_bom(data), type=dict[str, Any])
    except ForeignText as exc:
        raise TaskInvalid(str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise TaskInvalid(f"not a JSON object: {exc}") from exc
    return document
