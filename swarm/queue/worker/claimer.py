"""Taking tasks out of the lanes: one rename each, unflushed; what cannot be worked on after all goes back first."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from swarm.core.claim import Claim, LanesFor
from swarm.errors import StorageFault, TaskInvalid
from swarm.queue import codec
from swarm.queue.layout import Layout, TaskName, task_file
from swarm.queue.storage.files import Storage, about_host, read_regular, storage_faults
from swarm.queue.submit.buckets import BucketChooser
from swarm.queue.worker.lane_cursor import LaneCursor

log = logging.getLogger(__name__)

UNREADABLE_S = 30.0
"""For so long a task whose file could not be read is passed over by this worker."""
_CLAIMING = storage_faults("cannot claim")
Place = tuple[str, TaskName]
"""The bucket's path and the name a waiting task has there."""


class Taken:
    """What was taken and is not flushed yet: where each came from, by its path now, and the claims."""

    __slots__ = ("claims", "fault", "places")

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.claims: list[Claim] = []
        self.fault: StorageFault | None = None
        """Why it stopped early; what was taken before holds all the same."""


class Taker:
    """For one worker; safe from several threads. Making it makes the worker's directory (raises ``StorageFault``)."""

    def __init__(self, layout: Layout, storage: Storage, worker: str) -> None:
        self._layout = layout
        self._storage = storage
        self._worker = worker
        self._mine = layout.held_by(worker)
        self._cursors: dict[str, LaneCursor] = {}
        self._buckets = BucketChooser(layout, storage)
        self._taking = threading.Lock()
        self._in_hand: dict[str, Place] = {}
        self._unreadable: dict[str, float] = {}
        self.lost_races = 0
        with storage_faults(f"cannot set up the place of {worker}"):
            storage.make_dir(self._mine)

    def take(self, lanes_for: LanesFor, taken: Taken) -> None:
        """Take until enough, unflushed. A fault of the disk ends it and lies in ``taken``."""
        try:
            with _CLAIMING:
                while (lanes := lanes_for(taken.claims)) and (one := self._take(lanes)) is not None:
                    path, place = one
                    try:
                        claim = self._open(path, place[1])
                    except FileNotFoundError:
                        continue
                    except BaseException as exc:
                        self.keep({path: place})
                        if isinstance(exc, OSError) and exc.errno == errno.EIO:
                            self._unreadable[place[1].task_id] = time.monotonic() + UNREADABLE_S
                        raise
                    if claim is not None:
                        taken.places[path] = place
                        taken.claims.append(claim)
        except StorageFault as fault:
            taken.fault = fault

    def keep(self, places: dict[str, Place]) -> None:
        """These, by their paths here, cannot be worked on: they go back to their places before anything else is taken."""
        with self._taking:
            self._in_hand.update(places)

    def _take(self, lanes: Sequence[str]) -> tuple[str, Place] | None:
        """Move the first candidate here; returns its new path, and where it was."""
        with self._taking:
            if self._in_hand:
                self._put_back()
            for lane in lanes:
                cursor = self._cursors.get(lane)
                if cursor is None:
                    cursor = self._cursors[lane] = LaneCursor(self._layout.lane(lane))
                if self._unreadable or cursor.without:
                    cursor.without = self._passed_over()
                taken = self._take_from(cursor)
                if taken is not None:
                    return taken
        return None

    def _take_from(self, cursor: LaneCursor) -> tuple[str, Place] | None:
        while (candidate := cursor.next()) is not None:
            bucket, name, parsed = candidate
            path = f"{self._mine}/{task_file(parsed.task_id, parsed.attempt + 1)}"
            log.debug("Attempting claim: %s", parsed.task_id)
            try:
                self._storage.claim_move(f"{bucket}/{name}", path)
            except FileNotFoundError:
                cursor.lost()
                self.lost_races += 1
                log.debug("Lost race: %s (claimed by another worker)", parsed.task_id)
            except OSError as exc:
                if about_host(exc):
                    self._in_hand[path] = (bucket, parsed)
                    raise
                self._pass_over(cursor, bucket, exc)
            except BaseException:
                self._in_hand[path] = (bucket, parsed)
                raise
            else:
                return path, (bucket, parsed)
        return None

    def _passed_over(self) -> frozenset[str]:
        """Whose files could not be read a moment ago: one bad sector must not keep a worker from all other work."""
        now_s = time.monotonic()
        self._unreadable = {one: until_s for one, until_s in self._unreadable.items() if until_s > now_s}
        return frozenset(self._unreadable)

    def _pass_over(self, cursor: LaneCursor, bucket: str, fault: OSError) -> None:
        """Nothing can be taken from this directory (a mount, one without permission): others are not to wait for it."""
        if cursor.bar():
            log.warning("Nothing can be claimed from %s: %s; it is passed over until it changes", bucket, fault.strerror)

    def _put_back(self) -> None:
        """What was moved here and could not be flushed or read: nobody works on it, so it must not stay.

        Only a fault of the disk leaves something in hand; the disk has to work again before anything else is claimed.
        """
        for path, (folder, name) in list(self._in_hand.items()):
            lane, _, bucket = folder.removeprefix(f"{self._layout.pending}/").partition("/")
            with suppress(FileNotFoundError):  # the fault came before the move
                self._buckets.move_in(path, lane, bucket, *name)
            del self._in_hand[path]

    def _open(self, path: str, name: TaskName) -> Claim | None:
        """Read what was claimed, by the name it had; what is no task goes to ``corrupt`` and None comes back."""
        try:
            parts = codec.parse(read_regular(path, codec.MAX_FILE_BYTES))
            if parts.task.task_id != name.task_id:
                raise TaskInvalid(f"its task_id is {parts.task.task_id}, its file is named {name.task_id}")
        except (TaskInvalid, ValueError) as exc:
            self._storage.set_aside(path, str(exc))
            return None
        return Claim(
            task=parts.task,
            attempt=name.attempt + 1,
            worker=self._worker,
            path=path,
            body_size=parts.body_size,
            attempts=parts.trail.attempts,
        )
