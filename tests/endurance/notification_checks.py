"""Judges who was told of what: every end at least once, nobody of anything else, and what cannot be told is listed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tests.endurance.checks import told

Message = Mapping[str, Any]


def told_of_all(target: str, owed: Collection[str], received: Iterable[Message], status: Mapping[str, str]) -> list[str]:
    """A target that came back was told of each end, as it was, and of no other.

    ``owed``: ids of the tasks and batches; ``status``: how each task ended.
    """
    ids: dict[str, set[str]] = defaultdict(set)
    wrong = []
    for message in received:
        subject = subject_of(message)
        ids[subject].add(str(message.get("message_id")))
        if subject in status and message.get("status") != status[subject]:
            wrong.append(f"{target} was told that {subject} is {message.get('status')}, but it is {status[subject]}")
    return [
        *told(sorted(set(owed) - set(ids)), lambda i: f"{target} was never told of the end of {i}"),
        *told(sorted(set(ids) - set(owed)), lambda i: f"{target} was told of {i}, which it had not asked for"),
        *told(
            sorted(i for i in ids if len(ids[i]) > 1), lambda i: f"{target} cannot tell that what it heard of {i} is one end"
        ),
        *told(wrong, str),
    ]


def given_up(target: str, owed: Collection[str], notes: Iterable[Mapping[str, Any]], tries: int) -> list[str]:
    """A target that never came back: after so many tries all that it was owed is listed, and nothing waits on.

    ``notes``: as `swarm notify list --json` shows them.
    """
    mine = [note for note in notes if target in note["targets"]]
    listed = Counter(note["note"].partition("-")[2] for note in mine if note["state"] == "undeliverable")
    waiting = [note["note"] for note in mine if note["state"] != "undeliverable"]
    unequal = [note for note in mine if note["state"] == "undeliverable" and note["tries"] != tries]
    return [
        *told(waiting, lambda name: f"{name} still waits for {target}"),
        *told(sorted(set(owed) - set(listed)), lambda i: f"that {target} was not told of {i} is listed nowhere"),
        *told(unequal, lambda note: f"{note['note']} was given up after {note['tries']} tries, not {tries}"),
        *told([note for note in mine if not note["error"]], lambda note: f"{note['note']} does not say why"),
    ]


def twice(received: Sequence[Message]) -> int:
    """How many messages came that had come before; their ids tell."""
    return len(received) - len({message.get("message_id") for message in received})


def subject_of(message: Message) -> str:
    """The task or batch that it tells of."""
    return str(message.get("task_id") or message.get("batch_id"))
