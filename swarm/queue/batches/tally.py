"""Totals of a batch so far: tokens, card time, workers, failures.

* Each finished document is read once.
* Sums are kept per shard and state in ``batches/<id>.tally``, beside the time of the directory they were taken from, so that
  a later look reads only what changed. Losing that file costs one more reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from swarm.clock import parse_iso
from swarm.core.task import TERMINAL, TaskState
from swarm.filesystem.entries import DirStamp, list_inside, read_file, stamp_of
from swarm.queue import codec
from swarm.queue.batches.worker_sums import MAX_SPANS, Latest, Span, WorkerSums, merged
from swarm.queue.layout import Layout, shard_of
from swarm.queue.storage import Storage

MAX_TALLY_BYTES = 256 << 20
_VERSION = 2
"""Of what is summed: files of another version are made anew."""


class Sums(msgspec.Struct, omit_defaults=True):
    """Sums over finished items."""

    items: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_in_reused: int | None = None
    """Of ``tokens_in``, what servers had computed for an earlier prompt; None: no server has said."""
    attempts: int = 0
    simulated: int = 0
    cached: int = 0
    """Answers from the cache; their tokens and times count as saved and nowhere else."""
    saved_in: int = 0
    saved_out: int = 0
    saved_s: float = 0.0
    latest: Latest = msgspec.field(default_factory=Latest)
    gave: dict[str, dict[str, WorkerSums]] = msgspec.field(default_factory=dict)
    """By worker and model."""
    by_worker: dict[str, int] = msgspec.field(default_factory=dict)
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    """Items by the type of their last error."""
    digests: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    """Attempts by model and digest of its manifest."""
    cards: dict[str, list[Span]] = msgspec.field(default_factory=dict)
    """When each card was busy with it, in seconds since the epoch; apart, ascending."""

    def add(self, other: Sums) -> None:
        """Add the sums of other items."""
        self.items += other.items
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self._add_reused(other.tokens_in_reused)
        self.attempts += other.attempts
        self.simulated += other.simulated
        self.cached += other.cached
        self.saved_in += other.saved_in
        self.saved_out += other.saved_out
        self.saved_s += other.saved_s
        self.latest.add(other.latest)
        for worker, models in other.gave.items():
            for model, sums in models.items():
                self._gave(worker, model).add(sums)
        _add_counts(self.by_worker, other.by_worker)
        _add_counts(self.errors, other.errors)
        for model, digests in other.digests.items():
            _add_counts(self.digests.setdefault(model, {}), digests)
        for card, spans in other.cards.items():
            self.cards[card] = merged([*self.cards.get(card, ()), *spans])

    def note(self, document: Mapping[str, Any]) -> None:
        """Add one finished document; ``settle`` when all are in."""
        result = document.get("result")
        usage = (result.get("usage") if isinstance(result, dict) else None) or {}
        attempts = document.get("attempts") or []
        self.items += 1
        tokens_in, tokens_out = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        if document.get("cached"):
            self.cached += 1
            self.saved_in += tokens_in
            self.saved_out += tokens_out
            self.saved_s += float((result or {}).get("total_s") or 0.0)
        else:
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
            self._add_reused(usage.get("cached_tokens"))
        self.attempts += len(attempts)
        self.simulated += bool(document.get("simulated"))
        if attempts:
            _count(self.by_worker, str(attempts[-1].get("worker", "?")))
        tokens = None if document.get("cached") else (tokens_in, tokens_out)
        self._note_attempts(str(document.get("model")), attempts, tokens)
        if document.get("error"):
            _count(self.errors, str(document["error"].get("type", "?")))

    def _note_attempts(self, model: str, attempts: Sequence[Mapping[str, Any]], tokens: tuple[int, int] | None) -> None:
        """``tokens``: in and out, of the last of them; None where the answer came from the cache."""
        for attempt in attempts:
            if attempt.get("model_digest"):
                _count(self.digests.setdefault(model, {}), str(attempt["model_digest"]))
            span = _span_of(attempt)
            if span is not None:
                self._note_span(attempt, span)
            if tokens is None:
                continue
            gave, told_j = self._gave(str(attempt.get("worker", "?")), model), attempt.get("energy_j")
            energy_j = float(told_j) if isinstance(told_j, int | float) else None
            gave.note(span, energy_j)
            if attempt is attempts[-1]:
                gave.ended(*tokens, metered=energy_j is not None)
                if span is not None:
                    self.latest.note(span[1], *tokens)

    def _gave(self, worker: str, model: str) -> WorkerSums:
        return self.gave.setdefault(worker, {}).setdefault(model, WorkerSums())

    def _note_span(self, attempt: Mapping[str, Any], span: Span) -> None:
        for card in (attempt.get("gpu") or "").split(","):
            if card:
                spans = self.cards.setdefault(card, [])
                spans.append(span)
                if len(spans) > MAX_SPANS * 16:
                    self.cards[card] = merged(spans)

    def _add_reused(self, tokens: int | None) -> None:
        if tokens is not None:
            self.tokens_in_reused = (self.tokens_in_reused or 0) + tokens

    def settle(self) -> None:
        """Bring the spans into order."""
        self.cards = {card: merged(spans) for card, spans in self.cards.items()}
        for models in self.gave.values():
            for sums in models.values():
                sums.settle()

    @property
    def card_s(self) -> float:
        """Seconds of cards: requests side by side on one card count once."""
        return sum(end - begin for spans in self.cards.values() for begin, end in spans)

    @property
    def worked_s(self) -> float:
        """Seconds in which any worker had one of its requests."""
        spans = [span for models in self.gave.values() for sums in models.values() for span in sums.spans]
        return sum(end - begin for begin, end in merged(spans))

    @property
    def span(self) -> Span | None:
        """From the first attempt's begin to the last one's end."""
        spans = [s for spans in self.cards.values() for s in spans]
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None


class _Part(msgspec.Struct):
    stamp: DirStamp
    sums: Sums
    version: Annotated[int, msgspec.Meta(ge=_VERSION, le=_VERSION)]


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and costs of a batch."""

    completed: Sums
    failed: Sums
    cancelled: Sums
    left: int

    @property
    def all(self) -> Sums:
        """All finished items together."""
        whole = Sums()
        for part in (self.completed, self.failed, self.cancelled):
            whole.add(part)
        return whole


