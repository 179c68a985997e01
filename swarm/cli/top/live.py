"""``swarm top``: the swarm live on a terminal, one look in a pipe.

The loop runs between the terminal, a thread that looks, and ``screen_state``, which decides what is shown.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

import typer

from swarm.cli.command_options import ShowOptions, opt
from swarm.cli.top.screen_state import Act, TopState, press, said, seen
from swarm.errors import EXIT_NOT_RUNNING, SwarmError
from swarm.views.overview import status_blocks

if TYPE_CHECKING:
    from rich.live import Live

    from swarm.cli.top.data import LookingThread
    from swarm.config.settings import Settings


def top(
    at: ShowOptions,
    interval: float = opt("--interval S", "Seconds between two updates.", 1.0, least=0.2),
) -> None:
    """Live view of the swarm, with keys to sort, open, retry, cancel.

    Press ? for the keys. In a pipe it prints one screen and ends with exit code 3 if nothing is running, as `swarm status`
    does; --json prints the screen as a document.

    \b
    Examples:
      swarm top
      ssh -t gpu-box swarm top
      swarm top --json | jq .active
    """
    settings = at.settings()
    if not at.as_json and sys.stdout.isatty() and sys.stdin.isatty():
        _run(settings, interval)
        return
    from swarm.cli.top.data import Looker

    view = Looker(settings).look().status
    at.show(view, status_blocks(view))
    if not view.running:
        raise typer.Exit(EXIT_NOT_RUNNING)


def _run(settings: Settings, interval_s: float) -> None:
    """Until asked to leave; the terminal is then as it was, also after an exception, SIGTERM and SIGHUP."""
    from rich.console import Console
    from rich.live import Live

    from swarm.cli.top.data import LookingThread
    from swarm.cli.top.keys import raw_keys

    wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    signal.signal(signal.SIGWINCH, lambda _number, _frame: os.eventfd_write(wake_fd, 1))
    console = Console(highlight=False, no_color="NO_COLOR" in os.environ or None)
    looking = LookingThread(settings, interval_s, wake=lambda: os.eventfd_write(wake_fd, 1))
    with looking, raw_keys(sys.stdin.fileno()), Live(console=console, screen=True, auto_refresh=False) as live:
        _loop(live, looking, wake_fd)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds the blocks of run, which put the terminal back


def _loop(live: Live, looking: LookingThread, wake_fd: int) -> None:
    """Until asked to leave. Raises what the looking thread ended with."""
    from rich.console import Group

    from swarm.cli.top.keys import read_keys
    from swarm.cli.top.screen import screen

    state = TopState()
    while True:
        width, height = live.console.size
        live.update(Group(*screen(state, width, height)), refresh=True)
        ready, _, _ = select.select([sys.stdin, wake_fd], [], [])
        if wake_fd in ready:
            os.eventfd_read(wake_fd)
            data = looking.take()
            state = state if data is None or data is state.data else seen(state, data)
        if sys.stdin in ready:
            keys = read_keys(sys.stdin.fileno())
            for key in ["ctrl-c"] if keys is None else keys:
                state, act = _pressed(state, key, looking)
                if act is not None and act.what == "quit":
                    return


def _pressed(state: TopState, key: str, looking: LookingThread) -> tuple[TopState, Act | None]:
    state, act = press(state, key)
    try:
        match act:
            case Act(what="retry"):
                state = said(state, looking.retry(act.task_id))
            case Act(what="cancel"):
                state = said(state, looking.cancel(act.task_id))
            case _:
                pass
    except SwarmError as problem:
        state = said(state, problem.message)
    if act is not None and act.what != "quit":
        looking.want(failed=state.pane == "failed", subject=state.subject)
    return state, act
