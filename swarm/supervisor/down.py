"""``swarm down``: ends all that runs on a root, whoever started it, and proves it.

With a supervisor: asks it, and waits. What runs without one (its supervisor was killed, or it was started alone) is adopted
by a supervisor in this process that is asked to drain before its first tick: the same order, patience and force.

Who started a process and may start it again: the unit of systemd, or the name of a known service manager.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from swarm.config.listen import Address, address_of
from swarm.config.settings import Settings
from swarm.core.nodes.relay_workers import RelayPlace
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.worker import ProcessIdentity, WorkerRow
from swarm.engines.ollama.server import ServerNote
from swarm.engines.ollama.server_spec import remove_cards
from swarm.errors import EngineError, NotRunning, SwarmError
from swarm.filesystem.entries import list_names
from swarm.filesystem.temporary import read_note
from swarm.proc import identity
from swarm.proc.identity import all_pids, read_stat
from swarm.proc.ports import describe
from swarm.queue.coordination import is_held
from swarm.queue.fsck.fsck import recover_root
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.runtime.bootstrap import RunOptions, logging_as, open_root, process_lock
from swarm.runtime.open import open_queue, reclaim
from swarm.supervisor.main import make_supervisor, obey_signals, supervise
from swarm.supervisor.state import HTTP, NAME, RAY, load_plan, load_status, remove_plan
from swarm.supervisor.what_runs import Running, named, running

_SYSTEMD = "systemd"
_OTHERS = {
    "runsv": "sv down",
    "supervise": "svc -d",
    "s6-supervise": "s6-svc -d",
    "supervisord": "supervisorctl stop",
    "circusd": "circusctl stop",
    "monit": "monit stop",
}


class Manager(msgspec.Struct, frozen=True):
    """A service manager, in words."""

    name: str
    way_out: str
    """The command that ends a process for good."""

    def __str__(self) -> str:
        return self.name


def manager_of(process: ProcessIdentity) -> Manager | None:
    """The service manager that is the parent of a process; None where the parent is none that is known."""
    stat = read_stat(process.pid)
    if stat is None or stat.identity != process:
        return None
    try:
        with open(f"/proc/{stat.parent}/comm", encoding="utf-8", errors="replace") as file:
            command = file.read().strip()
        with open(f"/proc/{process.pid}/cgroup", encoding="utf-8", errors="replace") as file:
            path = file.read().strip().rpartition("\n")[2].rpartition(":")[2]
    except OSError:
        return None
    unit = os.path.basename(path)
    if command == _SYSTEMD and unit.endswith(".service"):
        user = " --user" if stat.parent != 1 else ""
        return Manager(unit, f"`systemctl{user} stop {unit}`")
    return Manager(command, f"`{_OTHERS[command]} NAME`") if command in _OTHERS else None


POLL_S = 0.05
STOP_MARGIN_S = 60.0
REGISTER_S = 10.0
"""Between taking a process lock and registering, and for a look or a recovery to release one."""
HOST_END_S = 5.0
"""The host of a server ends by itself when a supervisor comes up; it looks once a second."""
RETURN_S = 3.0
"""What a script or a service manager starts again at once has begun to start within this."""
START_S = 60.0
"""What has begun to start holds its process lock within this, or has ended."""


def stop_swarm(settings: Settings, *, now: bool) -> tuple[str, ...]:
    """Drain (or stop) what runs on this root and wait until it has ended; what ended, a line each.

    Raises ``NotRunning``, ``EngineError`` when something would not end or was started again.
    """
    root = Path(settings.queue.root)
    lines = list(_end_supervisor(settings, Layout(str(root)), now=now))
    left = _settled(root)
    if left:
        lines += end_without_supervisor(settings, left, now=now)
    if not lines:
        _tidy(settings, root)
        raise NotRunning(f"no swarm is running on {root}", hint="`swarm status` shows what is there")
    return tuple(lines)


def _tidy(settings: Settings, root: Path) -> None:
    """Nothing runs: what the killed left is of no use any more. Who starts just now holds the lock, and does it itself."""
    queue = open_queue(settings)
    lock = process_lock(queue.layout, NAME)
    with suppress(SwarmError, OSError):  # a disk that refuses changes nothing about what was asked
        if not lock.try_acquire():
            return
        try:
            if not running(root):
                remove_plan(root / "workers")
                remove_cards(root)
                recover_root(queue.layout, queue.storage)
        finally:
            lock.release()


def _end_supervisor(settings: Settings, layout: Layout, *, now: bool) -> Sequence[str]:
    """Ask the supervisor and wait until it has ended; () when none lives."""
    row = _registration(layout)
    if row is None or not identity.signal(row.process, signal.SIGQUIT if now else signal.SIGTERM):
        return ()
    identity.signal(row.process, signal.SIGCONT)  # a stopped one hears nothing until it goes on
    patience_s = STOP_MARGIN_S + (0.0 if now else settings.llm.timeout_s + settings.command.timeout_s)
    deadline_s = time.monotonic() + patience_s
    while is_held(layout, NAME) or identity.is_same(row.process):  # it releases the lock a moment before it ends
        if time.monotonic() > deadline_s:
            hint = f"`kill -9 {row.process.pid}` ends the supervisor alone, `swarm down --now` then the rest"
            raise EngineError(f"the swarm did not end within {patience_s:.0f} s", hint=hint if now else "`swarm down --now`")
        time.sleep(POLL_S)
    status = load_status(Path(layout.workers))
    mine = status if status is not None and status.process == row.process else None
    if mine is not None and mine.leftovers:
        _refuse_leftovers(mine.leftovers)
    ended = mine.children if mine is not None and mine.phase == "ended" else ()  # one that was killed has ended nothing
    return (*(f"{named(c.role, c.name)} ended" for c in ended), f"supervisor ended (pid {row.process.pid})")


def _registration(layout: Layout) -> WorkerRow | None:
    """The registration of the living supervisor, or None. Raises ``EngineError`` for a holder that does not register."""
    for _ in range(round(REGISTER_S / POLL_S)):
        if not is_held(layout, NAME):
            return None
        row = registry.read_row(layout, NAME)
        if row is not None and identity.is_same(row.process):
            return row
        time.sleep(POLL_S)
    raise EngineError(
        "the supervisor's process lock is held by a process that has not registered", hint=_holder(layout, NAME)
    )


def end_without_supervisor(settings: Settings, left: Sequence[Running], *, now: bool) -> list[str]:
    """End these in the place of a supervisor; what ended, a line each. Says on standard error what it does.

    A signal to this process stops at once what still drains. Raises ``LockHeld``, ``EngineError``.
    """
    root = Path(settings.queue.root)
    options = RunOptions(settings=settings)
    queue, _ = open_root(options)
    managers = {one.name: manager for one in left if one.alone and (manager := _manager(one)) is not None}
    starters = [found for one in left if one.alone and one.pid is not None and (found := starter_of(one.pid)) is not None]
    said = f"no supervisor is running; stopping the processes without one: {', '.join(map(str, left))}"
    print(said, file=sys.stderr, flush=True)  # noqa: T201  (a drain may take minutes)
    with logging_as(NAME, options) as log:
        log.info("%s", said)
        supervisor = make_supervisor(queue, options, _plans(root, left), _http(left), ray=_ray(left), follow_nodes=False)
        obey_signals(supervisor, asked=1)
        (supervisor.request_stop if now else supervisor.request_drain)()
        code = supervise(supervisor, queue, options, log, begun=lambda: _end_hosts(queue.layout, left))
        if supervisor.leftovers or code:
            _refuse_leftovers(supervisor.leftovers or ("see logs/supervisor.log",))
        for line in _reclaim_all(settings, queue.layout):
            log.warning("%s", line)
    _refuse_returned(root, left, managers, starters)
    return [f"{one} ended{_warning(managers.get(one.name))}" for one in left]


def _settled(root: Path) -> tuple[Running, ...]:
    """What runs, once all who hold a process lock have registered; a recovery that holds one for a moment is over then."""
    deadline_s = time.monotonic() + REGISTER_S
    while True:
        found = running(root)
        names = [one.name for one in found if one.pid is None]
        if not names:
            return found
        if time.monotonic() > deadline_s:
            what = f"the process lock of {', '.join(names)} is held by a process that has not registered"
            raise EngineError(what, hint=_holder(Layout(str(root)), names[0]))
        time.sleep(POLL_S)


def _plans(root: Path, left: Sequence[Running]) -> tuple[WorkerPlan, ...]:
    """The workers and servers there are, as they say themselves, and those of the last plan that are down."""
    plans = {p.name: p for p in load_plan(root / "workers") or ()}
    for one in left:
        if one.role == "worker" and one.row is not None:
            plans[one.name] = _plan_of(one.row)
        elif one.role == "server":
            worker = one.name.removeprefix("ollama-")
            note = read_note(root / "workers" / f"{worker}.server.json", ServerNote)
            if worker not in plans and note is not None:
                plans[worker] = WorkerPlan(name=worker, port=note.port, url=note.url, simulated=note.simulated)
    return tuple(plans.values())


def _http(left: Sequence[Running]) -> Address | None:
    """Where the HTTP server listens, as it says itself; None: there is none."""
    urls = (one.row.url for one in left if one.role == HTTP and one.row is not None)
    return next((address_of(url) for url in urls if url is not None), None)


def _ray(left: Sequence[Running]) -> str | None:
    """Address of the cluster, as the Ray driver says itself; None: there is none."""
    return next((one.row.url for one in left if one.role == RAY and one.row is not None), None)


def _plan_of(row: WorkerRow) -> WorkerPlan:
    return WorkerPlan(
        name=row.name,
        gpus=row.gpus,
        gpu_uuids=row.gpu_uuids,
        port=row.port,
        url=row.url,
        engines=row.engines,
        model_port=row.model_port,
        adopted=row.adopted,
        simulated=row.simulated,
        relay=RelayPlace(node=row.node, card="") if row.node else None,
    )


def _end_hosts(layout: Layout, left: Iterable[Running]) -> None:
    """Hosts of servers give way to a supervisor by themselves; one that does not is killed. Its server is ended later."""
    hosts = [one.row for one in left if one.role == "host" and one.row is not None]
    for row in hosts:
        identity.signal(row.process, signal.SIGCONT)
    deadline_s = time.monotonic() + HOST_END_S
    for row in hosts:
        while is_held(layout, row.name) and identity.is_same(row.process):
            if time.monotonic() > deadline_s:
                identity.signal(row.process, signal.SIGKILL)
            time.sleep(POLL_S)


def _reclaim_all(settings: Settings, layout: Layout) -> Iterator[str]:
    """What workers held that died before us: the brain may have been dead too."""
    for name in sorted(list_names(layout.processing)):
        if list_names(layout.held_by(name)):
            yield from reclaim(settings, name) or ()


def _manager(one: Running) -> Manager | None:
    return manager_of(one.row.process) if one.row is not None else None


def _warning(manager: Manager | None) -> str:
    return f"; {manager} ran it and may start it again: {manager.way_out}" if manager is not None else ""


class Starter(msgspec.Struct, frozen=True):
    """The parent of a process that was started alone, and the command line that it started."""

    parent: ProcessIdentity
    child: ProcessIdentity
    command: tuple[str, ...]

    def starts_again(self) -> bool:
        """Whether that parent has a later child of that command line, which need not have registered yet."""
        for pid in all_pids():
            stat = read_stat(pid)
            if stat is None or stat.parent != self.parent.pid or stat.identity.start_ticks < self.child.start_ticks:
                continue
            if stat.identity == self.child:  # the next life may have begun within the same tick of the clock
                continue
            if _command(pid) == self.command and identity.is_same(self.parent):
                return True
        return False


def starter_of(pid: int) -> Starter | None:
    """Who started that process; None where it has ended or its parent has."""
    stat = read_stat(pid)
    parent = identity.of_pid(stat.parent) if stat is not None and stat.parent > 1 else None
    command = _command(pid)
    return Starter(parent, stat.identity, command) if stat is not None and parent is not None and command else None


def _command(pid: int) -> tuple[str, ...]:
    try:
        return tuple(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()


def _refuse_returned(root: Path, left: Sequence[Running], managers: dict[str, Manager], starters: Sequence[Starter]) -> None:
    """What was started alone may be started again by whoever did; then it was not ended. Raises ``EngineError``."""
    alone = [one for one in left if one.alone and one.role != "server"]
    began_s = time.monotonic()
    while not (back := _settled(root)):
        waited_s = time.monotonic() - began_s
        if waited_s > START_S or not alone:
            break
        if waited_s > RETURN_S and not any(starter.starts_again() for starter in starters):
            break
        time.sleep(POLL_S)
    if back:
        known = [m for one in back if (m := managers.get(one.name)) is not None]
        hint = known[0].way_out if known else f"stop what starts it again; then `swarm down`{_parents(back)}"
        raise EngineError(f"started again by somebody else: {', '.join(map(str, back))}", hint=hint)


def _parents(back: Sequence[Running]) -> str:
    stats = [read_stat(one.pid) for one in back if one.pid is not None]
    parents = {stat.parent for stat in stats if stat is not None and stat.parent > 1}
    return f" (started by {', '.join(describe(pid) for pid in sorted(parents))})" if parents else ""


def _refuse_leftovers(leftovers: Sequence[str]) -> None:
    raise EngineError(f"left running: {'; '.join(leftovers)}", hint="end it by hand; stuck in the kernel: see `dmesg`")


def _holder(layout: Layout, name: str) -> str:
    elsewhere = "run this where the swarm runs, if that is a container or another host"
    return f"it may be starting, try again; {elsewhere}; else `fuser {layout.lock(name)}` names it"
