"""Restarts by request: a small file each, removed by the supervisor that reads it.

A file and not a signal to the process itself, because a process that waits for its next start, hangs or sits in
quarantine can be asked for as well, and because only the supervisor knows that this end is no failure.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from swarm.config.settings import Settings
from swarm.core.worker import ProcessIdentity, WorkerRow
from swarm.errors import EngineError, NotRunning, UnknownName, name_hint
from swarm.filesystem.entries import is_file, list_inside
from swarm.filesystem.temporary import read_note, remove_note, write_note
from swarm.proc import identity
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.supervisor.keeper import Keeper
from swarm.supervisor.state import NAME, ChildState, ChildStatus, SupervisorStatus, load_status
from swarm.supervisor.what_runs import orphans

log = logging.getLogger(__name__)
REQUESTS_DIR = "supervisor.requests"
POLL_S = 0.05
TAKEN_S = 30.0
"""For the supervisor to take a request: it looks once a second."""
READY_MARGIN_S = 60.0
GIVE_UP_AFTER = 3
"""Ends in a row, the asked one included; the supervisor goes on trying."""


class RestartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``workers/supervisor.requests/<name>``."""

    name: str
    now: bool = False
    """Do not wait for running tasks."""


def request_restart(root: Path, name: str, *, now: bool = False) -> None:
    """Ask the supervisor of ``root``, which looks once a second. Raises ``OSError``."""
    folder = _folder(root)
    folder.mkdir(mode=0o700, exist_ok=True)
    write_note(folder / name, RestartRequest(name=name, now=now))


def is_taken(root: Path, name: str) -> bool:
    """Whether the supervisor has taken the request."""
    return not (_folder(root) / name).exists()


def withdraw(root: Path, name: str) -> None:
    """Withdraw a request that has not been read."""
    remove_note(_folder(root) / name)


def carry_out(root: Path, keepers: Sequence[Keeper], *, others: bool = False) -> None:
    """Carry out all waiting requests. One for an unknown name is dropped with a warning, unless ``others`` may know it."""
    for name in _names(root):
        if others and all(keeper.process.name != name for keeper in keepers):
            continue
        request = read_note(_folder(root) / name, RestartRequest)
        remove_note(_folder(root) / name)
        keeper = next((k for k in keepers if k.process.name == name), None)
        if request is None or keeper is None:
            log.warning("asked to restart %r, which is no process of this swarm", name)
            continue
        log.info("%s", keeper.restart(now=request.now))


def forget(root: Path) -> None:
    """Drop requests to an earlier supervisor."""
    for name in _names(root):
        remove_note(_folder(root) / name)


def _folder(root: Path) -> Path:
    return root / "workers" / REQUESTS_DIR


def _names(root: Path) -> list[str]:
    folder = str(_folder(root))
    return sorted(name for name in list_inside(folder) if not name.startswith(".") and is_file(f"{folder}/{name}"))


def restart(settings: Settings, names: Sequence[str], *, now: bool) -> Iterator[str]:
    """Restart these, all at the same time; yields a line as each is back.

    Running tasks are finished first, unless ``now``: then they go back into the queue. Raises ``NotRunning`` without a
    supervisor, ``UnknownName``, ``EngineError`` when one does not come back.
    """
    root = Path(settings.queue.root)
    layout = Layout(str(root))
    before = _running_status(settings, layout, root, names)
    for name in names:
        child = _known(before, name)
        if child.state is ChildState.EXITED:
            raise EngineError(f"{name} is not to run: {child.reason}", hint="swarm nodes; swarm status")
    for name in names:
        request_restart(root, name, now=now)
    patience_s = READY_MARGIN_S + settings.ollama.start_timeout_s
    patience_s += 0.0 if now else settings.llm.timeout_s + settings.command.timeout_s
    try:
        for name in names:
            yield _wait(root, before, name, patience_s)
    finally:
        for name in names:
            withdraw(root, name)


def _running_status(settings: Settings, layout: Layout, root: Path, names: Sequence[str]) -> SupervisorStatus:
    status = load_status(root / "workers")
    row = registry.read_row(layout, NAME)
    if status is None or row is None or row.process != status.process or not is_held(layout, NAME):
        what = f"no supervisor is running on {root} that could restart anything"
        if orphans(settings):
            raise NotRunning(what, hint="it was killed: `swarm up` adopts what still runs, then restart it")
        alone = [r for n in names if (r := registry.read_row(layout, n)) and is_held(layout, n)]
        raise NotRunning(what, hint=_alone(alone))
    return status


def _alone(rows: Sequence[WorkerRow]) -> str:
    if not rows:
        return "`swarm up` starts all of it"
    first = rows[0]
    one = first.role == first.name
    command = f"swarm {first.role}" if one else f"swarm {first.role} {first.name}"
    unit = f"swarm-{first.role}" if one else f"swarm-{first.role}@{first.name}"
    return (
        f"{first.name} was started alone, as pid {first.process.pid}: `systemctl restart {unit}` if systemd did it, "
        f"else `kill -TERM {first.process.pid}` and `{command}` again"
    )


def _known(status: SupervisorStatus, name: str) -> ChildStatus:
    child = status.child(name)
    if child is None:
        there = [c.name for c in status.children]
        raise UnknownName(f"{name} is no process of this swarm", hint=name_hint(name, there))
    return child


def _wait(root: Path, before: SupervisorStatus, name: str, patience_s: float) -> str:
    old = _known(before, name)
    started_s = time.monotonic()
    while True:
        waited_s = time.monotonic() - started_s
        status = load_status(root / "workers")
        child = _child(status, before.process, name)
        taken = is_taken(root, name)
        if taken and child.state is ChildState.RUNNING and child.pid != old.pid:
            return f"{name} restarted: {f'pid {old.pid} -> ' if old.pid else ''}pid {child.pid}, in {waited_s:.1f} s"
        if not taken and waited_s > TAKEN_S:
            raise EngineError(f"the supervisor does not listen (pid {before.process.pid})", hint="swarm doctor; swarm down")
        failed = child.state in (ChildState.QUARANTINED, ChildState.EXITED) or child.restarts - old.restarts >= GIVE_UP_AFTER
        if failed and taken and child != old:
            raise EngineError(f"{name} does not come back: {child.reason}", hint=f"swarm logs {name} -n 30")
        if waited_s > patience_s:
            why = f"{child.state}{f': {child.reason}' if child.reason else ''}"
            raise EngineError(f"{name} is not back after {waited_s:.0f} s ({why})", hint=f"swarm restart {name} --now")
        time.sleep(POLL_S)


def _child(status: SupervisorStatus | None, supervisor: ProcessIdentity, name: str) -> ChildStatus:
    if status is None or status.process != supervisor or not identity.is_same(supervisor):
        raise NotRunning(
            "the supervisor ended meanwhile, or it runs in a container and is not seen from here",
            hint="swarm status; run this where the swarm runs",
        )
    return _known(status, name)
