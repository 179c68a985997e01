"""Submits one task, or many with shared flushes. When a call returns, they are durable.

* One task: a file that has no name until it is whole, so that nothing is left of one whose maker dies in between. Quicker
  than a file made in ``.staging`` and renamed (the way where there are no such files), which changes three directories.
* Many: whole buckets are made in ``.staging``, flushed together, and moved into their lanes.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from swarm.clock import now_iso
from swarm.core.lanes import lane_of
from swarm.core.placement.demand import is_live_load
from swarm.core.task import Task
from swarm.errors import DuplicateTask
from swarm.queue import lookup
from swarm.queue.codec import encode_body, validate
from swarm.queue.coordination import exclusive, wake
from swarm.queue.layout import (
    BUCKET_SIZE,
    GROUPED_SIZE,
    GROUPS,
    Layout,
    bucket_name,
    bucket_priority,
    group_of,
    is_grouped,
    new_id,
    task_file,
    time_of,
)
from swarm.queue.pending import BucketChooser, returned_bucket
from swarm.queue.storage import FILE_MODE, Storage, storage_faults, write_all
from swarm.queue.stores.notifications import enqueue_for

FLUSH_EVERY = 16 * BUCKET_SIZE
"""Tasks of a bulk submission that share one flush: bounds both memory and what an interruption leaves unaccepted."""


class Producer:
    """Puts tasks into the queue."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._buckets = BucketChooser(layout, storage)
        self._home, self._number = new_id(), itertools.count()

    def enqueue(self, document: Mapping[str, Any]) -> str:
        """Accept one task and return its id; it is durable then, and eligible or blocked.

        Raises ``TaskInvalid``, ``DuplicateTask`` (an id of the caller's that is taken in any state), ``StorageFault``.
        """
        task, body = self._prepare(document)
        try:
            if "task_id" not in document:
                self._publish(task, body)
            else:
                self._publish_unless_there(task, body)
        except OSError:
            with storage_faults("the task was not accepted"):
                raise
        wake(self._layout)
        return task.task_id

    def enqueue_many(self, documents: Iterable[Mapping[str, Any]]) -> Iterator[int]:
        """Accept many tasks in order; yields how many are durable so far, after each shared flush.

        Ids in the documents must come from ``new_id`` (they are not looked up). A generator: nothing happens until it is
        consumed. Interrupted, what was yielded is accepted and the rest is not there. Raises as ``enqueue``.
        """
        staged = _Staged(self._layout, self._storage)
        accepted = 0
        try:
            with storage_faults("submission stopped"):
                for document in documents:
                    task, body = self._prepare(document)
                    staged.add(task, body)
                    if staged.count == FLUSH_EVERY:
                        accepted += staged.publish()
                        wake(self._layout)
                        yield accepted
                if staged.count:
                    accepted += staged.publish()
                    wake(self._layout)
                    yield accepted
        finally:
            staged.discard()

    def _prepare(self, document: Mapping[str, Any]) -> tuple[Task, bytes]:
        whole = dict(document)
        if whole.get("task_id") is None:
            whole["task_id"] = new_id()
        if not whole.get("created_at"):
            whole["created_at"] = now_iso()
        return validate(whole), encode_body(whole)

    def _publish_unless_there(self, task: Task, body: bytes) -> None:
        with exclusive(self._storage, f"{self._layout.staging}/.submit.lock"):  # two of the same id cannot slip in together
            if lookup.find(self._layout, task.task_id) is not None:
                raise DuplicateTask(
                    f"task {task.task_id} exists already",
                    hint=f"`swarm queue show {task.task_id}`; leave task_id out to get a fresh one",
                )
            self._publish(task, body)

    def _publish(self, task: Task, body: bytes) -> None:
        if task.notify:
            enqueue_for(self._layout, self._storage, task)
        if waits(task):
            blocked = self._layout.blocked_file(task.task_id, 0)
            self._stage(body, lambda staged: self._storage.move(staged, blocked))
            return
        lane = lane_of(task)
        first = is_live_load(task)
        bucket = returned_bucket(task.priority) if first else self._buckets.at_end(lane, task.priority)
        path = self._buckets.path(lane, bucket, task.task_id, 0)
        if not appear(self._storage, self._layout.staging, path, body):
            self._stage(body, lambda staged: self._buckets.move_in(staged, lane, bucket, task.task_id, 0))

    def _stage(self, body: bytes, move: Callable[[str], object]) -> None:
        """Make the file in ``.staging`` and ``move`` it to its place."""
        staged = f"{self._layout.staging}/{self._home}{next(self._number)}.{os.getpid()}"
        try:
            self._storage.write_new(staged, body)
            move(staged)
        except OSError:
            with suppress(OSError):  # gone already, or cleared when it is old and its maker dead
                os.unlink(staged)
            raise


