"""Feeds on disk, in ``feeds/``.

* ``<id>.json``: the state, written by its feeder, who holds ``<id>.lock``. ``<id>.wish``: what the operator wants.
* The ids of its tasks go into ``batches/<id>.order``, so that a feed is a batch to all who look.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from swarm.clock import now_iso
from swarm.core.task import ID_RE
from swarm.core.workflow.feed import FeedState, Wish, task_id_of
from swarm.errors import LockHeld, OddEntry, QueueError
from swarm.filesystem.durable import sync_fd
from swarm.filesystem.entries import list_inside, list_names, read_file
from swarm.queue.batches.batch_book import BatchBook, Manifest
from swarm.queue.coordination import PauseBook, is_locked, try_exclusive
from swarm.queue.layout import Layout
from swarm.queue.lookup import ended_in
from swarm.queue.pending import LaneCounts, sorted_buckets
from swarm.queue.storage import Storage, list_ids, storage_faults, write_all
from swarm.queue.stores.registry import holders
from swarm.queue.submit.producer import Producer

_WISHES: dict[bytes, Wish] = {b"pause": "pause", b"stop": "stop"}
_COMMANDS: dict[Wish, str] = {"run": "", "pause": "paused by `swarm feed pause`", "stop": "stopped by `swarm feed stop`"}


class FeedBook:
    """All feeds of one queue."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._home = layout.feeds

    def _path(self, feed_id: str, ending: str) -> str:
        return f"{self._home}/{feed_id}.{ending}"

    def names(self) -> list[str]:
        """Ids of all feeds."""
        return sorted(list_ids(self._home))

    def find(self, feed_id: str) -> FeedState | None:
        """A feed's state; None for one never seen. Raises ``QueueError`` for one that cannot be read."""
        try:
            with storage_faults(f"feed {feed_id} cannot be read"):
                data = read_file(self._path(feed_id, "json"), 1 << 20)
            return msgspec.json.decode(data, type=FeedState)
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise QueueError(f"{self._path(feed_id, 'json')}: {exc}") from exc

    def state(self, feed_id: str) -> FeedState:
        """The same. Raises ``QueueError`` for an unknown feed."""
        found = self.find(feed_id) if ID_RE.match(feed_id) else None
        if found is None:
            known = ", ".join(self.names()[:8]) or "none yet"
            raise QueueError(f"there is no feed {feed_id}", hint=f"known feeds: {known}")
        return found

    def wish(self, feed_id: str) -> Wish:
        """What the operator wants of it."""
        with storage_faults(f"feed {feed_id} cannot read its pause or stop request"):
            try:
                return _WISHES.get(read_file(self._path(feed_id, "wish"), 64).strip(), "run")
            except (FileNotFoundError, OddEntry):
                return "run"

    def set_wish(self, feed_id: str, wish: Wish) -> None:
        """Ask its feeder, now or when it comes back. Raises ``StorageFault``."""
        with storage_faults(f"feed {feed_id} could not be asked"):
            self._storage.make_dir(self._home)
            self._storage.replace(self._path(feed_id, "wish"), wish.encode(), durable=True)

    def lives(self, feed_id: str) -> bool:
        """Whether its feeder runs."""
        return is_locked(self._path(feed_id, "lock"))

    @contextmanager
    def alone(self, feed_id: str) -> Iterator[None]:
        """Take the lock of the feed's only feeder within the block. Raises ``LockHeld``, ``StorageFault``."""
        held = LockHeld(f"feed {feed_id} is being fed by another process", hint="`swarm feeds` shows it")
        with ExitStack() as stack:
            with storage_faults(f"feed {feed_id} could not be started"):
                self._storage.make_dir(self._home)
                stack.enter_context(try_exclusive(self._storage, self._path(feed_id, "lock"), held))
            yield

    def open(self, feed_id: str) -> OpenFeed:
        """The ``Book`` of one feed, for who is ``alone`` with it."""
        return OpenFeed(self, self._layout, self._storage, feed_id)

    def write(self, state: FeedState) -> None:
        """Replace the state, durably."""
        dated = msgspec.structs.replace(state, updated_at=now_iso())
        self._storage.replace_json(self._path(state.feed_id, "json"), dated)