def tally(layout: Layout, storage: Storage, batch_id: str, task_ids: Iterable[str]) -> Tally:
    """Count a batch. Costs a listing per shard that changed, and the reading of its documents."""
    shards: dict[str, set[str]] = {}
    for task_id in task_ids:
        shards.setdefault(shard_of(task_id), set()).add(task_id)
    total = sum(len(ids) for ids in shards.values())
    path = f"{layout.batches}/{batch_id}.tally"
    known, kept = _load(path), {}
    sums = {state: Sums() for state in TERMINAL}
    for shard, ids in shards.items():
        for state in TERMINAL:
            key = f"{state}/{shard}"
            part = _part(f"{layout.root}/{key}", ids, known.get(f"{key}/{len(ids)}"))
            if part is not None:
                kept[f"{key}/{len(ids)}"] = part
                sums[state].add(part.sums)
    if kept != known:
        storage.replace(path, msgspec.json.encode(kept), durable=False)
    ended = sum(s.items for s in sums.values())
    return Tally(
        completed=sums[TaskState.COMPLETED],
        failed=sums[TaskState.FAILED],
        cancelled=sums[TaskState.CANCELLED],
        left=total - ended,
    )


def _load(path: str) -> dict[str, _Part]:
    try:
        return msgspec.json.decode(read_file(path, MAX_TALLY_BYTES), type=dict[str, _Part])
    except (FileNotFoundError, ValueError):
        return {}  # it only saves reading again


def _part(folder: str, ids: set[str], known: _Part | None) -> _Part | None:
    now = stamp_of(folder)
    if now is None:
        return None
    if known is not None and now.unchanged_since(known.stamp):
        return known
    sums = Sums()
    for name in list_inside(folder):
        if name[:-5] not in ids:
            continue
        try:
            sums.note(codec.read_document(f"{folder}/{name}"))
        except (FileNotFoundError, ValueError):
            continue  # retried or purged in this moment; or no document at all, which fsck names
    sums.settle()
    return _Part(now, sums, _VERSION)


def _span_of(attempt: Mapping[str, Any]) -> Span | None:
    try:
        span = (parse_iso(attempt["started_at"]), parse_iso(attempt["ended_at"]))
    except (KeyError, ValueError):  # an attempt that a dead worker began has no end
        return None
    return span if span[1] >= span[0] else None


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _add_counts(counts: dict[str, int], others: dict[str, int]) -> None:
    for name, number in others.items():
        counts[name] = counts.get(name, 0) + number
