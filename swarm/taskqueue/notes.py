"""Notes: who is to be told of the end of what. Written before their task appears, so that none is ever forgotten."""

from __future__ import annotations

import secrets
from typing import Any, Literal

import msgspec

from swarm.core.task import Task
from swarm.taskqueue.layout import Layout
from swarm.taskqueue.storage import Storage, read_regular, storage_faults

MAX_NOTE_BYTES = 1 << 20


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
    message: dict[str, Any] | None = None
    """What could not be told of a task: it is told even if the task has been purged since."""
    by_hand: bool = False
    """Somebody asked for this try: it is made even if the target was down a moment ago."""
    mark: str = ""
    """Random, of this message alone: told again after a crash it is the same, of a later end of the same subject another."""

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.subject}-{self.id}"

    @property
    def message_id(self) -> str:
        """Tells a message that comes twice from two messages."""
        return f"{self.name}-{self.mark}" if self.mark else self.name


def write_note(layout: Layout, storage: Storage, note: Note) -> None:
    """Write a note, durably; the same again replaces it. Raises ``StorageFault``."""
    with storage_faults("who is to be told could not be noted"):
        if not note.mark:
            mark = _mark_of(f"{layout.outbox}/{note.name}.json") or secrets.token_hex(4)
            note = msgspec.structs.replace(note, mark=mark)
        storage.make_dir(layout.outbox)
        put_note(storage, layout.outbox, note)


def _mark_of(path: str) -> str:
    """Of a message that is owed already and may be on its way; the empty text where there is none."""
    try:
        return msgspec.json.decode(read_regular(path, MAX_NOTE_BYTES), type=Note).mark
    except (FileNotFoundError, ValueError):
        return ""


def put_note(storage: Storage, folder: str, note: Note) -> None:
    """Write a note into this folder. Raises ``OSError``."""
    data = msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n"
    storage.replace(f"{folder}/{note.name}.json", data, durable=True)


def owe_for(layout: Layout, storage: Storage, task: Task) -> None:
    """A note for a task that wants somebody told. Raises ``StorageFault``."""
    if task.notify:
        write_note(layout, storage, Note(subject="task", id=task.task_id, targets=tuple(dict.fromkeys(task.notify))))
