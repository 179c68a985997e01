"""Lays out ``swarm top`` as lines of text for a terminal of any size. Pure.

Alarms come first, then cards, workers or tasks, then the queue.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from msgspec.structs import replace
from rich.text import Text

from swarm.cli.render import table_lines
from swarm.cli.top.screen_state import PANES, TopState, key_of, lines_of, tasks_per_s, tokens_per_s
from swarm.plain_text import one_line
from swarm.views.blocks import Cell, Table, columns
from swarm.views.node_words import node_cells, several_nodes, worker_heads
from swarm.views.overview import StatusView
from swarm.views.queue_rows import lanes_table
from swarm.views.task_rows import ActiveRow, TaskRow, holder_cell, phase_cell
from swarm.views.words import count, duration, plural, rate
from swarm.views.worker_rows import WorkerLine, cards_table, workers_table

MIN_LIST = 4
"""Lines that the list of workers or tasks keeps, its head included, however low the terminal is."""
HELP = (
    "up down j k   select a line              enter      open worker or task",
    "tab 1 2 3     workers, tasks, failed     esc left   back",
    "s             another order              q Ctrl-C   leave",
    "r             retry a failed task        c          cancel a task (asks first)",
    "",
    "On a worker with one task, r and c apply to that task.",
    "Speeds are measured over the last 15 seconds, before that over the last minute",
    "of each worker; best: beside the best that its card has shown for the model.",
    "",
    "The same in a pipe or a script: swarm status, swarm top --json,",
    "swarm queue active, swarm explain NAME, swarm logs --task ID.",
)


def screen(state: TopState, width: int, height: int) -> list[Text]:
    """Exactly ``height`` lines of at most ``width`` cells."""
    if state.data is None:
        body = [Text("looking ...", style="dim")]
    elif state.page == "help":
        body = [Text("swarm top: keys", style="bold"), Text(""), *(Text(line) for line in HELP)]
    elif state.page == "look":
        body = _look(state, width, height - 1)
    else:
        body = _main(state, width, height - 1)
    lines = [*body[: height - 1], *(Text("") for _ in range(height - 1 - len(body)))]
    for line in (*lines, footer := _footer(state)):
        line.truncate(width, overflow="ellipsis")
    return [*lines, footer]


def _main(state: TopState, width: int, room: int) -> list[Text]:
    assert state.data is not None
    view = state.data.status
    head = [_title(view, width), _totals(view), _speeds(state, view), *_alarms(view, max(1, (room - 12) // 4), width)]
    cards = table_lines(cards_table(view.cards), width) if view.cards else []
    queue = table_lines(lanes_table(view.lanes), width) if view.lanes else []
    listed = _list(state, width)
    left = room - len(head) - 1
    list_least = min(len(listed), max(MIN_LIST, left * 2 // 5))
    queue_room = _share(queue, left - list_least - len(cards), left - list_least)
    cards_room = _share(cards, left - list_least - queue_room - bool(queue_room), left - list_least - queue_room)
    list_room = left - sum(part + 1 for part in (queue_room, cards_room) if part)
    out = head
    if cards_room:
        out += [Text(""), *_capped(cards, cards_room, "card")]
    out += [Text(""), *_window(listed, list_room, _at(state))]
    if queue_room:
        out += [Text(""), *_capped(queue, queue_room, "lane")]
    return out


def _share(lines: list[Text], spare: int, most: int) -> int:
    """Lines that a table gets: what is spare after the others, at least its head and two lines, or none at all."""
    if not lines or most < 4:
        return 0
    return min(len(lines), max(3, spare - 1))


def _title(view: StatusView, width: int) -> Text:
    left = Text(f"swarm {one_line(view.root)}", style="bold")
    words = "running" if view.running else "not running"
    left.append(f"  {words}", style="bold green" if view.running else "bold red")
    if view.simulated:
        left.append("  simulated", style="yellow")
    clock = Text(view.at[11:19], style="dim")
    left.truncate(max(0, width - len(clock) - 1), overflow="ellipsis")
    return left + " " * max(1, width - left.cell_len - len(clock)) + clock


def _totals(view: StatusView) -> Text:
    stats = view.queue
    line = Text()
    numbers = (("waiting", stats.pending.total), ("blocked", stats.blocked), ("running", stats.processing))
    ends = (("done", stats.completed), ("failed", stats.failed), ("cancelled", stats.cancelled))
    bad = (("corrupt", stats.corrupt), ("stuck", stats.stuck))
    for name, number in (*numbers, *ends, *bad):
        if number or name not in ("blocked", "cancelled", "corrupt"):
            style = "bold red" if number and name in ("failed", "corrupt", "stuck") else "" if number else "dim"
            line.append(f"{name} {number:,}   ", style=style)
    if view.live.waiting or view.live.in_flight:
        line.append(f"live {view.live.in_flight:,}, {view.live.waiting:,} waiting   ")
    return line


def _speeds(state: TopState, view: StatusView) -> Text:
    measured = tasks_per_s(state)
    tasks = measured or view.throughput.tasks_per_s
    tokens = sum(tokens_per_s(state, worker) or 0.0 for worker in view.workers if worker.alive)
    now = view.throughput
    words = f"{rate(tasks)} tasks   tokens {rate(now.tokens_in_per_s)} in {rate(tokens or None)} out"
    words += f"   {duration(now.eta_s)} to go"
    words += "" if now.j_per_1k_tokens is None else f"   {count(now.j_per_1k_tokens)} J/1k tokens"
    oldest = view.queue.oldest_pending_s
    return Text(words + (f"   the oldest waits for {duration(oldest)}" if view.queue.pending.total and oldest else ""))


def _alarms(view: StatusView, most: int, width: int) -> list[Text]:
    lines: list[Text] = []
    for alarm in view.alarms[:most]:
        style = "bold red" if alarm.level == "critical" else "yellow"
        text = Text(f"{'ALARM' if alarm.level == 'critical' else 'WARN'} {one_line(alarm.text)}", style=style)
        step = Text(f"try: {one_line(alarm.next)}", style="dim")
        lines += [text + "  " + step] if text.cell_len + 2 + step.cell_len <= width else [text, Text("  ") + step]
    more = len(view.alarms) - most
    return [*lines, Text(f"and {plural(more, 'more alarm')}: swarm status", style="yellow")] if more > 0 else lines


def _list(state: TopState, width: int) -> list[Text]:
    """Head and lines of the open pane, the chosen one reversed."""
    rows = lines_of(state)
    if not rows:
        words = {
            "workers": "no workers are registered: swarm up",
            "tasks": "no task is running",
            "failed": "no task has failed",
        }
        return [Text(state.pane.upper(), style="dim"), Text(words[state.pane], style="dim")]
    lines = table_lines(_table(state, rows), width)
    for line, row in zip(lines[1:], rows, strict=True):
        if key_of(row) == state.selected:
            line.append(" " * (width - line.cell_len))
            line.stylize("reverse")
    return lines


def _table(state: TopState, rows: Sequence[WorkerLine | ActiveRow | TaskRow]) -> Table:
    assert state.data is not None
    if state.pane == "workers":
        workers = [row for row in rows if isinstance(row, WorkerLine)]
        measured = [replace(row, tokens_per_s=tokens_per_s(state, row) if row.alive else None) for row in workers]
        return workers_table(measured, short=True, active=state.data.status.active)
    if state.pane == "tasks":
        nodes = several_nodes(state.data.status.workers)
        heads = columns("task", *worker_heads(nodes), "model~", "try>", "for>", "progress>", "phase", "name~")
        cells = tuple(_task_cells(row, nodes=nodes) for row in rows if isinstance(row, ActiveRow))
        return Table(columns=heads, rows=cells)
    heads = columns("task", "model~", "tries>", "ended", "error~")
    return Table(columns=heads, rows=tuple(_failed_cells(row) for row in rows if isinstance(row, TaskRow)))


def _task_cells(row: ActiveRow, *, nodes: bool) -> tuple[Cell | str, ...]:
    numbers = (str(row.attempt), duration(row.elapsed_s), count(row.progress))
    who = (row.task_id, holder_cell(row), *node_cells(row.node, nodes))
    return (*who, row.model or row.task_class or "-", *numbers, phase_cell(row), row.name or "-")


def _failed_cells(row: TaskRow) -> tuple[Cell | str, ...]:
    ended = (row.completed_at or "-")[:19].replace("T", " ")
    return (row.task_id, row.model or row.task_class or "-", str(row.attempt), ended, Cell(row.error or "-", "red"))


def _at(state: TopState) -> int:
    keys = [key_of(row) for row in lines_of(state)]
    return keys.index(state.selected) if state.selected in keys else 0


def _capped(lines: list[Text], room: int, noun: str) -> list[Text]:
    """Head and first lines; the last one tells how many more there are."""
    if len(lines) <= room:
        return lines
    return [*lines[: room - 1], Text(f"and {plural(len(lines) - room + 1, f'more {noun}')}", style="dim")]


def _window(lines: list[Text], room: int, at: int) -> list[Text]:
    """Head and the lines around the chosen one; above and below it is said how many are hidden."""
    if len(lines) <= room:
        return lines
    head, *rows = lines
    room -= 2
    first = min(max(0, at - room // 2), len(rows) - room)
    hidden = Text(f"lines {first + 1} to {first + room} of {len(rows)}", style="dim")
    return [head, *rows[first : first + room], hidden]


def _look(state: TopState, width: int, room: int) -> list[Text]:
    assert state.data is not None
    look = state.data.look
    if look is None or look.subject != state.subject:
        return [Text(f"looking at {state.subject} ...", style="dim")]
    if look.missing:
        return _wrapped(look.missing, width, "yellow")
    lines: list[Text] = []
    if (found := look.explanation) is not None:
        lines.append(Text(f"{found.kind} {found.subject}: {found.state}", style="bold"))
        for reason in found.reasons:
            lines += _wrapped(reason.text, width, indent="  ")
            lines += _wrapped(f"try: {reason.next_step}", width, "dim", indent="    ") if reason.next_step else []
    lines += [Text(""), *(part for fact in look.facts for part in _wrapped(fact, width))]
    logs = [part for line in look.log for part in _wrapped(_short_log(line), width, _log_style(line), indent="  ", first="")]
    lines += [Text(""), Text("last log lines", style="dim")]
    below = max(3, room - len(lines))
    lines += logs if state.scroll else (logs or [Text("none", style="dim")])[-below:]
    return lines[min(state.scroll, max(0, len(lines) - room)) :]


def _wrapped(text: str, width: int, style: str = "", *, indent: str = "", first: str | None = None) -> list[Text]:
    start = indent if first is None else first
    parts = textwrap.wrap(one_line(text), max(width, 20), initial_indent=start, subsequent_indent=indent)
    return [Text(part, style=style) for part in parts]


def _short_log(line: str) -> str:
    """``21:05:50.123 worker-1 INFO  text``: the day and the zone are left out."""
    if not line.startswith("[2"):
        return line
    moment, _, rest = line[1:].partition("] [")
    name, _, text = rest.partition("] ")
    return f"{moment[11:23]} {name} {text}"


def _log_style(line: str) -> str:
    level = line.partition("] [")[2].partition("] ")[2].split(" ", 1)[0]
    return {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}.get(level, "")


def _footer(state: TopState) -> Text:
    if state.asking:
        return Text(f"cancel {state.asking}? y / n", style="bold reverse")
    if state.note:
        return Text(one_line(state.note), style="bold")
    if state.page != "main":
        keys = "r retry  c cancel  j k scroll  esc back" if state.page == "look" else "esc back"
        return Text(f"{keys}  q back  Ctrl-C leave", style="dim")
    after = PANES[(PANES.index(state.pane) + 1) % len(PANES)]
    order = state.sorts[state.pane]
    return Text(f"q quit  ? help  tab:{after}  s:{order}  j k  enter:look  r:retry  c:cancel", style="dim")