class OpenFeed:
    """Fits the feeder's ``Book``."""

    def __init__(self, book: FeedBook, layout: Layout, storage: Storage, feed_id: str) -> None:
        self._book = book
        self._storage = storage
        self._feed_id = feed_id
        self._order = f"{layout.batches}/{feed_id}.order"
        self._width = len(task_id_of(feed_id, 0)) + 1
        self._pauses = PauseBook(layout)

    @storage_faults("cannot see whether the feed is paused")
    def wish(self) -> tuple[Wish, str]:
        """What the operator wants of it, and by which command.

        A paused batch pauses it too: workers put its tasks into ``blocked``, so its lane would be refilled without end.
        """
        wish, pause = self._book.wish(self._feed_id), self._pauses.read().batch(self._feed_id)
        if wish == "run" and pause is not None:
            return "pause", f"{pause.words}: `{pause.way_out}`"
        return wish, _COMMANDS[wish]

    def save(self, state: FeedState, fresh: tuple[str, ...]) -> None:
        """Note the tasks, then move the cursor. Raises ``StorageFault``."""
        with storage_faults(f"the cursor of feed {self._feed_id} could not be moved"):
            if fresh:
                self._note(state.accepted - len(fresh), fresh)
            self._book.write(state)

    def _note(self, before: int, fresh: tuple[str, ...]) -> None:
        """Lines of one width at places that follow from the count: noting them again after a kill changes nothing."""
        fd = self._storage.open_own(self._order, os.O_RDWR | os.O_CREAT)
        try:
            data = "".join(f"{task_id}\n" for task_id in fresh).encode()
            write_all(fd, data, before * self._width)
            os.ftruncate(fd, before * self._width + len(data))
            if self._storage.full:
                sync_fd(fd)
        finally:
            os.close(fd)


class FeedPool:
    """Fits the feeder's ``Pool``."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._producer = Producer(layout, storage)
        self._lanes = LaneCounts(layout)

    @storage_faults("cannot count the waiting tasks")
    def pending(self, lane: str, *, blocked: str = "") -> int:
        """Tasks that wait in this lane; with ``blocked`` also those in ``blocked`` whose names begin so.

        Costs what changed since the last look, and a listing of ``blocked`` where asked.
        """
        waiting = sum(view.pending for view in self._lanes.look() if view.lane == lane)
        return waiting + (sum(name.startswith(blocked) for name in list_names(self._layout.blocked)) if blocked else 0)

    def offer(self, documents: Sequence[dict[str, Any]], lane: str, *, doubtful: bool) -> int:
        """Accept tasks of one lane with one shared flush; how many existed already (looked up where ``doubtful``).

        Who offers holds the feed's lock, and nobody else makes its ids. Raises ``TaskInvalid``, ``StorageFault``.
        """
        there = self._there({document["task_id"] for document in documents}, lane) if doubtful else ()
        for _ in self._producer.enqueue_many(document for document in documents if document["task_id"] not in there):
            pass
        return len(there)

    @storage_faults("cannot see what was fed already")
    def _there(self, ids: set[str], lane: str) -> set[str]:
        """Which of these are in the queue, in whatever state. Looks twice, since a task may be requeued meanwhile."""
        found: set[str] = set()
        for _ in range(2):
            for folder in self._where_it_waits(lane):
                found.update(ids.intersection(name.partition(".")[0] for name in list_inside(folder)))
            found.update(i for i in ids - found if ended_in(self._layout, i) is not None)
        return found

    def _where_it_waits(self, lane: str) -> Iterator[str]:
        """In the order in which tasks move on."""
        yield from (f"{self._layout.lane(lane)}/{bucket}" for bucket in sorted_buckets(self._layout.lane(lane)))
        yield self._layout.blocked
        yield from (self._layout.held_by(worker) for worker in holders(self._layout))


def note_batch(book: BatchBook, state: FeedState, *, version: str) -> None:
    """The feed as a batch: complete once it has ended."""
    book.write(
        Manifest(
            batch_id=state.feed_id,
            source=state.source,
            format=state.format,
            created_at=state.created_at,
            items=state.accepted,
            submitted=state.status in ("finished", "stopped"),
            models={state.model: state.accepted} if state.model else {},
            version=version,
        )
    )