def _appear_whole(bucket: str, lane_path: str) -> None:
    """Move a bucket into a lane. One that is there and in use is of an id's earlier life: then under a name of its own."""
    name = os.path.basename(bucket)
    try:
        os.rename(bucket, f"{lane_path}/{name}")
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        other = bucket_name(bucket_priority(name) or 0, new_id(), grouped=is_grouped(name))
        os.rename(bucket, f"{lane_path}/{other}")


def waits(task: Task) -> bool:
    """Whether a fresh task must wait in ``blocked`` first."""
    return bool(task.depends_on) or task.session is not None or task.not_before is not None


class _Open:
    """A bucket that is being filled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._tasks = self._groups = 0
        self._group = ""

    def add(self, group: str) -> None:
        self._tasks += 1
        self._groups += group != self._group
        self._group = group

    def is_full(self, group: str) -> bool:
        """Whether the next task, of this group, goes to another bucket."""
        if not group or (self._groups >= GROUPS and group != self._group):
            return self._tasks >= BUCKET_SIZE
        return self._tasks >= GROUPED_SIZE


class _Staged:
    """Whole buckets under construction: files are made under their final names, then each directory moves in at once."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._home = f"{layout.staging}/{new_id()}.{os.getpid()}"
        self._open: dict[tuple[str, int, bool], _Open] = {}
        self._full: list[tuple[str, str]] = []
        self._blocked: list[Task] = []
        self.count = 0

    def add(self, task: Task, body: bytes) -> None:
        if task.notify:
            enqueue_for(self._layout, self._storage, task)
        self.count += 1
        if waits(task):
            self._blocked.append(task)
            folder = f"{self._home}/blocked"
            self._storage.make_dir(folder)
        else:
            folder = self._folder(lane_of(task), task.priority, task.task_id)
        self._storage.write_new(f"{folder}/{task_file(task.task_id, 0)}", body, flush=False)

    def _folder(self, lane: str, priority: int, first_id: str) -> str:
        group = group_of(first_id)
        bucket = self._open.get((lane, priority, bool(group)))
        if bucket is None or bucket.is_full(group):
            key = new_id() if time_of(first_id) is None else first_id  # others' ids do not sort by time, buckets must
            bucket = _Open(f"{self._home}/{lane}/{bucket_name(priority, key, grouped=bool(group))}")
            self._storage.make_dir(bucket.folder)
            self._full.append((lane, bucket.folder))
            self._open[lane, priority, bool(group)] = bucket
        bucket.add(group)
        return bucket.folder

    def publish(self) -> int:
        """Flush all that was added and let it appear. Returns how many tasks that were."""
        self._storage.flush_all(self._home)
        changed: set[str] = set()
        for lane, folder in self._full:
            lane_path = self._layout.lane(lane)
            self._storage.make_dir(lane_path)
            _appear_whole(folder, lane_path)
            changed.update((lane_path, os.path.dirname(folder)))
        for task in self._blocked:
            name = task_file(task.task_id, 0)
            self._storage.move(f"{self._home}/blocked/{name}", f"{self._layout.blocked}/{name}", flush=False)
        if self._blocked:
            changed.add(self._layout.blocked)
        self._storage.flush(*changed)  # where they were made too: a directory in two places is cut from one by fsck
        done, self.count = self.count, 0
        self._open, self._full, self._blocked = {}, [], []
        self._remove_empty()
        return done

    def discard(self) -> None:
        """Remove what was made and not published, so that a refused submission leaves a full disk no fuller."""
        shutil.rmtree(self._home, ignore_errors=True)

    def _remove_empty(self) -> None:
        for folder, _, _ in os.walk(self._home, topdown=False):
            os.rmdir(folder)


def appear(storage: Storage, beside: str, path: str, data: bytes) -> bool:
    """Make a file that is whole, and durable, when its name appears; never overwrites. Its name is durable at the return.

    ``beside`` is a directory of the same file system; that of ``path`` is made if it is missing. False, and no file made,
    where that cannot be: the file system or the host knows no such files, ``path`` is taken, the disk is full. The longer
    way tells which.
    Raises ``OSError`` if the name is there and could not be flushed.
    """
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, FILE_MODE)
    except OSError:
        return False
    try:
        try:
            write_all(fd, data, 0)
            storage.flush(fd)
            try:
                _name(fd, path)
            except FileNotFoundError:
                storage.make_dir(os.path.dirname(path))
                _name(fd, path)
        except OSError:
            return False
        # The directory holds the name, the file how many names it has: without a journal a disk flushes each by itself.
        storage.flush(os.path.dirname(path), fd)
    finally:
        os.close(fd)
    return True


def _name(fd: int, path: str) -> None:
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)  # the descriptor is there to make it follow the link
