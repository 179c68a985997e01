"""From views to blocks: which columns, in which order, how much of it. Pure; made for 80 columns first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarm.cli.render import SIMULATED, Block, Cell, Column, Line, Style, Table, state_cell
from swarm.cli.units import count, duration, mib, percent, rate
from swarm.cli.views.views import (
    ActiveRow,
    Alarm,
    CardRow,
    Explanation,
    LaneRow,
    ModelRow,
    QueueStats,
    StatusView,
    Throughput,
    WorkerLine,
)
from swarm.core.explain.tasks import Reason


def status(view: StatusView) -> list[Block]:
    """One screen, alarms first."""
    head = "running" if view.running else "not running"
    blocks: list[Block] = [Line(f"swarm at {view.root}: {head}", "bold")]
    if view.simulated:
        blocks.append(Line(SIMULATED, "yellow"))
    blocks += alarms(view.alarms)
    if view.cards:
        blocks += [Line(""), cards(view.cards)]
    if view.cards_note:
        blocks.append(Line(view.cards_note, "yellow"))
    blocks += [Line(""), workers(view.workers, short=True, active=view.active), Line("")]
    blocks += [*queue(view.queue, lanes=view.lanes), throughput(view.throughput)]
    return blocks


def alarms(found: Sequence[Alarm]) -> list[Block]:
    """One or two lines per alarm: what, and what to do."""
    lines: list[Block] = []
    for alarm in found:
        style: Style = "bold red" if alarm.level == "critical" else "yellow"
        lines.append(Line(f"{'ALARM' if alarm.level == 'critical' else 'WARN '} {alarm.text}", style))
        lines.append(Line(f"      try: {alarm.next}", "dim"))
    return lines


def cards(rows: Sequence[CardRow]) -> Table:
    """Cards with memory, load, temperature, power."""
    columns = (
        Column("gpu", right=True),
        Column("card", gives_way=True),
        Column("worker"),
        Column("memory", right=True),
        Column("load", right=True),
        Column("temp", right=True),
        Column("power", right=True),
        Column("model", gives_way=True),
    )
    return Table(
        columns=columns, rows=tuple(_card(row) for row in rows), empty="no GPU found: `swarm up --simulate 2` works without"
    )


def _card(row: CardRow) -> tuple[Cell | str, ...]:
    name = f"{row.name} (simulated)" if row.simulated and "simulated" not in row.name.lower() else row.name
    model = Cell(row.fault, "bold red") if row.fault else Cell(row.model or "-")
    temperature = "-" if row.temperature_c is None else f"{row.temperature_c}C"
    power = "-" if row.power_w is None else f"{row.power_w:.0f}W"
    memory = mib(row.memory_used_mib, row.memory_total_mib)
    return (str(row.index), name, row.worker or "-", memory, percent(row.utilisation_pct), temperature, power, model)


def workers(rows: Sequence[WorkerLine], *, short: bool = False, active: Sequence[ActiveRow] = ()) -> Table:
    """Workers; ``short`` leaves out what the cards' table and `swarm workers` show. ``active``: how far their tasks are."""
    columns = [
        Column("worker"),
        Column("state"),
        Column("model", gives_way=True),
        Column("slots", right=True),
        Column("done", right=True),
    ]
    columns += [Column("failed", right=True), Column("tok/s", right=True)]
    if not short:
        columns += [Column("tokens", right=True), Column("gpus")]
    columns.append(Column("doing", gives_way=True))
    held = {task.task_id: task for task in active}
    table = tuple(_worker(row, short=short, held=held) for row in rows)
    return Table(columns=tuple(columns), rows=table, empty="no workers are registered: `swarm up` starts one per card")


def doing(row: WorkerLine, held: Mapping[str, ActiveRow]) -> str:
    """``d5de16d7 7s +42``: the tasks in a worker's hands with age and progress, else why it does nothing."""
    if row.tasks and row.alive:
        return ", ".join(_task_words(task_id, held.get(task_id)) for task_id in row.tasks)
    idle = f"idle {duration(row.idle_s)}" if row.idle_s else ""
    return "; ".join(part for part in (idle, row.reason) if part) or "-"


def _task_words(task_id: str, task: ActiveRow | None) -> str:
    if task is None:
        return task_id
    stuck = " STUCK" if task.stuck else ""
    return f"{task_id} {duration(task.elapsed_s)}{f' +{count(task.progress)}' if task.progress else ''}{stuck}"


def _worker(row: WorkerLine, *, short: bool, held: Mapping[str, ActiveRow]) -> tuple[Cell | str, ...]:
    cells: list[Cell | str] = [
        row.name,
        state_cell(row.state),
        row.model or "-",
        f"{row.slots_busy}/{row.slots}",
        count(row.completed),
    ]
    cells.append(Cell(count(row.failed), "red" if row.failed else "dim"))
    cells.append("-" if row.tokens_per_s is None else count(row.tokens_per_s))
    if not short:
        cells += [count(row.tokens_out), ",".join(map(str, row.gpus)) or "-"]
    cells.append(doing(row, held))
    return tuple(cells)


