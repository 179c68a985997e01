"""``swarm logs --task``: log entries made from a task's own document. Pure.

The document outlives rotated logs: it still says who ran the task, when, and how it ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from swarm.clock import iso_of, parse_iso
from swarm.views.logs.log_files import Entry

SOURCE = "task"


def pattern(task_id: str) -> re.Pattern[str]:
    """Matches lines about exactly this task, not one whose id begins or ends alike."""
    return re.compile(rf"(?<![\w-]){re.escape(task_id)}(?![\w-])")


def entries(document: Mapping[str, Any]) -> Iterator[Entry]:
    """Submission, attempts and end, in order of time."""
    found = [*_submitted(document), *_attempts(document), *_ended(document)]
    yield from sorted((e for e in found if e.time_s), key=lambda e: e.time_s)


def _submitted(document: Mapping[str, Any]) -> Iterator[Entry]:
    facts = [str(document.get("task_class", "?")), str(document.get("model") or document.get("action") or "")]
    facts += [f"{key} {document[key]}" for key in ("priority", "batch_id", "session") if document.get(key) is not None]
    facts += [f"after {', '.join(document['depends_on'])}"] if document.get("depends_on") else []
    yield _entry(document.get("created_at"), "INFO", f"Submitted: {', '.join(f for f in facts if f)}")


def _attempts(document: Mapping[str, Any]) -> Iterator[Entry]:
    for one in document.get("attempts") or ():
        who = f"Attempt {one.get('attempt')} on {one.get('worker')}"
        outcome = str(one.get("outcome", "completed"))
        level = "INFO" if outcome == "completed" else "WARNING"
        yield _entry(one.get("started_at"), "INFO", f"{who} started")
        yield _entry(one.get("ended_at"), level, f"{who} ended: {outcome}{why(one)}")


def _ended(document: Mapping[str, Any]) -> Iterator[Entry]:
    if status := document.get("status"):
        level = "INFO" if status == "completed" else "ERROR"
        yield _entry(document.get("completed_at"), level, f"It is {status}{why(document)}")


def why(ended: Mapping[str, Any]) -> str:
    """The error of a task or an attempt, after a colon; empty where there is none."""
    error = ended.get("error") or {}
    return f": {error.get('type')}: {error.get('message')}" if error else ""


def _entry(moment: object, level: str, text: str) -> Entry:
    try:
        time_s = parse_iso(str(moment))
    except ValueError:
        return Entry(time_s=0.0, source=SOURCE, level=level, lines=())
    line = f"[{iso_of(time_s)}] [{SOURCE}] {level:<5} {text}"
    return Entry(time_s=time_s, source=SOURCE, level=level, lines=(line,))
