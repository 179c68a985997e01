"""What a batch gave, by worker and model: rows for ``--json``, and their table."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from swarm.core.task import canonical_model
from swarm.queue.batches.tally import Sums, Tally
from swarm.views.blocks import Block, Line, Table, columns
from swarm.views.node_words import node_cells, several_nodes, worker_heads
from swarm.views.words import count, duration, percent, rate

MOST_SHOWN = 8
"""Parts of the batch's time that the table shows slots for."""

Bests = Mapping[tuple[str, str], float]
"""By worker and canonical model: the most tokens per second that the card has shown."""


class GaveRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker did of the batch with one model. Rates are over the time in which it had tasks of it."""

    worker: str
    node: str
    """Machine of its cards; empty: this one, or it is not registered any more."""
    model: str
    items: int
    worked_s: float
    tokens_in: int
    tokens_out: int
    tokens_in_per_s: float | None
    tokens_out_per_s: float | None
    best_tokens_per_s: float | None
    """The most that the card has shown for the model; None while unknown."""
    share_of_best: float | None
    """From 0 to 1."""
    slots: float | None
    """Mean of tasks at once."""
    slots_width_s: float
    slots_over_time: tuple[float, ...]
    """The same for each ``slots_width_s`` of its part of the batch, oldest first."""
    energy_j: float | None
    """Of its attempts that it is known of, all or some; None: of none."""
    j_per_1k_tokens: float | None
    """For 1,000 generated tokens of those."""


class BatchGave(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers gave together. None: not known."""

    worked_s: float
    """In which any of them had tasks of the batch."""
    tokens_in_per_s: float | None
    tokens_out_per_s: float | None
    recent_tokens_in_per_s: float | None
    """This and the next over the last minute; None once all has ended."""
    recent_tokens_out_per_s: float | None
    share_of_best: float | None
    """Of the tokens that their cards would have generated in this time at their best."""
    energy_j: float | None
    j_per_1k_tokens: float | None
    workers: tuple[GaveRow, ...]


def batch_gave(tally: Tally, bests: Bests, now_s: float, nodes: Mapping[str, str] | None = None) -> BatchGave:
    """From the sums so far; ``now_s`` is in seconds since the epoch. ``nodes``: machines of workers, by name."""
    sums = tally.all
    rows = tuple(_rows(sums, bests, nodes or {}))
    at_best = [
        (row.tokens_out or row.tokens_in, row.best_tokens_per_s * row.worked_s) for row in rows if row.best_tokens_per_s
    ]
    metered = [one for models in sums.gave.values() for one in models.values() if one.metered]
    recent_in, recent_out = sums.latest.per_s(now_s) if tally.left else (0.0, 0.0)
    return BatchGave(
        worked_s=round(sums.worked_s, 3),
        tokens_in_per_s=_ratio(sums.tokens_in, sums.worked_s),
        tokens_out_per_s=_ratio(sums.tokens_out, sums.worked_s),
        recent_tokens_in_per_s=recent_in or None,
        recent_tokens_out_per_s=recent_out or None,
        share_of_best=_share(sum(tokens for tokens, _ in at_best), sum(most for _, most in at_best)),
        energy_j=round(sum(one.energy_j for one in metered), 1) if metered else None,
        j_per_1k_tokens=_ratio(sum(one.energy_j for one in metered) * 1000, sum(one.metered_tokens_out for one in metered)),
        workers=rows,
    )


def _rows(sums: Sums, bests: Bests, nodes: Mapping[str, str]) -> list[GaveRow]:
    rows = []
    for worker, models in sorted(sums.gave.items()):
        for model, one in sorted(models.items()):
            best = bests.get((worker, canonical_model(model)))
            width_s, over_time = one.timeline.at_once(one.spans, MOST_SHOWN)
            row = GaveRow(
                worker=worker,
                node=nodes.get(worker, ""),
                model=model,
                items=one.items,
                worked_s=round(one.worked_s, 3),
                tokens_in=one.tokens_in,
                tokens_out=one.tokens_out,
                tokens_in_per_s=_ratio(one.tokens_in, one.worked_s),
                tokens_out_per_s=_ratio(one.tokens_out, one.worked_s),
                best_tokens_per_s=best,
                share_of_best=_share(one.tokens_out or one.tokens_in, (best or 0.0) * one.worked_s),
                slots=_ratio(one.task_s, one.worked_s),
                slots_width_s=width_s,
                slots_over_time=tuple(round(slots, 2) for slots in over_time),
                energy_j=round(one.energy_j, 1) if one.metered else None,
                j_per_1k_tokens=_ratio(one.energy_j * 1000, one.metered_tokens_out) if one.metered else None,
            )
            rows.append(row)
    return rows


def _ratio(total: float, per: float) -> float | None:
    return round(total / per, 3) if total > 0 and per > 0 else None


def _share(tokens: float, most: float) -> float | None:
    found = _ratio(tokens, most)
    return None if found is None else min(1.0, found)


def gave_blocks(gave: BatchGave) -> list[Block]:
    """A line for the batch, a table by worker; nothing before something was answered."""
    if not any(row.tokens_in or row.tokens_out for row in gave.workers):
        return []  # tasks without tokens: scripts, or nothing has ended
    tokens = f"tokens {rate(gave.tokens_in_per_s)} in {rate(gave.tokens_out_per_s)} out"
    words = f"gave: {tokens} in {duration(gave.worked_s)} of work"
    if gave.recent_tokens_in_per_s is not None or gave.recent_tokens_out_per_s is not None:
        words += f"; last minute {rate(gave.recent_tokens_in_per_s)} in {rate(gave.recent_tokens_out_per_s)} out"
    if gave.share_of_best is not None:
        words += f"; {gave.share_of_best:.0%} of the best of these cards"
    if gave.energy_j is not None:
        words += f"; {joules(gave.energy_j)}, {_number(gave.j_per_1k_tokens)} J per 1,000 tokens"
    numbers = ("tok/s in>?", "tok/s out>", "of best>?", "slots>?", "energy>?", "J/1k tok>?")
    nodes = several_nodes(gave.workers)
    heads = columns(*worker_heads(nodes), "model~", *numbers, "slots over time~?")
    cells = tuple((row.worker, *node_cells(row.node, nodes), *_cells(row)) for row in gave.workers)
    return [Line(words), Table(columns=heads, rows=cells)]


def _cells(row: GaveRow) -> tuple[str, ...]:
    over_time = " ".join(f"{slots:.1f}" if slots < 2 else f"{slots:.0f}" for slots in row.slots_over_time)
    return (
        row.model,
        _number(row.tokens_in_per_s),
        _number(row.tokens_out_per_s),
        percent(None if row.share_of_best is None else row.share_of_best * 100),
        "-" if row.slots is None else f"{row.slots:.1f}",
        "-" if row.energy_j is None else joules(row.energy_j),
        _number(row.j_per_1k_tokens),
        f"{over_time} (per {duration(row.slots_width_s)})" if over_time else "-",
    )


def joules(energy_j: float) -> str:
    """``812 J``, ``12.4 kJ``, ``3.1 MJ``."""
    for limit, factor, letter in ((1e4, 1.0, ""), (1e7, 1e3, "k"), (float("inf"), 1e6, "M")):
        if energy_j < limit:
            return f"{energy_j / factor:,.0f} J" if not letter else f"{energy_j / factor:,.1f} {letter}J"
    return "-"


def _number(value: float | None) -> str:
    return "-" if value is None else count(value)
