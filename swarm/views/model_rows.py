"""Rows and tables of models: where they are loaded, what was measured, what is on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.health.liveness import workers_of
from swarm.core.nodes.relay_workers import THIS_NODE
from swarm.core.snapshot import LiveView, SwarmSnapshot
from swarm.core.worker import ModelTally, TunedSlots, WorkerRow
from swarm.views.blocks import Cell, Table, columns
from swarm.views.row_servers import is_asked, server_of
from swarm.views.words import count, duration

ASK_S = 2.0


class OnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One model on the servers' disks."""

    size_mib: int
    workers: tuple[str, ...]
    """Those whose servers have it."""
    nodes: tuple[str, ...] = ()
    """Machines of those; the empty name is this one."""


def serving_nodes(snapshot: SwarmSnapshot) -> frozenset[str]:
    """Machines with a living worker that has a model server."""
    return frozenset(w.node for w in workers_of(snapshot) if w.alive and w.row is not None and w.row.url is not None)


def installed_models(snapshot: SwarmSnapshot, settings: Settings) -> Mapping[str, OnDisk]:
    """By canonical model name. A server that does not answer in time is left out: its worker says so itself.

    Ollama's servers and relays are asked; what other engines could serve is told by their workers, without sizes, and so
    is what a relay does not tell.
    """
    views = [w for w in workers_of(snapshot) if w.alive and w.row is not None and w.row.url is not None]
    asked = [w.row for w in views if w.row is not None and is_asked(w.row)]
    answers: dict[str, Iterable[tuple[str, int]]] = {
        w.name: [(model, 0) for model in w.heartbeat.servable]
        for w in views
        if w.heartbeat is not None and w.row is not None and w.row.ollama_url is None
    }
    if asked:
        with ThreadPoolExecutor(max_workers=min(16, len(asked))) as pool:
            names = (row.name for row in asked)
            told = zip(names, pool.map(lambda row: _tags(row, settings), asked), strict=True)
            answers |= {name: models for name, models in told if models is not None}
    found: dict[str, OnDisk] = {}
    nodes = {w.name: w.node for w in views}
    for worker, models in answers.items():
        for model, size_mib in models:
            known = found.get(model, OnDisk(size_mib=size_mib, workers=()))
            found[model] = OnDisk(
                size_mib=max(known.size_mib, size_mib),
                workers=(*known.workers, worker),
                nodes=tuple(sorted({*known.nodes, nodes[worker]})),
            )
    return found


def _tags(row: WorkerRow, settings: Settings) -> Iterable[tuple[str, int]] | None:
    try:
        with server_of(row, settings) as server:
            return [(model.name, model.size_mib) for model in server.tags(ASK_S)]
    except TaskFault:
        return None


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model: where it is, what waits for it, what was learned of it."""

    model: str
    loaded_on: tuple[str, ...]
    waiting: int
    running: int
    live_waiting: int
    """Live requests that have no worker yet."""
    live_in_flight: int
    completed: int
    failed: int
    size_mib: int | None
    size_vram_mib: int | None
    load_s: float | None
    """Mean seconds per load."""
    task_s: float | None
    """Mean seconds per request."""
    tokens_per_s: float | None
    """Generated tokens per second of one request."""
    installed_on: tuple[str, ...] = ()
    """Living workers whose servers have it on disk."""
    installed_nodes: tuple[str, ...] = ()
    """Machines of those; the empty name is this one."""
    disk_mib: int | None = None
    slots: dict[str, TunedSlots] = msgspec.field(default_factory=dict)
    """By worker that has it loaded: requests at once, the measured rates, and why so many."""


def model_rows(snapshot: SwarmSnapshot, installed: Mapping[str, OnDisk] | None = None) -> tuple[ModelRow, ...]:
    """Every model that is loaded, waited for, used live, was run by a worker that is known, or lies on a server's disk."""
    disk = installed or {}
    views = workers_of(snapshot)
    loaded = {v.name: v.heartbeat.model for v in views if v.alive and v.heartbeat and v.heartbeat.model}
    waiting = snapshot.llm_pending()
    running = Counter(c.model for c in snapshot.claims if c.model and c.task_class in (None, "llm"))
    tallies: dict[str, list[ModelTally]] = {}
    for view in views:
        for model, tally in (view.heartbeat.models if view.heartbeat else {}).items():
            tallies.setdefault(model, []).append(tally)
    live = {view.model: view for view in snapshot.live}
    names = sorted({*loaded.values(), *waiting, *running, *live, *tallies, *disk})
    where = {name: tuple(w for w, m in loaded.items() if m == name) for name in names}
    tuned = {v.name: v.heartbeat.tuned for v in views if v.heartbeat}
    none = LiveView(model="")
    rows = (
        _model_row(n, where[n], waiting.get(n, 0), running[n], live.get(n, none), tallies.get(n, []), disk.get(n))
        for n in names
    )
    return tuple(
        msgspec.structs.replace(row, slots={w: tuned[w][row.model] for w in row.loaded_on if row.model in tuned[w]})
        for row in rows
    )


