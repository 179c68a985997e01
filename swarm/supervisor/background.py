"""Starts ``swarm up`` in the background, and waits until it is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from swarm.config.listen import http_address
from swarm.errors import EngineError, LockHeld, OddEntry
from swarm.filesystem.entries import read_file
from swarm.proc import identity
from swarm.proc.ports import describe
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.runtime.bootstrap import RunOptions, check_host, command_of, open_root
from swarm.supervisor.main import plan_swarm, planned_http
from swarm.supervisor.state import HTTP, NAME, RAY, ChildState, ChildStatus, SupervisorStatus, load_status
from swarm.supervisor.what_runs import FOR_PID

START_POLL_S = 0.05
NODES_S = 30.0
"""Until the first machine of a cluster has a worker: Ray takes seconds to start an actor, and that to start its server."""


def start_background(
    options: RunOptions,
    *,
    parent: bool,
    planned: Callable[[int, str], None] = lambda _workers, _note: None,
    noted: Callable[[str], None] = lambda _line: None,
) -> subprocess.Popen[bytes]:
    """Start ``swarm up`` in a session of its own, output to ``logs/supervisor.err``.

    With ``parent`` it ends when this process does. ``planned`` is called with how many workers are about to start,
    and on which of the machine's cards, where that is not all of them; ``noted`` with what is lost here.
    Raises ``LockHeld`` when one runs already.
    """
    check_host()
    plans, visibility = plan_swarm(options)  # what is wrong with the configuration is said here, not in a log
    http = planned_http(options.settings)
    queue, instead = open_root(options)
    if is_held(queue.layout, NAME):
        _refuse(queue.layout)
    words = ["up"]
    if options.simulate:
        words += ["--simulate", str(options.simulate)]
    if http is not None:
        words += ["--http", http.text]
    if options.settings.ray.address is not None:
        words += ["--ray", options.settings.ray.address]
    if parent:
        words += [FOR_PID, str(os.getpid())]
    for check in instead:
        if check.next:
            noted(f"note: {check}\nhint: {check.next}")
    planned(len(plans), visibility.note)
    log_path = Path(queue.layout.logs) / f"{NAME}.err"
    with open(queue.storage.open_own(str(log_path), os.O_WRONLY | os.O_CREAT | os.O_APPEND), "wb") as err:
        return subprocess.Popen(
            command_of(*words, options=options),
            stdin=subprocess.DEVNULL,
            stdout=err,
            stderr=err,
            start_new_session=True,
        )


def wait_until_up(options: RunOptions, process: subprocess.Popen[bytes], *, timeout_s: float) -> SupervisorStatus:
    """Until a worker runs and nothing else is starting; returns the status. Raises ``EngineError`` when none comes up.

    Where a Ray driver finds the cards, that of none may be worked on yet; it is waited for ``NODES_S``.
    """
    deadline_s = time.monotonic() + timeout_s
    nodes_s = time.monotonic() + NODES_S
    supervisor = identity.of_pid(process.pid)
    while True:
        status = load_status(options.root / "workers")
        mine = status if status is not None and status.process == supervisor else None
        if mine is not None and _settled(mine, may_be_empty=time.monotonic() > nodes_s):
            return mine
        if process.poll() is not None:
            raise EngineError(f"the swarm ended at its start: {_last_words(options, NAME)}", hint=_where(options))
        if mine is not None and (worker := _fails_at_start(mine)):
            raise EngineError(f"no worker stays up; {worker}: {_last_words(options, worker)}", hint=_where(options))
        if time.monotonic() > deadline_s:
            raise EngineError(f"no worker came up within {timeout_s:.0f} s: {_reasons(mine)}", hint=_where(options))
        time.sleep(START_POLL_S)


def _settled(status: SupervisorStatus, *, may_be_empty: bool) -> bool:
    workers = [c for c in status.children if c.role == "worker"]
    servers = {c.name: c for c in status.children if c.role == "server"}
    up = [w for w in workers if w.state is ChildState.RUNNING]
    coming = [c for c in status.children if c.role != "brain" and (c.state is ChildState.STARTING or _begins(c))]
    waiting = [w for w in workers if w.state is ChildState.BACKOFF and w.restarts == 0 and not _is_late(w.name, servers)]
    driven = any(c.role == RAY and c.state is ChildState.RUNNING for c in status.children)
    drained = bool(workers) and all(w.state is ChildState.EXITED for w in workers)
    return (bool(up) or drained or (driven and may_be_empty)) and not coming and not waiting


def _begins(child: ChildStatus) -> bool:
    """Whether it is the HTTP server, not tried yet."""
    return child.role == HTTP and child.state is ChildState.BACKOFF and child.last_exit is None


def _fails_at_start(status: SupervisorStatus) -> str:
    """The first worker, if all of them have ended at their start, and again at the next; else empty.

    Without workers, which come with the cards of a cluster, the same of the Ray driver.
    """
    workers = [c for c in status.children if c.role == "worker"] or [c for c in status.children if c.role == RAY]
    failed = [w for w in workers if w.state is ChildState.BACKOFF and w.restarts > 1]
    return workers[0].name if workers and len(failed) == len(workers) else ""


def _is_late(worker: str, servers: dict[str, ChildStatus]) -> bool:
    server = servers.get(f"ollama-{worker}")
    return server is not None and server.state in (ChildState.QUARANTINED, ChildState.BACKOFF)


def _reasons(status: SupervisorStatus | None) -> str:
    if status is None:
        return "the supervisor reports nothing"
    late = [f"{c.name} is {c.state}{f' ({c.reason})' if c.reason else ''}" for c in status.children]
    return "; ".join(late)


_MOST_WORDS_BYTES = 1 << 20


def _last_words(options: RunOptions, name: str) -> str:
    """The last error it printed on standard error, with what it advised; else its last line."""
    try:
        said = read_file(str(options.root / "logs" / f"{name}.err"), _MOST_WORDS_BYTES)
    except (FileNotFoundError, OddEntry):
        return "it left no message"
    lines = said.decode(errors="replace").strip().splitlines()
    at = next((n for n in reversed(range(len(lines))) if lines[n].startswith("error: ")), None)
    if at is None:
        return lines[-1] if lines else "it left no message"
    advice = [line.removeprefix("hint: ") for line in lines[at + 1 :] if line.startswith("hint: ")]
    return "; ".join((lines[at].removeprefix("error: "), *advice))


def _where(options: RunOptions) -> str:
    return f"see {options.root}/logs/{NAME}.log and `swarm logs --root {options.root}`"


def start_detached(options: RunOptions) -> int:
    """Start ``swarm up`` in the background and return once it is up. Interrupted before that, it takes all of it back."""
    process = start_background(options, parent=False, planned=_say_note, noted=lambda line: _say_note(0, line))
    patience_s = options.settings.ollama.start_timeout_s + 30.0
    try:
        status = wait_until_up(options, process, timeout_s=patience_s)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGQUIT)
        process.wait(patience_s)
        raise
    up = sum(1 for c in status.children if c.role == "worker" and c.state is ChildState.RUNNING)
    every = sum(1 for c in status.children if c.role == "worker")
    simulated = " on simulated cards" if status.simulated else ""
    print(f"swarm is up: {up} of {every} workers{simulated}, supervisor pid {process.pid}")  # noqa: T201
    if not every:
        print("no card of the cluster has a worker yet: `swarm nodes` shows why, `swarm logs ray` what the driver does")  # noqa: T201
    for line in _http_lines(options, status):
        print(line)  # noqa: T201
    return 0


def _http_lines(options: RunOptions, status: SupervisorStatus) -> Iterator[str]:
    child, address = status.child(HTTP), http_address(options.settings)
    if child is not None and address is not None:
        up = child.state is ChildState.RUNNING
        yield (
            f"HTTP server on {address.url}" if up else f"the HTTP server is not up: {child.reason}; swarm logs {HTTP} -n 30"
        )


def _say_note(_workers: int, note: str) -> None:
    if note:
        print(note, file=sys.stderr, flush=True)  # noqa: T201


def _refuse(layout: Layout) -> None:
    row = registry.read_row(layout, NAME)
    who = f"{describe(row.process.pid)}, since {row.started_at}" if row is not None else "holder unknown"
    raise LockHeld(f"a swarm is running already on {layout.root} ({who})", hint="`swarm status`, or `swarm down` first")
