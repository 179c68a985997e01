"""How batches stand, as rows and tables."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.tally import Tally
from swarm.views.blocks import Block, Cell, Line, Table, columns
from swarm.views.words import count, duration, plural


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One batch in numbers."""

    batch_id: str
    source: str
    state: str
    """``running``, ``waiting`` (nobody works), ``finished``, ``incomplete`` (its submission was cut off or goes on)."""
    items: int
    completed: int
    failed: int
    cancelled: int
    left: int
    purged: int
    """Of which nothing is left: their records were removed. Known to be at least so many while other tasks wait."""
    progress: float
    """From 0 to 1."""
    eta_s: float | None
    tokens_in: int
    tokens_out: int
    tokens_in_reused: int | None
    """Of the tokens in, what servers had computed for an earlier prompt; None: no server has said."""
    card_s: float
    cost: float | None
    cached: int
    """Answers from the cache; what they saved is no part of the tokens above."""
    saved_in: int
    saved_out: int
    saved_s: float
    simulated: int
    submitted_at: str


def batch_row(manifest: Manifest, tally: Tally, *, alive: bool, active: int, price_per_mtok: float | None) -> BatchRow:
    """A batch's row. ``alive``: somebody works; ``active``: tasks of the whole queue that have not ended, at the most.

    The price counts tokens in and out, in whatever currency it is given.
    """
    sums = tally.all
    purged = max(0, tally.left - active) if manifest.submitted else 0
    tally = msgspec.structs.replace(tally, left=tally.left - purged)
    items = sums.items + tally.left + purged
    if not manifest.submitted:
        state = "incomplete"
    elif not tally.left:
        state = "finished"
    else:
        state = "running" if alive else "waiting"
    return BatchRow(
        batch_id=manifest.batch_id,
        source=manifest.source,
        state=state,
        items=items,
        completed=tally.completed.items,
        failed=tally.failed.items,
        cancelled=tally.cancelled.items,
        left=tally.left,
        purged=purged,
        progress=round((sums.items + purged) / items, 4) if items else 1.0,
        eta_s=_eta_s(tally) if alive else None,
        tokens_in=sums.tokens_in,
        tokens_out=sums.tokens_out,
        tokens_in_reused=sums.tokens_in_reused,
        card_s=round(sums.card_s, 3),
        cost=None if price_per_mtok is None else round((sums.tokens_in + sums.tokens_out) / 1e6 * price_per_mtok, 6),
        cached=sums.cached,
        saved_in=sums.saved_in,
        saved_out=sums.saved_out,
        saved_s=round(sums.saved_s, 3),
        simulated=sums.simulated,
        submitted_at=manifest.created_at,
    )


def _eta_s(tally: Tally) -> float | None:
    """By the pace since the first attempt; None while nothing has ended."""
    sums = tally.all
    span = sums.span
    if not tally.left or span is None or not sums.items:
        return None
    return tally.left * max(0.0, time.time() - span[0]) / sums.items


def table(rows: tuple[BatchRow, ...]) -> list[Block]:
    """All batches."""
    priced = any(row.cost is not None for row in rows)
    cached = any(row.cached for row in rows)
    purged = any(row.purged for row in rows)
    numbers = [
        "items>",
        "done>",
        "failed>",
        "cancelled>?",
        "left>",
        "progress>?",
        "ETA>",
        "tok in>?",
        "tok out>?",
        "card time>?",
    ]
    numbers += [name for name, shown in (("purged>?", purged), ("cached>?", cached), ("cost>", priced)) if shown]
    heads = columns("id", "state", *numbers, "source~?")
    cells = tuple(_cells(row, purged=purged, cached=cached, priced=priced) for row in rows)
    blocks: list[Block] = [Table(columns=heads, rows=cells, empty="no batches")]
    if cached:
        blocks.append(Line(_saved(rows)))
    if any(row.simulated for row in rows):
        blocks.append(Line("simulated: some of these answers come from simulated model servers", "yellow"))
    return blocks


def _cells(row: BatchRow, *, purged: bool, cached: bool, priced: bool) -> tuple[Cell | str, ...]:
    return (
        row.batch_id,
        Cell(row.state, "green" if row.state == "finished" else ""),
        count(row.items),
        count(row.completed),
        Cell(count(row.failed), "red" if row.failed else ""),
        Cell(count(row.cancelled), "yellow" if row.cancelled else ""),
        count(row.left),
        f"{row.progress * 100:.0f}%",
        duration(row.eta_s),
        count(row.tokens_in),
        count(row.tokens_out),
        duration(row.card_s),
        *((count(row.purged),) if purged else ()),
        *((count(row.cached),) if cached else ()),
        *((_price(row.cost),) if priced and row.cost is not None else ()),
        row.source,
    )


def _price(cost: float) -> str:
    """With cents; what is less than one with as many places as it takes."""
    return f"{cost:,.2f}" if cost >= 1 or not cost else f"{cost:.6f}".rstrip("0").rstrip(".")


def _saved(rows: tuple[BatchRow, ...]) -> str:
    tokens = f"{count(sum(row.saved_in for row in rows))} tokens in, {count(sum(row.saved_out for row in rows))} out"
    requests = plural(sum(row.cached for row in rows), "request")
    return f"cache: {requests} answered before; saved {tokens}, {duration(sum(row.saved_s for row in rows))} of requests"


def details(row: BatchRow, report: dict[str, Any]) -> list[Block]:
    """One batch: its row, then what made it and what went wrong."""
    blocks = table((row,))
    options = msgspec.json.encode(report["options"]).decode()
    blocks += [Line(f"submitted {row.submitted_at} by swarm {report['versions']['submitted_by']}; options {options}")]
    for name, model in report["models"].items():
        digests = ", ".join(f"{digest[:12]} ({plural(n, 'attempt')})" for digest, n in model["digests"].items())
        blocks.append(Line(f"model {name}: {digests or 'no attempt yet'}"))
    if row.tokens_in_reused is not None:
        share = row.tokens_in_reused / max(1, row.tokens_in)
        tokens = f"{count(row.tokens_in_reused)} of {count(row.tokens_in)} prompt tokens"
        blocks.append(Line(f"prefix cache: {tokens} ({share:.0%}) were not computed again"))
    if report["workers"]:
        blocks.append(Line("by worker: " + ", ".join(f"{w} {count(n)}" for w, n in report["workers"].items())))
    for card, seconds in report["cards"].items():
        blocks.append(Line(f"card {card}: busy {duration(seconds)}"))
    for kind, number in sorted(report["errors"].items(), key=lambda pair: -pair[1]):
        blocks.append(Line(f"error {kind}: {plural(number, 'item')}", "red"))
    if row.failed or row.cancelled:
        blocks.append(Line(f"again: swarm batch retry-failed {row.batch_id}"))
    return blocks