def _model_row(
    name: str,
    loaded_on: tuple[str, ...],
    waiting: int,
    running: int,
    live: LiveView,
    tallies: list[ModelTally],
    disk: OnDisk | None,
) -> ModelRow:
    completed, failed = sum(t.completed for t in tallies), sum(t.failed for t in tallies)
    busy_s = sum(t.busy_s for t in tallies)
    return ModelRow(
        model=name,
        loaded_on=loaded_on,
        waiting=waiting,
        running=running,
        live_waiting=live.waiting,
        live_in_flight=live.in_flight,
        completed=completed,
        failed=failed,
        size_mib=max((t.size_mib for t in tallies), default=0) or None,
        size_vram_mib=max((t.size_vram_mib for t in tallies), default=0) or None,
        load_s=_ratio(sum(t.load_s for t in tallies), sum(t.loads for t in tallies)),
        task_s=_ratio(busy_s, completed + failed),
        tokens_per_s=_ratio(sum(t.tokens_out for t in tallies), busy_s),
        installed_on=disk.workers if disk else (),
        installed_nodes=disk.nodes if disk else (),
        disk_mib=(disk.size_mib or None) if disk else None,
    )


def _ratio(total: float, number: float) -> float | None:
    return total / number if number > 0 and total > 0 else None


def models_table(rows: Sequence[ModelRow], nodes: Collection[str] = ()) -> Table:
    """Models, where they are and what was learned of them: requests of the slots, and tokens/s of all slots together.

    With several machines also those that have it on disk; ``nodes``: all that have model servers, also with an empty disk.
    """
    live = any(row.live_waiting or row.live_in_flight for row in rows)
    places = ("live wait>", "live run>") if live else ()
    numbers = ("waiting>", "run>", *places, "done>", "failed>", "on disk>?", "on card>?", "load>?", "task>?", "tok/s>?")
    everywhere = {*nodes, *(node for row in rows for node in row.installed_nodes)}
    several = any(everywhere)
    heads = columns("model~~", "loaded on~", *(("on nodes~?",) if several else ()), *numbers)
    cells = tuple(_model_cells(row, live=live, nodes=everywhere if several else None) for row in rows)
    return Table(columns=heads, rows=cells, empty="no model is loaded, waited for or installed")


def _first_of(names: Sequence[str]) -> Cell:
    if not names:
        return Cell("-", "dim")
    return Cell(names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}")


def _on_nodes(row: ModelRow, everywhere: Collection[str]) -> Cell:
    """Which machines have it on disk."""
    if len(row.installed_nodes) == len(everywhere):
        return Cell("all")
    return Cell(", ".join(node or THIS_NODE for node in row.installed_nodes) or "-", "" if row.installed_nodes else "dim")


def _model_cells(row: ModelRow, *, live: bool, nodes: Collection[str] | None) -> tuple[Cell | str, ...]:
    size = "-" if row.size_mib is None else f"{(row.size_vram_mib or 0) / 1024:.1f}/{row.size_mib / 1024:.1f}G"
    slots = sum(tuned.in_flight for tuned in row.slots.values())
    total_s = sum(tuned.tokens_per_s for tuned in row.slots.values())
    spilled = row.size_mib is not None and (row.size_vram_mib or 0) < row.size_mib
    return (
        row.model,
        _first_of(row.loaded_on),
        *((_on_nodes(row, nodes),) if nodes is not None else ()),
        f"{row.waiting:,}",
        f"{row.running}/{slots}" if slots else str(row.running),
        *((f"{row.live_waiting:,}", f"{row.live_in_flight:,}") if live else ()),
        count(row.completed),
        Cell(count(row.failed), "red" if row.failed else "dim"),
        "-" if row.disk_mib is None else f"{row.disk_mib / 1024:.1f}G",
        Cell(size, "yellow" if spilled else ""),
        duration(row.load_s),
        duration(row.task_s),
        count(rate_s) if (rate_s := total_s or row.tokens_per_s or 0.0) else "-",
    )
