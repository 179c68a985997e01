"""What runs on a queue root, and the end of what must not run there.

A process with a process lock lives while that is held. A model server has none:
it is known by the marker in its environment. Ollama's servers belong to the supervisor; a process that serves one model
belongs to its worker.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from swarm.config.settings import Settings
from swarm.core.worker import WorkerRow
from swarm.filesystem.entries import list_names
from swarm.proc import identity
from swarm.proc.child import truncate_if_large
from swarm.proc.env_markers import MODEL_MARKER, PROCESS_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked_values, kill_marked
from swarm.proc.identity import boot_id, read_stat
from swarm.proc.ports import describe
from swarm.proc.process_group import KILL_WAIT_S
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.supervisor.state import HOST_PREFIX, HTTP, NAME, RAY, load_status

log = logging.getLogger(__name__)
STRANGER_GRACE_S = 10.0
BRAIN_WAIT_S = 0.5
"""The brain has others to look after, and comes again."""
WORKER_MARKER = "SWARM_WORKER"
"""The worker for which a task's program runs; see ``swarm.worker.executors.command``."""
FOR_PID = "--for-pid"
"""Option of ``swarm up``: ends with that process."""
_UP = ("running", "draining", "stopping")
_LOCK = ".lock"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """One process that runs."""

    name: str
    """As the supervisor calls it: ``brain``, ``http``, ``ray``, ``worker-1``, ``ollama-worker-1``, ``models-worker-1``; a
    host: ``serve-worker-1``."""
    role: str
    """``brain``, ``http``, ``ray``, ``worker``, ``server`` (an Ollama server), ``models`` (serves one model for its worker)
    or ``host`` (of an Ollama server that was started alone)."""
    pid: int | None = None
    row: WorkerRow | None = None
    """Of who holds a process lock and has registered."""
    alone: bool = False
    """Not started by a supervisor, but by a person, a script or a service manager."""

    def __str__(self) -> str:
        return named(self.role, self.name) + (f" (pid {self.pid})" if self.pid is not None else "")


def named(role: str, name: str) -> str:
    """A process in words: ``worker worker-1``, ``brain``."""
    return name if role == name else f"{role} {name}"


def running(root: Path) -> tuple[Running, ...]:
    """All that runs, the supervisor left out: brain, HTTP server, workers, hosts, model servers. Raises ``StorageFault``."""
    layout = Layout(str(root))
    marker = {ROOT_MARKER: str(root)}
    started = {one.pid for one in find_marked_values(PROCESS_MARKER, **marker)}
    found = [_locked(layout, name, started) for name in _lock_names(layout) if name != NAME and is_held(layout, name)]
    hosted = {one.name.removeprefix(HOST_PREFIX) for one in found if one.role == "host"}
    found += [
        Running(name=f"ollama-{worker}", role="server", pid=pid, alone=worker in hosted)
        for worker, pid in _eldest(SERVER_MARKER, marker)
    ]
    found += [Running(name=f"models-{worker}", role="models", pid=pid) for worker, pid in _eldest(MODEL_MARKER, marker)]
    return tuple(found)


def _eldest(name: str, marker: Mapping[str, str]) -> list[tuple[str, int]]:
    """For each value of this marker the process that started first: what it has started inherits the marker."""
    eldest: dict[str, int] = {}
    for one, value in sorted(find_marked_values(name, **marker).items(), key=lambda pair: pair[0].start_ticks):
        eldest.setdefault(value, one.pid)
    return sorted(eldest.items())


def orphans(settings: Settings) -> tuple[Running, ...]:
    """What still runs although its supervisor died unexpectedly; () while one lives, and for what was started alone.

    Raises ``StorageFault``.
    """
    root = Path(settings.queue.root)
    if is_held(Layout(str(root)), NAME):
        return ()
    found = tuple(one for one in running(root) if one.pid is not None)
    if not found or is_held(Layout(str(root)), NAME):  # one that has come up meanwhile adopts them
        return ()
    started = any(not one.alone for one in found if one.role not in ("server", "models"))
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
    role = name if name in ("brain", HTTP, RAY) else "host" if name.startswith(HOST_PREFIX) else "worker"
    pid = row.process.pid if row is not None else None
    return Running(name=name, role=role, pid=pid, row=row, alone=pid not in started)


def run_served(settings: Settings) -> int | None:
    """The `swarm run` with which the living supervisor ends; None: it stays up until asked, or none lives."""
    layout = Layout(settings.queue.root)
    row = registry.read_row(layout, NAME)
    if row is None or not is_held(layout, NAME):
        return None
    words = identity.command_line(row.process)
    return int(words[words.index(FOR_PID) + 1]) if FOR_PID in words[:-1] else None


def end_strangers(root: Path, *, servers: AbstractSet[str], models: AbstractSet[str], processes: AbstractSet[str]) -> None:
    """End processes of this root whose names are in no plan now, say after a change of ``--simulate N``.

    ``models``: workers that start processes for their models. Takes up to ``STRANGER_GRACE_S`` for each name that is there;
    nothing otherwise.
    """
    for marker, known in ((PROCESS_MARKER, processes), (SERVER_MARKER, servers), (MODEL_MARKER, models)):
        found = find_marked_values(marker, **{ROOT_MARKER: str(root)})
        for name in sorted(set(found.values()) - known):
            log.info("ending %s=%s of an earlier plan", marker, name)
            left = kill_marked(STRANGER_GRACE_S, **{ROOT_MARKER: str(root), marker: name})
            if left:
                log.error("%s=%s: cannot kill %s", marker, name, ", ".join(describe(i.pid) for i in left))


def end_model_servers(root: Path) -> None:
    """End the processes that serve models for workers which have ended: one that was killed left its own running."""
    for worker in {*find_marked_values(MODEL_MARKER, **{ROOT_MARKER: str(root)}).values()}:
        left = kill_marked(STRANGER_GRACE_S, **{ROOT_MARKER: str(root), MODEL_MARKER: worker})
        if left:
            log.error("models-%s: cannot kill %s", worker, ", ".join(describe(i.pid) for i in left))


def find_leftovers(root: Path) -> tuple[str, ...]:
    """Living brains, workers, servers, runners and commands of this root, in words; empty after a clean end."""
    marker = {ROOT_MARKER: str(root)}
    names = (SERVER_MARKER, MODEL_MARKER, PROCESS_MARKER)
    found = {one: value for name in names for one, value in find_marked_values(name, **marker).items()}
    return tuple(describe(identity.pid) for identity in found)


def trim_logs(root: Path) -> None:
    """Servers write to their logs themselves, for months perhaps; brain and workers rotate their own.

    For one caller at a time: the brain, which every swarm has, with a supervisor or without.
    """
    for path in (*root.glob("logs/ollama-*.log"), *root.glob("logs/models-*.log"), *root.glob("logs/*.err")):
        try:
            truncate_if_large(path)
        except OSError as error:
            log.warning("cannot trim %s: %s", path, error.strerror)


def end_remains(root: str, worker: str, wait_s: float = KILL_WAIT_S) -> str:
    """End the programs that a dead worker's tasks left running, so that none of them runs beside its next attempt.

    Returns what would not die, in words; empty when all is ended.
    """
    left = kill_marked(0.0, wait_s, **{ROOT_MARKER: root, WORKER_MARKER: worker})
    words = "; ".join(_with_state(one.pid) for one in left)
    if words:
        log.error("programs of %s do not end: %s; its tasks stay where they are", worker, words)
    return words


def _with_state(pid: int) -> str:
    stat = read_stat(pid)
    return f"{describe(pid)}, state {stat.state}" if stat is not None else describe(pid)
