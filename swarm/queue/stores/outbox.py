"""The outbox: one note per task or batch whose end is to be notified, removed once all were.

``outbox/<subject>-<id>.json`` waits for the end of its subject, or for its next try; ``outbox/undeliverable/`` holds what
was given up. A note outlives every process: after a crash a message may come twice, but none is lost.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import Any

import msgspec

from swarm.core.notification import Note
from swarm.errors import QueueError, StorageFault
from swarm.filesystem.entries import list_names, read_file
from swarm.queue import lookup
from swarm.queue.batches.batch_book import BatchBook
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.layout import Layout
from swarm.queue.lookup import read_ended
from swarm.queue.storage import Storage, storage_faults
from swarm.queue.stores.notifications import MAX_NOTE_BYTES, put_note, remove_note, superseded, write_note

log = logging.getLogger(__name__)
PER_LOOK = 500
"""Notes looked at in one look, so that a hundred thousand of them cost the brain no more per second."""


class Outbox:
    """All notes of one queue."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage
        self._home = layout.outbox
        self._last = ""
        self._given_up = f"{self._home}/undeliverable"
        self._watches: dict[str, BatchWatch] = {}
        self._stuck: set[str] = set()

    def enqueue(self, note: Note) -> None:
        """Write a note, durably, unless a later one takes its place. Raises ``StorageFault``."""
        write_note(self._layout, self._storage, note)

    def waiting(self) -> list[Note]:
        """Notes that wait: ``PER_LOOK`` of them, the next ones with each call."""
        names = _names(self._home)
        later = [name for name in names if name > self._last][:PER_LOOK] or names[:PER_LOOK]
        self._last = later[-1] if later else ""
        return self._read(self._home, later)

    def all_waiting(self) -> list[Note]:
        """All of them."""
        return self._read(self._home, _names(self._home))

    def undeliverable(self) -> list[Note]:
        """Notes that were given up."""
        return self._read(self._given_up, _names(self._given_up))

    def done(self, note: Note) -> None:
        """All were notified. A later note stays."""
        remove_note(self._layout, self._storage, note)
        self._watches.pop(note.id, None)

    def give_up(self, note: Note) -> None:
        """Move a note to ``undeliverable`` with the reason in it, unless a later one takes its place."""
        if superseded(self._layout, note):
            return
        with storage_faults("a notification could not be marked undeliverable"):
            self._storage.make_dir(self._given_up)
            put_note(self._storage, self._given_up, note)
        remove_note(self._layout, self._storage, note)

    def again(self, name: str) -> Note:
        """Try one that was given up again. Raises ``QueueError`` for an unknown one."""
        found = next((note for note in self.undeliverable() if note.name == name), None)
        if found is None:
            raise QueueError(f"there is no undeliverable message {name}", hint="`swarm notify list` shows them")
        fresh = msgspec.structs.replace(found, tries=0, next_s=0.0, error="", by_hand=True)
        self.enqueue(fresh)
        with suppress(FileNotFoundError):
            os.unlink(f"{self._given_up}/{name}.json")
        return fresh

    def message(self, note: Note) -> dict[str, Any] | None:
        """The message to send; None while the subject has not ended. Never holds a prompt or an answer."""
        found = note.message
        if found is None:
            found = self._of_task(note.id) if note.subject == "task" else self._of_batch(note.id)
        if found is None or superseded(self._layout, note):
            return None
        return {"message_id": note.message_id, **found}

    def _of_task(self, task_id: str) -> dict[str, Any] | None:
        if lookup.ended_in(self._layout, task_id) is None:
            return None
        try:
            document = read_ended(self._layout, task_id)
        except ValueError:
            return None  # its record is damaged: once fsck has quarantined it the note is an orphan
        if document is None or "completed_at" not in document:
            return None  # its record is being written
        names = ("task_id", "status", "task_class", "name", "batch_id", "custom_id", "model", "completed_at", "simulated")
        told = {name: document[name] for name in names if document.get(name)}
        error = document.get("error")
        return {"event": "task_ended", **told, "attempts": len(document.get("attempts") or ()), "error": error}

    def _of_batch(self, batch_id: str) -> dict[str, Any] | None:
        book = BatchBook(self._layout, self._storage)
        try:
            if not book.manifest(batch_id).submitted:
                return None
        except QueueError:
            return None
        watch = self._watches.get(batch_id)
        if watch is None or not watch.look().left:  # counted anew: some may have been retried since they were counted
            watch = self._watches[batch_id] = BatchWatch(self._layout, book.task_ids(batch_id))
        ended = watch.look()
        if ended.left:
            return None
        counts = {"completed": ended.completed, "failed": ended.failed, "cancelled": ended.cancelled}
        return {"event": "batch_ended", "batch_id": batch_id, **counts}

    def exists(self, note: Note) -> bool:
        """Whether its subject is anywhere; a note can outlive a submission that was cut off."""
        if note.subject == "task":
            return lookup.find(self._layout, note.id) is not None
        return note.id in BatchBook(self._layout, self._storage).names()

    def _read(self, folder: str, names: list[str]) -> list[Note]:
        found = []
        for name in names:
            try:
                found.append(msgspec.json.decode(read_file(f"{folder}/{name}", MAX_NOTE_BYTES), type=Note))
            except FileNotFoundError:
                continue
            except ValueError as exc:
                self._refuse(folder, name, exc)
        return found

    def _refuse(self, folder: str, name: str, problem: ValueError) -> None:
        """Quarantine what is no note. One that cannot be moved is logged once, and keeps no other from being read."""
        try:
            with storage_faults("a damaged notification could not be moved to corrupt/"):
                self._storage.quarantine(f"{folder}/{name}", f"no note: {problem}")
        except StorageFault as fault:
            if name not in self._stuck:
                log.warning("%s is no notification (%s): %s", name, problem, fault)
            self._stuck.add(name)
            return
        log.warning("%s is no notification (%s): moved to corrupt/", name, problem)


def _names(folder: str) -> list[str]:
    return sorted(name for name in list_names(folder) if name.endswith(".json") and name[0] != ".")
