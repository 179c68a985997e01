"""``swarm queue …``: count, list, look into, retry and cancel tasks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli.command_options import ShowOptions, arg, opt
from swarm.cli.commands import queue_maintenance
from swarm.cli.task_names import meant
from swarm.errors import EXIT_USAGE, SwarmError
from swarm.runtime.open import open_observer, open_queue
from swarm.views.blocks import Line
from swarm.views.documents import active_list
from swarm.views.task_lists import TaskFilter, state_of, task_list
from swarm.views.task_rows import active_table, task_blocks, task_table
from swarm.views.verbs import BY_HAND, TaskDone, cancel_task, each, retry_task
from swarm.views.words import plural

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue

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
    from swarm.views.documents import stats as queue_numbers
    from swarm.views.queue_rows import queue_blocks

    settings = at.settings()
    queue = open_queue(settings)
    found = queue_numbers(queue, open_observer(settings, queue, cards=False).snapshot(), settings)
    at.show(found, queue_blocks(found))


@app.command(name="list")
def list_tasks(
    at: ShowOptions,
    state: str | None = arg("[STATE]", "pending, blocked, processing, completed …", None),
    state_option: str | None = opt("--state STATE", "The same as an option."),
    limit: int = opt("--limit -n N", "Largest number of tasks.", 50, least=1, most=10**9),
    lane: str | None = opt("--lane LANE", "Only this lane: cpu, script, llm@MODEL, resource@WORKER."),
    model: str | None = opt("--model M", "Only tasks for this model."),
    batch: str | None = opt("--batch B", "Only tasks of this batch."),
) -> None:
    """Tasks of one state, next in line first. [default: pending]

    \b
    Examples:
      swarm queue list
      swarm queue list failed -n 10
      swarm queue list --model llama3.2:3b --json
    """
    wanted = TaskFilter(state=state_of(state_option or state or "pending"), lane=lane, model=model, batch=batch)
    found = task_list(at.queue(), wanted, limit=limit)
    asked = (("lane", lane), ("model", model), ("batch", batch))
    of = "".join(f" of {kind} {name}" for kind, name in asked if name is not None)
    blocks: list[Any] = [task_table(found.tasks, state=str(wanted.state), now_s=time.time(), of=of)]
    if found.more:
        blocks.append(Line(f"only the first {plural(limit, 'task')}; -n shows more", "dim"))
    at.show(found, blocks)


@app.command()
def show(
    at: ShowOptions,
    task_id: str = arg("TASK", "The task's id."),
) -> None:
    """One task: its body, attempts, result or error. --json prints the whole document.

    \b
    Example:
      swarm queue show 1k7h2mz4q0035w3ce --json | jq .attempts
    """
    queue = at.queue()
    with meant(queue, task_id) as named:
        document = queue.read(named)
    at.show(document, task_blocks(document))


@app.command()
def active(at: ShowOptions) -> None:
    """Running tasks: worker, attempt, time, progress.

    \b
    Example:
      swarm queue active
    """
    settings = at.settings()
    found = active_list(open_observer(settings).snapshot(), settings)
    at.show(found, [active_table(found.tasks)])


@app.command()
def retry(at: ShowOptions, ids: Ids) -> None:
    """Requeue failed or cancelled tasks. Their earlier attempts no longer count.

    \b
    Example:
      swarm queue retry 1k7h2mz4q0035w3ce
    """
    queue = at.queue()
    _each(at, queue, ids, lambda task_id: retry_task(queue, task_id))


@app.command()
def cancel(
    at: ShowOptions,
    ids: Ids,
    reason: str = opt("--reason TEXT", "Kept in the task's document.", BY_HAND),
) -> None:
    """Cancel tasks. Waiting ones end at once; workers are asked to stop running ones.

    \b
    Example:
      swarm queue cancel 1k7h2mz4q0035w3ce --reason "wrong prompt"
    """
    queue = at.queue()
    _each(at, queue, ids, lambda task_id: cancel_task(queue, task_id, reason))


def _each(at: ShowOptions, queue: FileQueue, ids: list[str], act: Callable[[str], TaskDone]) -> None:
    """Do it to each task. Those that refuse are reported and make the exit code 2; the rest is done all the same."""
    hint: str | None = None

    def done(text: str) -> TaskDone:
        with meant(queue, text) as task_id:
            return act(task_id)

    def refused(problem: SwarmError) -> None:
        nonlocal hint
        print(f"error: {problem.message}", file=sys.stderr)
        hint = problem.hint or hint

    found = each(ids, done, refused)
    at.show(found, [Line(f"{one.task_id}: {one.outcome}") for one in found.done])
    if found.refused:
        if hint:
            print(f"hint: {hint}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)
