"""Reads the results of sessions: were they run one at a time and in the order of submission?"""

from __future__ import annotations

from swarm.core.task import TERMINAL
from swarm.queue.file_queue import FileQueue
from tests.endurance.checks import one_record_each, sessions_in_order


def check_sessions(queue: FileQueue, sessions: int, each: int) -> int:
    """Every one ended once, in order, none begun before the one before it had ended. How many attempts there were."""
    located = [one for state in TERMINAL for one in queue.list(state)]
    documents = [d for d in (queue.read(one.task_id) for one in located) if d.get("session")]
    steps = {name: [] for name in {d["session"] for d in documents}}
    for document in sorted(documents, key=lambda d: d["task_id"]):
        steps[document["session"]].append(document["metadata"]["step"])
    assert len(steps) == sessions, len(steps)
    assert all(found == list(range(each)) for found in steps.values()), steps
    findings = one_record_each([d["task_id"] for d in documents], documents)
    findings += sessions_in_order(documents, lambda d: (d["session"], d["metadata"]["step"]))
    assert not findings, "\n".join(findings)
    return sum(len(document["attempts"]) for document in documents)
