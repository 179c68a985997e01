"""Notification records: who is to be notified of the end of which task or batch.

A record is written before its task appears, so that none is ever forgotten.
"""

from __future__ import annotations

import os
import secrets
from contextlib import AbstractContextManager, suppress

import msgspec

from swarm.core.notification import Note
from swarm.core.task import Task
from swarm.filesystem.entries import read_file
from swarm.queue.coordination import exclusive
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, storage_faults

MAX_NOTE_BYTES = 1 << 20


def write_note(layout: Layout, storage: Storage, note: Note) -> None:
    """Write a note, durably. Raises ``StorageFault``.

    One without a mark is a new message and takes the place of any other of its subject; one with a mark only its own.
    """
    with storage_faults("a notification could not be recorded"):
        storage.make_dir(layout.outbox)
        with _alone(layout, storage):
            if not superseded(layout, note):
                mark = note.mark or secrets.token_hex(4)
                put_note(storage, layout.outbox, msgspec.structs.replace(note, mark=mark))


def remove_note(layout: Layout, storage: Storage, note: Note) -> None:
    """Remove a note, but not another that has taken its place. Raises ``StorageFault``."""
    with storage_faults("a notification could not be removed"), suppress(FileNotFoundError), _alone(layout, storage):
        if not superseded(layout, note):
            os.unlink(_path(layout, note))


def superseded(layout: Layout, note: Note) -> bool:
    """Whether a later note of its subject has taken its place: that was retried or submitted again."""
    try:
        found = msgspec.json.decode(read_file(_path(layout, note), MAX_NOTE_BYTES), type=Note)
    except (FileNotFoundError, ValueError):
        return False
    return bool(note.mark) and found.mark != note.mark


def _path(layout: Layout, note: Note) -> str:
    return f"{layout.outbox}/{note.name}.json"


def _alone(layout: Layout, storage: Storage) -> AbstractContextManager[None]:
    """While a note is looked at and then replaced or removed nobody may write another."""
    return exclusive(storage, f"{layout.outbox}/.lock")


def put_note(storage: Storage, folder: str, note: Note) -> None:
    """Write a note into this folder. Raises ``OSError``."""
    storage.replace_json(f"{folder}/{note.name}.json", note)


def enqueue_for(layout: Layout, storage: Storage, task: Task) -> None:
    """Enqueue the notification that a task asks for. Raises ``StorageFault``."""
    if task.notify:
        write_note(layout, storage, Note(subject="task", id=task.task_id, targets=tuple(dict.fromkeys(task.notify))))
