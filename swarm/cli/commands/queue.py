"""``swarm queue …``: count, list, look into, retry and cancel tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.command_options import ShowOptions, arg, opt
from swarm.cli.commands import queue_maintenance
from swarm.core.lanes import parse_lane
from swarm.core.task import TaskState, canonical_model
from swarm.errors import EXIT_USAGE, InputError, QueueError, SwarmError, name_hint
from swarm.runtime.open import open_observer, open_queue
from swarm.views.blocks import Line
from swarm.views.task_rows import TaskRow, active_rows, active_table, task_blocks, task_row, task_table
from swarm.views.words import plural

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue
    from swarm.queue.lookup import Located

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""Tasks: count, list, show, retry, cancel.

    \b
    Examples:
      swarm queue stats
      swarm queue list failed -n 10
    """,
)
app.command(name="clear-stuck")(queue_maintenance.clear_stuck)
app.command()(queue_maintenance.purge)
app.command()(queue_maintenance.fsck)
app.command()(queue_maintenance.pause)
app.command()(queue_maintenance.resume)
Ids = Annotated[list[str], typer.Argument(metavar="TASK...", help="Ids of tasks.")]


@app.command()
def stats(at: ShowOptions) -> None:
    """The queue in numbers: by state, class and model.

    \b
    Examples:
      swarm queue stats
      swarm queue stats --json | jq .pending.by_model
    """
    from swarm.core.health.liveness import stuck
    from swarm.views.queue_rows import queue_blocks, queue_stats

    settings = at.settings()
    queue = open_queue(settings)
    counts, snapshot = queue.stats(), open_observer(settings, queue, cards=False).snapshot()
    found = queue_stats(counts, stuck_tasks=len(stuck(snapshot, settings)))
    at.show(found, queue_blocks(found))


@app.command(name="list")
def list_tasks(
    at: ShowOptions,
    state: str | None = arg("[STATE]", "pending, blocked, processing, completed …", None),
    state_option: str | None = opt("--state STATE", "The same as an option."),
    limit: int = opt("--limit -n", "Largest number of tasks.", 50, least=1, most=10**9),
    lane: str | None = opt("--lane", "Only this lane: cpu, script, llm@MODEL, resource@WORKER."),
    model: str | None = opt("--model", "Only tasks for this model."),
) -> None:
    """Tasks of one state, next in line first. [default: pending]

    \b
    Examples:
      swarm queue list
      swarm queue list failed -n 10
      swarm queue list --model llama3.2:3b --json
    """
    asked = _state(state_option or state or "pending")
    queue = at.queue()
    if lane is not None and parse_lane(lane) is None:
        raise InputError(f"{lane!r} is no lane", hint="lanes are cpu, script, llm@MODEL, resource@WORKER")
    wanted = canonical_model(model) if model is not None else None
    every = _rows(queue, asked, lane)
    chosen = (row for row in every if wanted is None or (row.model is not None and canonical_model(row.model) == wanted))
    found = list(islice(chosen, limit + 1))
    rows, more = tuple(found[:limit]), len(found) > limit
    blocks: list[Any] = [task_table(rows, state=str(asked))]
    if more:
        blocks.append(Line(f"only the first {plural(limit, 'task')}; -n shows more", "dim"))
    at.show({"tasks": rows, "more": more}, blocks)


@app.command()
def show(
    at: ShowOptions,
    task_id: str = arg("TASK", "The task's id."),
) -> None:
    """One task: its body, attempts, result or error. --json prints the whole document.

    \b
    Example:
      swarm queue show d5de16d7 --json | jq .attempts
    """
    document = at.queue().read(task_id)
    at.show(document, task_blocks(document))


@app.command()
def active(at: ShowOptions) -> None:
    """Running tasks: worker, attempt, time, progress.

    \b
    Example:
      swarm queue active
    """
    settings = at.settings()
    rows = active_rows(open_observer(settings).snapshot(), settings)
    at.show({"tasks": rows}, [active_table(rows)])


@app.command()
def retry(at: ShowOptions, ids: Ids) -> None:
    """Requeue failed or cancelled tasks. Their earlier attempts no longer count.

    \b
    Example:
      swarm queue retry d5de16d7
    """
    queue = at.queue()
    _each(at, ids, lambda task_id: f"back in lane {queue.retry(task_id)}")


@app.command()
def cancel(
    at: ShowOptions,
    ids: Ids,
    reason: str = opt("--reason", "Kept in the task's document.", "cancelled by hand"),
) -> None:
    """Cancel tasks. Waiting ones end at once; workers are asked to stop running ones.

    \b
    Example:
      swarm queue cancel d5de16d7 --reason "wrong prompt"
    """
    queue = at.queue()
    words = {"asked": "its worker was asked to stop it"}

    def act(task_id: str) -> str:
        done = queue.cancel(task_id, reason)
        return words.get(done, done)

    _each(at, ids, act)


def _each(at: ShowOptions, ids: list[str], act: Callable[[str], str]) -> None:
    """Do it to each task. Those that refuse are reported and make the exit code 2; the rest is done all the same."""
    done: list[dict[str, str]] = []
    refused: list[dict[str, str]] = []
    hint: str | None = None
    for task_id in ids:
        try:
            done.append({"task_id": task_id, "outcome": act(task_id)})
        except SwarmError as problem:
            refused.append({"task_id": task_id, "error": problem.message})
            print(f"error: {problem.message}", file=sys.stderr)
            hint = problem.hint or hint
    blocks = [Line(f"{one['task_id']}: {one['outcome']}") for one in done]
    at.show({"done": done, "refused": refused}, blocks)
    if refused:
        if hint:
            print(f"hint: {hint}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)


def _state(text: str) -> TaskState:
    try:
        return TaskState(text.lower())
    except ValueError:
        raise InputError(f"{text!r} is no state of a task", hint=name_hint(text.lower(), TaskState, "one of:")) from None


def _rows(queue: FileQueue, state: TaskState, lane: str | None) -> Iterator[TaskRow]:
    for located in queue.list(state):
        if lane is None or located.lane == lane:
            reason = queue.why_corrupt(located.task_id) if located.state is TaskState.CORRUPT else ""
            yield task_row(located, _document(queue, located), reason=reason)


def _document(queue: FileQueue, located: Located) -> Mapping[str, Any] | None:
    if located.state is TaskState.CORRUPT:
        return None
    try:
        return queue.read(located.task_id)
    except QueueError:
        return None  # it moved on or cannot be read; what its place says is shown
