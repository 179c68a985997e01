"""``swarm restart NAME``: asks the running supervisor, and waits until the process is back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from swarm.config.settings import Settings
from swarm.core.worker import ProcessIdentity, WorkerRow
from swarm.errors import EngineError, InputError, NotRunning, name_hint
from swarm.proc import identity
from swarm.queue.layout import Layout
from swarm.queue.storage.locks import is_held
from swarm.queue.stores import registry
from swarm.supervisor import restart_requests as restarts
from swarm.supervisor.child import ChildState, ChildStatus
from swarm.supervisor.state import SupervisorStatus, load_status
from swarm.supervisor.supervisor import NAME
from swarm.supervisor.what_runs import orphans

POLL_S = 0.05
HEARD_S = 10.0
"""For the supervisor to take a wish: it looks once a second."""
READY_MARGIN_S = 60.0
GIVE_UP_AFTER = 3
"""Ends in a row, the asked one included; the supervisor goes on trying."""


def restart(settings: Settings, names: Sequence[str], *, now: bool) -> Iterator[str]:
    """Restart these, all at the same time; yields a line as each is back.

    Running tasks are finished first, unless ``now``: then they go back into the queue. Raises ``NotRunning`` without a
    supervisor, ``InputError`` for an unknown name, ``EngineError`` when one does not come back.
    """
    root = Path(settings.queue.root)
    layout = Layout(str(root))
    before = _running(settings, layout, root, names)
    for name in names:
        _known(before, name)
    for name in names:
        restarts.ask(root, restarts.RestartWish(name=name, now=now))
    patience_s = READY_MARGIN_S + settings.ollama.start_timeout_s
    patience_s += 0.0 if now else settings.llm.timeout_s + settings.command.timeout_s
    try:
        for name in names:
            yield _wait(root, before, name, patience_s)
    finally:
        for name in names:
            restarts.withdraw(root, name)


def _running(settings: Settings, layout: Layout, root: Path, names: Sequence[str]) -> SupervisorStatus:
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
    command = "swarm brain" if first.role == "brain" else f"swarm {first.role} {first.name}"
    unit = "swarm-brain" if first.role == "brain" else f"swarm-{first.role}@{first.name}"
    return (
        f"{first.name} was started alone, as pid {first.process.pid}: `systemctl restart {unit}` if systemd did it, "
        f"else `kill -TERM {first.process.pid}` and `{command}` again"
    )


def _known(status: SupervisorStatus, name: str) -> ChildStatus:
    child = status.child(name)
    if child is None:
        there = [c.name for c in status.children]
        raise InputError(f"{name} is none of this swarm's processes", hint=name_hint(name, there))
    return child


def _wait(root: Path, before: SupervisorStatus, name: str, patience_s: float) -> str:
    old = _known(before, name)
    started_s = time.monotonic()
    while True:
        waited_s = time.monotonic() - started_s
        status = load_status(root / "workers")
        child = _child(status, before.process, name)
        heard = restarts.is_heard(root, name)
        if heard and child.state is ChildState.RUNNING and child.pid != old.pid:
            return f"{name} restarted: {f'pid {old.pid} -> ' if old.pid else ''}pid {child.pid}, in {waited_s:.1f} s"
        if not heard and waited_s > HEARD_S:
            raise EngineError(f"the supervisor does not listen (pid {before.process.pid})", hint="swarm doctor; swarm down")
        hopeless = child.state is ChildState.QUARANTINED or child.restarts - old.restarts >= GIVE_UP_AFTER
        if hopeless and heard and child != old:
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
