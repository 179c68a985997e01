"""What one worker did of a batch with one model: tokens, time, joules, and how many of its tasks ran at once over time."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

GAP_S = 1.0
"""A card that pauses for less between two attempts counts as busy throughout."""
MAX_SPANS = 256
FINEST_S = 5.0
MAX_BUCKETS = 32
WINDOW_S = 60.0
"""The rate of late is measured over so long."""

Span = tuple[float, float]


class Timeline(msgspec.Struct, omit_defaults=True):
    """Seconds of tasks in buckets of equal width; the width doubles whenever there are more than ``MAX_BUCKETS``.

    Bucket ``n`` begins ``n * width_s`` after the epoch, so those of two timelines lie on one another once as wide.
    """

    width_s: float = FINEST_S
    task_s: dict[int, float] = msgspec.field(default_factory=dict)

    def note(self, span: Span, *, fit: bool = True) -> None:
        """Add a task that ran from the one moment to the other; without ``fit`` the width stays."""
        begin, end = span
        while fit and end - begin > self.width_s * MAX_BUCKETS:
            self._widen()
        at = begin
        while at < end:
            bucket = int(at // self.width_s)
            until = min(end, (bucket + 1) * self.width_s)
            self.task_s[bucket] = self.task_s.get(bucket, 0.0) + until - at
            at = until
        if fit:
            self._fit()

    def add(self, other: Timeline) -> None:
        """Add another one."""
        wider = Timeline(other.width_s, dict(other.task_s))
        while wider.width_s < self.width_s:
            wider._widen()
        while self.width_s < wider.width_s:
            self._widen()
        for bucket, seconds in wider.task_s.items():
            self.task_s[bucket] = self.task_s.get(bucket, 0.0) + seconds
        self._fit()

    def at_once(self, spans: Iterable[Span], most: int) -> tuple[float, tuple[float, ...]]:
        """Width of a bucket in seconds, and the mean number of tasks at once in each, at most so many of them.

        ``spans``: when there was any. What lies between them does not count, nor does a bucket's part before or after.
        """
        shown = Timeline(self.width_s, dict(self.task_s))
        while shown.task_s and max(shown.task_s) - min(shown.task_s) >= most:
            shown._widen()
        if not shown.task_s:
            return shown.width_s, ()
        buckets = range(min(shown.task_s), max(shown.task_s) + 1)
        worked = Timeline(shown.width_s)
        for span in spans:
            worked.note(span, fit=False)
        pairs = ((shown.task_s.get(bucket, 0.0), worked.task_s.get(bucket, 0.0)) for bucket in buckets)
        return shown.width_s, tuple(task_s / worked_s if worked_s > 0 else 0.0 for task_s, worked_s in pairs)

    def _fit(self) -> None:
        while len(self.task_s) > MAX_BUCKETS:
            self._widen()

    def _widen(self) -> None:
        before, self.task_s = self.task_s, {}
        self.width_s *= 2
        for bucket, seconds in before.items():
            self.task_s[bucket // 2] = self.task_s.get(bucket // 2, 0.0) + seconds


class WorkerSums(msgspec.Struct, omit_defaults=True):
    """Sums over finished items; answers from the cache are not among them."""

    items: int = 0
    """Whose last attempt this worker made."""
    tokens_in: int = 0
    tokens_out: int = 0
    attempts: int = 0
    task_s: float = 0.0
    """Of attempts; those side by side add up."""
    metered: int = 0
    """Attempts of which it is known what the cards used."""
    energy_j: float = 0.0
    """Of those."""
    metered_tokens_out: int = 0
    """Of the items whose last attempt is one of those."""
    spans: list[Span] = msgspec.field(default_factory=list)
    """When it worked on the batch, in seconds since the epoch; apart, ascending."""
    timeline: Timeline = msgspec.field(default_factory=Timeline)

    def note(self, span: Span | None, energy_j: float | None) -> None:
        """Add an attempt; ``settle`` when all are in."""
        self.attempts += 1
        if energy_j is not None:
            self.metered += 1
            self.energy_j += energy_j
        if span is not None:
            self.task_s += span[1] - span[0]
            self.timeline.note(span)
            self.spans.append(span)
            if len(self.spans) > MAX_SPANS * 16:
                self.settle()

    def ended(self, tokens_in: int, tokens_out: int, *, metered: bool) -> None:
        """Add an item's tokens."""
        self.items += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.metered_tokens_out += tokens_out if metered else 0

    def add(self, other: WorkerSums) -> None:
        """Add the sums of other items."""
        for name in ("items", "tokens_in", "tokens_out", "attempts", "task_s", "metered", "energy_j", "metered_tokens_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.spans = merged([*self.spans, *other.spans])
        self.timeline.add(other.timeline)

    def settle(self) -> None:
        """Bring the spans into order."""
        self.spans = merged(self.spans)

    @property
    def worked_s(self) -> float:
        """Seconds in which it worked on the batch; tasks side by side count once."""
        return sum(end - begin for begin, end in self.spans)


class Latest(msgspec.Struct, omit_defaults=True):
    """Tokens of the items that ended last, in buckets of ``FINEST_S``: for the rate of late."""

    buckets: dict[int, tuple[int, int]] = msgspec.field(default_factory=dict)
    """Tokens in and out."""

    def note(self, ended_s: float, tokens_in: int, tokens_out: int) -> None:
        """Add an item that ended then, seconds since the epoch."""
        bucket = int(ended_s // FINEST_S)
        before = self.buckets.get(bucket, (0, 0))
        self.buckets[bucket] = (before[0] + tokens_in, before[1] + tokens_out)
        self._fit()

    def add(self, other: Latest) -> None:
        """Add those of other items."""
        for bucket, (tokens_in, tokens_out) in other.buckets.items():
            self.note(bucket * FINEST_S, tokens_in, tokens_out)

    def per_s(self, now_s: float) -> tuple[float, float]:
        """Tokens in and out per second of the last minute before ``now_s``."""
        first = int((now_s - WINDOW_S) // FINEST_S) + 1
        found = [tokens for bucket, tokens in self.buckets.items() if bucket >= first]
        span_s = now_s - first * FINEST_S
        return sum(t[0] for t in found) / span_s, sum(t[1] for t in found) / span_s

    def _fit(self) -> None:
        kept = int(WINDOW_S / FINEST_S) + 2
        while len(self.buckets) > kept:
            del self.buckets[min(self.buckets)]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans that overlap, or nearly follow one another, made one; at most ``MAX_SPANS``, the smallest gaps closed first."""
    out: list[Span] = []
    for begin, end in sorted(spans):
        if out and begin - out[-1][1] <= GAP_S:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    while len(out) > MAX_SPANS:
        _, at = min((out[i + 1][0] - out[i][1], i) for i in range(len(out) - 1))
        out[at : at + 2] = [(out[at][0], out[at + 1][1])]
    return out
