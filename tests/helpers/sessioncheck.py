"""Reads the results of sessions: were they run one at a time and in the order of submission?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from swarm.clock import parse_iso
from swarm.core.task import TERMINAL
from swarm.taskqueue.filequeue import FileQueue


def read_sessions(queue: FileQueue) -> dict[str, list[dict[str, Any]]]:
    """Finished documents by session, in the order of submission."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for state in TERMINAL:
        for located in queue.list(state):
            document = queue.read(located.task_id)
            if document.get("session"):
                found[document["session"]].append(document)
    for documents in found.values():
        documents.sort(key=lambda d: d["task_id"])
    return found


def check_sessions(queue: FileQueue, sessions: int, each: int) -> int:
    """Every one ended once, in order, none begun before the one before it had ended. How many attempts there were."""
    found = read_sessions(queue)
    assert len(found) == sessions, len(found)
    attempts = 0
    for session, documents in found.items():
        assert [d["metadata"]["step"] for d in documents] == list(range(each)), (session, [d["metadata"] for d in documents])
        assert all(d["status"] == "completed" for d in documents), session
        ended_s = float("-inf")
        for document in documents:
            attempts += len(document["attempts"])
            spans = [
                (parse_iso(a["started_at"]), parse_iso(a["ended_at"])) for a in document["attempts"] if a.get("started_at")
            ]
            first_s = min(start for start, _ in spans)
            assert first_s >= ended_s, f"{session}: step {document['metadata']['step']} began before the one before it ended"
            ended_s = parse_iso(document["completed_at"])
    return attempts
