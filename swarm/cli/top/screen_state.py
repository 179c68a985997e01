"""State machine of ``swarm top``: what is shown, and how a key or new data changes it.

Pure: no terminal, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from swarm.views.explanations import Explanation
from swarm.views.overview import StatusView
from swarm.views.task_rows import ActiveRow, TaskRow
from swarm.views.worker_rows import WorkerLine

Pane = Literal["workers", "tasks", "failed"]
Page = Literal["main", "look", "help"]
PANES: tuple[Pane, ...] = ("workers", "tasks", "failed")
SORTS: dict[Pane, tuple[str, ...]] = {
    "workers": ("name", "trouble", "tokens/s", "done"),
    "tasks": ("worker", "longest", "progress"),
    "failed": ("newest", "model"),
}
WINDOW_S = 15.0
"""Speeds are measured over so long; heartbeats come every two seconds, so less would flicker."""
MEASURED_S = 4.0
"""Less than this tells nothing: what the worker measured is shown instead."""
_GOOD = ("busy", "loading", "idle")


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One worker or task in detail."""

    subject: str
    kind: Literal["worker", "task"]
    explanation: Explanation | None = None
    facts: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    """Its last log lines, oldest first."""
    missing: str = ""
    """Why there is nothing to show."""


class TopData(msgspec.Struct, frozen=True, kw_only=True):
    """One look at everything. ``mono_s`` is when."""

    mono_s: float
    status: StatusView
    failed: tuple[TaskRow, ...] = ()
    """Some dead letters; empty unless that list is open."""
    look: Look | None = None


class Sample(msgspec.Struct, frozen=True):
    """Counters at one moment, to measure speeds by."""

    mono_s: float
    completed: int
    tokens: dict[str, int]
    """By worker: generated so far in its life, running tasks included."""


