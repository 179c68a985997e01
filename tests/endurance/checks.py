"""Judges what a run left in its files. Pure: documents in, findings out, a line each; no findings is the only good end."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from swarm.clock import parse_iso

Document = Mapping[str, Any]
MOST_NAMED = 5
"""Findings of one kind that are told one by one; of the others only how many."""


def one_record_each(wanted: Iterable[str], documents: Iterable[Document]) -> list[str]:
    """Each accepted task has exactly one finished record, and it completed. Of other documents nothing is asked."""
    ids = set(wanted)
    places = Counter(document["task_id"] for document in documents if document["task_id"] in ids)
    bad = [d for d in documents if d["task_id"] in ids and d.get("status") != "completed"]
    return [
        *told(sorted(ids - set(places)), lambda task_id: f"lost: {task_id} has no record"),
        *told(sorted(i for i in places if places[i] > 1), lambda i: f"recorded twice: {i} has {places[i]} records"),
        *told(bad, lambda d: f"did not complete: {d['task_id']} is {d.get('status')}, {d.get('error')}"),
    ]


Rise = Callable[[Document], tuple[Any, Any]]
"""(group, number): within a group numbers may not fall from one task to the next one that began."""


def sessions_in_order(documents: Iterable[Document], *rises: Rise) -> list[str]:
    """In each session one at a time and in order: no attempt of a task begins before the task before it has ended, and none
    of ``rises`` ever falls.
    """
    sessions: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        if document.get("session"):
            sessions[document["session"]].append(document)
    return told([line for name in sorted(sessions) for line in _one_session(name, sessions[name], rises)], str)


def _one_session(session: str, documents: Sequence[Document], rises: Sequence[Rise]) -> list[str]:
    spans, found = [], []
    for document in documents:
        starts = [parse_iso(a["started_at"]) for a in document.get("attempts", ()) if a.get("started_at")]
        if starts and document.get("completed_at"):
            spans.append((min(starts), parse_iso(document["completed_at"]), document))
        else:
            found.append(f"session {session}: {document['task_id']} does not say when it began and ended")
    spans.sort(key=lambda span: span[:2])
    for (_, ended_s, first), (start_s, _, second) in itertools.pairwise(spans):
        if start_s < ended_s:
            pair = f"{second['task_id']} began {1000 * (ended_s - start_s):.0f} ms before {first['task_id']} had ended"
            found.append(f"session {session}: {pair}")
    for rise in rises:
        last: dict[Any, tuple[Any, Document]] = {}
        for _, _, document in spans:
            group, number = rise(document)
            if group in last and number < last[group][0]:
                late, before = document["task_id"], last[group][1]["task_id"]
                found.append(f"session {session}: {late} ran after {before}, which was submitted later")
            last[group] = (number, document)
    return found


def mapped_and_joined(
    mapped: Document, documents: Mapping[str, Document], asked: Sequence[str], joined: Sequence[str | None] | None
) -> list[str]:
    """Each element became one task that was asked the right thing, and whoever joined saw all their answers in order.

    ``mapped``: the finished map task; ``documents``: all records by id; ``asked``: the prompt of each child, in order;
    ``joined``: the answers that the task after it was given.
    """
    head = f"{mapped['task_id']}-"
    ids = [f"{head}{index}" for index in range(len(asked))]
    others = sorted({task_id for task_id in documents if task_id.startswith(head)} - set(ids))
    pairs = [(i, prompt, documents[i]) for i, prompt in zip(ids, asked, strict=True) if i in documents]
    answers = [text_of(documents.get(task_id, {})) for task_id in ids]
    result = mapped.get("result") or {}
    found = [
        *told(others, lambda i: f"{i} stands for no element"),
        *told([i for i, prompt, d in pairs if prompt_of(d) != prompt], lambda i: f"{i} was asked another question"),
        *told([i for i, _, d in pairs if text_of(d) is None], lambda i: f"{i} has no answer"),
    ]
    if result.get("children") != ids:
        found.append(f"{mapped['task_id']} names {len(result.get('children') or ())} children, not the {len(ids)} in order")
    if result.get("list") != answers:
        found.append(f"{mapped['task_id']} does not list its answers in order: {_apart(result.get('list'), answers)}")
    if joined is None or list(joined) != answers:
        found.append(f"the joining task did not see all answers in order: {_apart(joined, answers)}")
    return found


def prompt_of(document: Document) -> str | None:
    """What a chat task asks last."""
    messages = (document.get("request") or {}).get("messages") or ()
    return messages[-1].get("content") if messages else None


def text_of(document: Document) -> str | None:
    """What a chat task was answered."""
    return ((document.get("result") or {}).get("message") or {}).get("content")


def _apart(seen: Sequence[Any] | None, wanted: Sequence[Any]) -> str:
    if seen is None:
        return "there is none"
    if len(seen) != len(wanted):
        return f"{len(seen)} instead of {len(wanted)}"
    return f"they differ first at {next(i for i, (a, b) in enumerate(zip(seen, wanted, strict=True)) if a != b)}"


def told(wrong: Sequence[Any], text: Callable[[Any], str]) -> list[str]:
    """The first few of one kind in words, and how many more there are."""
    more = len(wrong) - MOST_NAMED
    return [text(one) for one in wrong[:MOST_NAMED]] + ([f"… and {more} more like the last"] if more > 0 else [])
