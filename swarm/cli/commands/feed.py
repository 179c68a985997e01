"""``swarm feed`` and ``swarm feeds``: a source of any length, a few tasks at a time."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.cli.command_options import FeedRequest, ShowOptions, arg
from swarm.errors import InputError, QueueError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from swarm.core.workflow.feed import FeedState, Wish
    from swarm.views.blocks import Block
    from swarm.views.documents import FeedRow

REPORT_EVERY_S = 5.0


def feed(
    at: ShowOptions,
    request: FeedRequest,
    words: list[str] | None = arg("[IN | pause ID | resume ID | stop ID]", "A file of lines, or what to do.", None),
) -> None:
    """Submit a source of any length, a few tasks at a time. Keeps a lane's waiting tasks between --min and --target.

    Ten million lines never become ten million files. After a kill at any moment the same command resumes: no line
    is lost, none is done twice. Lines that make no task are counted and shown. A command must print the same lines
    each time it is run.

    \b
    Examples:
      swarm feed huge.jsonl --model llama3.2:3b --min 5 --target 10
      swarm feed --command "python list_work.py" --format jsonl --model llama3.2:3b
      swarm feeds; swarm feed pause ID; swarm feed resume ID; swarm feed stop ID
    """
    from swarm.cli.run.feed import feed as run_feed

    given = words or []
    wishes: dict[str, Wish] = {"pause": "pause", "resume": "run", "stop": "stop"}
    if len(given) == 2 and given[0] in wishes and request.command is None:
        _ask(at, given[1], wishes[given[0]], given[0])
        return
    if len(given) == 1 and given[0] in wishes and not os.path.exists(given[0]):
        raise InputError(f"which feed? `swarm feed {given[0]} ID`", hint="`swarm feeds` lists them")
    if len(given) + (request.command is not None) != 1:
        raise InputError("give exactly one of IN and --command", hint="swarm feed huge.jsonl --model llama3.2:3b")
    if given:
        request = replace(request, source=given[0])
    at.end(run_feed(at.load(), request, _reporter(quiet=request.quiet or at.as_json)))


def feeds(at: ShowOptions) -> None:
    """All feeds: progress, and whether a feeder runs.

    Known already: tasks that were there when their lines were offered, as after a kill. Min-target: so many wait.

    \b
    Example:
      swarm feeds
    """
    from swarm.views.documents import feed_list

    found = feed_list(at.queue())
    at.show(found, _table(found.feeds))


def _table(feeds: Sequence[FeedRow]) -> list[Block]:
    from swarm.views.blocks import Cell, Table, columns
    from swarm.views.words import count

    heads = columns(
        "id", "state", "lines>", "tasks>", "known already>?", "rejected>", "min-target>?", "last moved?", "source~?"
    )
    rows = tuple(
        (
            state.feed_id,
            _state_words(state, alive=state.alive),
            count(state.number),
            count(state.accepted),
            count(state.again),
            Cell(count(state.rejected), "red" if state.rejected else ""),
            f"{state.min}-{state.target}",
            state.updated_at,
            state.source,
        )
        for state in feeds
    )
    return [Table(columns=heads, rows=rows, empty="no feeds")]


def _state_words(state: FeedState, *, alive: bool) -> str:
    if alive or state.status in ("finished", "stopped", "failed"):
        return state.status
    return f"{state.status}, no feeder runs"


def _ask(at: ShowOptions, feed_id: str, wish: Wish, word: str) -> None:
    from swarm.queue.stores.feeds import FeedBook
    from swarm.views.blocks import Line

    queue = at.queue()
    book = FeedBook(queue.layout, queue.storage)
    state = book.state(feed_id)
    if state.status == "finished":
        raise QueueError(f"feed {feed_id} has finished", hint=f"swarm results {feed_id} -o OUT")
    book.set_wish(feed_id, wish)
    alive = book.lives(feed_id)
    line = f"feed {feed_id}: asked to {word}" + (
        "" if alive else "; no feeder runs now: the same `swarm feed` command resumes it"
    )
    at.show({"feed_id": feed_id, "asked": word, "alive": alive}, [Line(line)])


def _reporter(*, quiet: bool) -> Callable[[FeedState], None]:
    import sys
    import time

    from swarm.views.words import count

    said_s, said = time.monotonic(), ""

    def report(state: FeedState) -> None:
        nonlocal said_s, said
        now_s = time.monotonic()
        if quiet or (state.status == said and now_s - said_s < REPORT_EVERY_S):
            return
        said_s, said = now_s, state.status
        words = f"{count(state.number)} lines read, {count(state.accepted)} tasks made, {count(state.rejected)} rejected"
        print(f"feed {state.feed_id}: {state.status}: {words}", file=sys.stderr, flush=True)

    return report
