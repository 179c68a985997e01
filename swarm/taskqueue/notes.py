"""Notes: who is to be told of the end of what. Written before their task appears, so that none is ever forgotten."""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.core.task import Task
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.storage import Storage, storage_faults


class Note(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message that is owed."""

    subject: Literal["task", "batch"]
    id: str
    targets: tuple[str, ...]
    """Who has not been told yet."""
    tries: int = 0
    next_s: float = 0.0
    """Seconds since the epoch; not tried again before."""
    error: str = ""

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.subject}-{self.id}"


def write_note(layout: Layout, storage: Storage, note: Note) -> None:
    """Write a note, durably; the same again replaces it. Raises ``StorageFault``."""
    with storage_faults("who is to be told could not be noted"):
        storage.make_dir(layout.outbox)
        put_note(storage, layout.outbox, note)


def put_note(storage: Storage, folder: str, note: Note) -> None:
    """Write a note into this folder. Raises ``OSError``."""
    data = msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n"
    storage.replace(f"{folder}/{note.name}.json", data, durable=True)


def owe_for(layout: Layout, storage: Storage, task: Task) -> None:
    """A note for a task that wants somebody told. Raises ``StorageFault``."""
    if task.notify:
        write_note(layout, storage, Note(subject="task", id=task.task_id, targets=tuple(dict.fromkeys(task.notify))))
