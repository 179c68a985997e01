"""What runs on a root besides the supervisor: brain, workers, model servers, and whether their supervisor is gone.

A process with a life lock lives while that is held. A model server has none: it is known by the marker in its environment.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from swarm.config.settings import Settings
from swarm.core.worker import WorkerRow
from swarm.filesystem.entries import list_names
from swarm.proc import identity
from swarm.proc.env_markers import PROCESS_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked_values
from swarm.proc.identity import boot_id
from swarm.queue.layout import Layout
from swarm.queue.storage.locks import is_held
from swarm.queue.stores import registry
from swarm.supervisor.state import load_status
from swarm.supervisor.supervisor import NAME

HOST_PREFIX = "serve-"
"""Lock, row and log of the host of ``worker-1``'s server are called ``serve-worker-1``."""
_UP = ("running", "draining", "stopping")
_LOCK = ".lock"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """One process that runs."""

    name: str
    """As the supervisor calls it: ``brain``, ``worker-1``, ``ollama-worker-1``, ``serve-worker-1``."""
    role: str
    """``brain``, ``worker``, ``server`` (a model server) or ``host`` (of a server that was started alone)."""
    pid: int | None = None
    row: WorkerRow | None = None
    """Of who holds a life lock and has registered."""
    alone: bool = False
    """Not started by a supervisor, but by a person, a script or a service manager."""

    def __str__(self) -> str:
        return named(self.role, self.name) + (f" (pid {self.pid})" if self.pid is not None else "")


def named(role: str, name: str) -> str:
    """A process for people: ``worker worker-1``, ``brain``."""
    return name if role == name else f"{role} {name}"


def running(root: Path) -> tuple[Running, ...]:
    """All that runs, the supervisor left out: brain, workers and hosts, model servers. Raises ``StorageFault``."""
    layout = Layout(str(root))
    marker = {ROOT_MARKER: str(root)}
    started = {one.pid for one in find_marked_values(PROCESS_MARKER, **marker)}
    found = [_locked(layout, name, started) for name in _lock_names(layout) if name != NAME and is_held(layout, name)]
    servers: dict[str, int] = {}
    for one, worker in sorted(find_marked_values(SERVER_MARKER, **marker).items(), key=lambda pair: pair[0].start_ticks):
        servers.setdefault(worker, one.pid)  # its runners, which inherit the marker, are younger
    hosted = {one.name.removeprefix(HOST_PREFIX) for one in found if one.role == "host"}
    found += [
        Running(name=f"ollama-{worker}", role="server", pid=pid, alone=worker in hosted)
        for worker, pid in sorted(servers.items())
    ]
    return tuple(found)


def orphans(settings: Settings) -> tuple[Running, ...]:
    """What runs on although its supervisor died without a goodbye; () while one lives, and for what was started alone.

    Raises ``StorageFault``.
    """
    root = Path(settings.queue.root)
    if is_held(Layout(str(root)), NAME):
        return ()
    found = tuple(one for one in running(root) if one.pid is not None)
    if not found or is_held(Layout(str(root)), NAME):  # one that has come up meanwhile adopts them
        return ()
    started = any(not one.alone for one in found if one.role != "server")
    return found if started or _died(root) else ()


def _died(root: Path) -> bool:
    """Whether the last supervisor of this boot ended without saying that all is over."""
    status = load_status(root / "workers")
    return status is not None and status.phase in _UP and status.process.boot_id == boot_id()


def _lock_names(layout: Layout) -> list[str]:
    return sorted(n.removesuffix(_LOCK) for n in list_names(layout.workers) if n.endswith(_LOCK) and not n.startswith("."))


def _locked(layout: Layout, name: str, started: set[int]) -> Running:
    row = registry.read_row(layout, name)
    if row is not None and not identity.is_same(row.process):
        row = None  # of an earlier life: the holder has not registered yet, or only looks
    role = "brain" if name == "brain" else "host" if name.startswith(HOST_PREFIX) else "worker"
    pid = row.process.pid if row is not None else None
    return Running(name=name, role=role, pid=pid, row=row, alone=pid not in started)