def lanes_table(rows: Sequence[LaneRow]) -> Table:
    """What waits, by class and model."""
    columns = (
        Column("waiting for", gives_way=True),
        Column("tasks", right=True),
        Column("oldest", right=True),
        Column("to go", right=True),
        Column("loaded on", gives_way=True),
    )
    return Table(columns=columns, rows=tuple(_lane(row) for row in rows), empty="nothing waits")


def _lane(row: LaneRow) -> tuple[Cell | str, ...]:
    on = (
        Cell(", ".join(row.loaded_on))
        if row.loaded_on
        else Cell("nobody" if row.model else "-", "yellow" if row.model else "")
    )
    name = f"llm {row.model}" if row.task_class == "llm" else row.lane.replace("@", " ")
    return (name, f"{row.waiting:,}", duration(row.oldest_s), duration(row.eta_s), on)


def queue(stats: QueueStats, *, lanes: Sequence[LaneRow] = ()) -> list[Block]:
    """The queue by state, class and model; with ``lanes`` also for how long, and until when."""
    states = ("blocked", "processing", "completed", "failed", "cancelled", "corrupt")
    columns = (Column("pending", right=True), *(Column(name, right=True) for name in states), Column("stuck", right=True))
    numbers = [Cell(f"{getattr(stats, name):,}", state_cell(name).style) if getattr(stats, name) else "0" for name in states]
    stuck = Cell(str(stats.stuck), "bold red") if stats.stuck else "0"
    blocks: list[Block] = [Table(columns=columns, rows=((f"{stats.pending.total:,}", *numbers, stuck),))]
    if stats.pending.total:
        classes = ", ".join(f"{name} {number:,}" for name, number in stats.pending.by_class.items())
        blocks.append(Line(f"waiting: {classes}; the oldest for {duration(stats.oldest_pending_s)}"))
    if lanes:
        blocks += [Line(""), lanes_table(lanes)]
    elif stats.pending.by_model:
        columns = (Column("model"), Column("waiting", right=True))
        rows = tuple((model, f"{number:,}") for model, number in stats.pending.by_model.items())
        blocks += [Line(""), Table(columns=columns, rows=rows)]
    if stats.drop_ins:
        blocks.append(Line(f"drop-ins not yet checked: {stats.drop_ins:,}"))
    return blocks


def throughput(now: Throughput) -> Line:
    """What is being done at this moment."""
    if now.tasks_per_s is None:
        return Line(f"throughput: no llm task is running; {now.completed:,} done by these workers", "dim")
    tokens, eta = rate(now.tokens_out_per_s), duration(now.eta_s)
    return Line(
        f"throughput: {rate(now.tasks_per_s)} tasks, {tokens} tokens, {eta} to go; {now.completed:,} done by these workers"
    )


def models(rows: Sequence[ModelRow]) -> Table:
    """Models, where they are and what was learned of them."""
    columns = (
        Column("model", gives_way=True),
        Column("loaded on", gives_way=True),
        *(Column(n, right=True) for n in _MODEL_NUMBERS),
    )
    return Table(
        columns=columns, rows=tuple(_model(row) for row in rows), empty="no model is loaded, waited for or installed"
    )


_MODEL_NUMBERS = ("waiting", "run", "done", "failed", "on disk", "on card", "load", "task", "tok/s")


def _first_of(names: Sequence[str]) -> Cell:
    if not names:
        return Cell("-", "dim")
    return Cell(names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}")


def _model(row: ModelRow) -> tuple[Cell | str, ...]:
    size = "-" if row.size_mib is None else f"{(row.size_vram_mib or 0) / 1024:.1f}/{row.size_mib / 1024:.1f}G"
    spilled = row.size_mib is not None and (row.size_vram_mib or 0) < row.size_mib
    return (
        row.model,
        _first_of(row.loaded_on),
        f"{row.waiting:,}",
        str(row.running),
        count(row.completed),
        Cell(count(row.failed), "red" if row.failed else "dim"),
        "-" if row.disk_mib is None else f"{row.disk_mib / 1024:.1f}G",
        Cell(size, "yellow" if spilled else ""),
        duration(row.load_s),
        duration(row.task_s),
        "-" if row.tokens_per_s is None else count(row.tokens_per_s),
    )


def explanation(found: Explanation) -> list[Block]:
    """Why, and what to do."""
    blocks: list[Block] = [Line(f"{found.kind} {found.subject}: {found.state}", "bold")]
    for reason in found.reasons or (Reason("none", "nothing stands in its way", "swarm status"),):
        blocks.append(Line(f"  - {reason.text}"))
        if reason.next_step:
            blocks.append(Line(f"    try: {reason.next_step}", "dim"))
    return blocks