class TopState(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what is on the screen."""

    data: TopData | None = None
    pane: Pane = "workers"
    page: Page = "main"
    sorts: dict[Pane, str] = msgspec.field(default_factory=lambda: {pane: orders[0] for pane, orders in SORTS.items()})
    selected: str = ""
    """Name or id of the chosen line of the pane; it stays on it when lines move."""
    subject: str = ""
    """What the page ``look`` is about."""
    scroll: int = 0
    asking: str = ""
    """The task whose cancelling waits for y or n."""
    note: str = ""
    """What the last key did, until the next."""
    samples: tuple[Sample, ...] = ()


class Act(msgspec.Struct, frozen=True):
    """Something to do outside: ``quit``, ``retry`` or ``cancel`` a task, ``look`` again at once."""

    what: Literal["quit", "retry", "cancel", "look"]
    task_id: str = ""


def seen(state: TopState, data: TopData) -> TopState:
    """The state with a new look in it."""
    status = data.status
    tokens = {w.name: w.tokens_out + sum(a.progress for a in status.active if a.worker == w.name) for w in status.workers}
    sample = Sample(data.mono_s, status.queue.completed, tokens)
    kept = tuple(s for s in state.samples if data.mono_s - s.mono_s <= WINDOW_S)
    return _held(msgspec.structs.replace(state, data=data, samples=(*kept, sample)))


def said(state: TopState, note: str) -> TopState:
    """The state with the outcome of an act shown."""
    return msgspec.structs.replace(state, note=note)


def press(state: TopState, key: str) -> tuple[TopState, Act | None]:
    """What a key does. Keys are characters, or ``up``, ``down``, ``pgup``, ``home``, ``enter``, ``esc`` and the like."""
    if state.asking:
        return _answer(state, yes=key in ("y", "Y"))
    state = said(state, "")
    act: Act | None = None
    match key:
        case "q" | "ctrl-c" if state.page == "main" or key == "ctrl-c":
            act = Act("quit")
        case "q" | "esc" | "left" | "backspace":
            state = msgspec.structs.replace(state, page="main", scroll=0, subject="")
        case "?" | "h" | "p":
            state = msgspec.structs.replace(state, page="main" if state.page == "help" else "help", scroll=0)
        case "r" | "c":
            state, act = _act(state, key)
        case _ if state.page == "main":
            state, act = _press_main(state, key)
        case _:
            state = msgspec.structs.replace(state, scroll=max(0, state.scroll + _step(key)))
    return state, act


def _answer(state: TopState, *, yes: bool) -> tuple[TopState, Act | None]:
    task_id, state = state.asking, msgspec.structs.replace(state, asking="", note="")
    return (state, Act("cancel", task_id)) if yes else (said(state, f"{task_id} goes on"), None)


def _press_main(state: TopState, key: str) -> tuple[TopState, Act | None]:
    match key:
        case "tab" | "right" | "1" | "2" | "3":
            pane = PANES[int(key) - 1] if key.isdigit() else PANES[(PANES.index(state.pane) + 1) % len(PANES)]
            return _held(msgspec.structs.replace(state, pane=pane, selected="")), Act("look")
        case "s":
            orders = SORTS[state.pane]
            order = orders[(orders.index(state.sorts[state.pane]) + 1) % len(orders)]
            return said(msgspec.structs.replace(state, sorts={**state.sorts, state.pane: order}), f"by {order}"), None
        case "enter" if state.selected:
            return msgspec.structs.replace(state, page="look", subject=state.selected, scroll=0), Act("look")
        case _:
            return _moved(state, _step(key)), None


def _act(state: TopState, key: str) -> tuple[TopState, Act | None]:
    task_id = chosen_task(state)
    if not task_id:
        return said(state, "choose a task first: tab shows them"), None
    if key == "r":
        return state, Act("retry", task_id)
    return msgspec.structs.replace(state, asking=task_id), None


def chosen_task(state: TopState) -> str:
    """The task that ``r`` and ``c`` mean; a worker with one task in hand means that task. Empty: none."""
    if state.page == "look":
        is_task = state.data is not None and state.data.look is not None and state.data.look.kind == "task"
        return state.subject if is_task else ""
    if state.pane != "workers":
        return state.selected
    row = next((w for w in lines_of(state) if isinstance(w, WorkerLine) and w.name == state.selected), None)
    return row.tasks[0] if row is not None and len(row.tasks) == 1 else ""


def lines_of(state: TopState) -> Sequence[WorkerLine | ActiveRow | TaskRow]:
    """The lines of the open pane, in its order."""
    if state.data is None:
        return ()
    order = state.sorts[state.pane]
    match state.pane:
        case "workers":
            return _workers(state, order)
        case "tasks":
            return _tasks(state.data.status.active, order)
        case "failed":
            return _failed(state.data.failed, order)


def _failed(rows: Sequence[TaskRow], order: str) -> Sequence[TaskRow]:
    if order == "model":
        return sorted(rows, key=lambda r: (r.model or "", r.task_id))
    return sorted(rows, key=lambda r: (r.completed_at or "", r.task_id), reverse=True)


def _tasks(rows: Sequence[ActiveRow], order: str) -> Sequence[ActiveRow]:
    match order:
        case "longest":
            return sorted(rows, key=lambda r: (-r.elapsed_s, r.task_id))
        case "progress":
            return sorted(rows, key=lambda r: (-r.progress, r.task_id))
        case _:
            return rows


def _workers(state: TopState, order: str) -> Sequence[WorkerLine]:
    assert state.data is not None
    rows = state.data.status.workers
    match order:
        case "trouble":
            return sorted(rows, key=lambda w: (w.state in _GOOD, -w.failed, w.name))
        case "tokens/s":
            return sorted(rows, key=lambda w: (-(tokens_per_s(state, w) or 0.0), w.name))
        case "done":
            return sorted(rows, key=lambda w: (-w.completed, w.name))
        case _:
            return rows


def key_of(row: WorkerLine | ActiveRow | TaskRow) -> str:
    """What names a line."""
    return row.name if isinstance(row, WorkerLine) else row.task_id


def tokens_per_s(state: TopState, worker: WorkerLine) -> float | None:
    """Measured over the window where that is long enough, else as the worker measured the last minute."""
    oldest = next((s for s in state.samples if worker.name in s.tokens), None)
    newest = state.samples[-1] if state.samples else None
    if oldest is None or newest is None or newest.mono_s - oldest.mono_s < MEASURED_S:
        return worker.tokens_per_s
    grown = newest.tokens.get(worker.name, 0) - oldest.tokens[worker.name]
    return grown / (newest.mono_s - oldest.mono_s) if grown > 0 else None


def tasks_per_s(state: TopState) -> float | None:
    """Tasks completed per second over the window; None where it is too short or nothing was."""
    if not state.samples:
        return None
    oldest, newest = state.samples[0], state.samples[-1]
    past_s, done = newest.mono_s - oldest.mono_s, newest.completed - oldest.completed
    return done / past_s if past_s >= MEASURED_S and done > 0 else None


def _step(key: str) -> int:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -10, "pgdn": 10, " ": 10, "home": -1_000_000, "g": -1_000_000}
    return steps.get(key, 1_000_000 if key in ("end", "G") else 0)


def _moved(state: TopState, step: int) -> TopState:
    keys = [key_of(row) for row in lines_of(state)]
    if not keys or not step:
        return state
    at = keys.index(state.selected) if state.selected in keys else 0
    return msgspec.structs.replace(state, selected=keys[min(max(at + step, 0), len(keys) - 1)])


def _held(state: TopState) -> TopState:
    """A selection that is on a line, if there is one: the first, once its own line is missing."""
    keys = [key_of(row) for row in lines_of(state)]
    if state.selected in keys:
        return state
    return msgspec.structs.replace(state, selected=keys[0] if keys else "")
