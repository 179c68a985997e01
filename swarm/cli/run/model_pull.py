"""Downloads a model to the machines of the swarm, one command at a time per queue root, and shows the progress.

* On this machine it goes through a running server, or through one started for it.
* On another one (``node_pull``) it goes through the relay there. All machines download at once; one that fails does not
  stop the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from swarm.cli.run.node_pull import NodePull, Open, Place, places, pull_alone, pull_together
from swarm.cli.run.pull_progress import PullBars
from swarm.config.load import Loaded
from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.models.engines import OLLAMA
from swarm.core.placement.node_models import node_name
from swarm.core.placement.worker_plan import HOST, WorkerPlan
from swarm.engines.ollama.client import OllamaClient
from swarm.engines.ollama.server import ServerProcess, client_of
from swarm.engines.ollama.server_spec import server_spec
from swarm.errors import InputError, LockHeld, ModelServerError
from swarm.filesystem.temporary import read_note, remove_note, write_note
from swarm.proc.ports import free_port
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.views.blocks import Line
from swarm.views.row_servers import RowServer, server_of

LOCK_FILE = ".pull.lock"
NOTE_FILE = ".pull.json"
OWN_NAME = "pull"
"""Name of the server started for a pull; markers, note and log carry it."""
ANSWER_S = 3.0
_POLL_S = 0.05


class Pulling(msgspec.Struct, frozen=True, kw_only=True):
    """``<root>/.pull.json``: who holds the lock."""

    pid: int
    model: str


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. ``through``, ``mib``: of all machines."""

    model: str
    through: str
    seconds: float
    mib: int
    nodes: tuple[NodePull, ...] = ()

    @property
    def failed(self) -> tuple[NodePull, ...]:
        """Machines that have not got it."""
        return tuple(one for one in self.nodes if one.error)


def pull(loaded: Loaded, name: str, nodes: Sequence[str] = ()) -> Pulled:
    """Pull ``name`` to these machines, or to all; returns only when each has said ``success``, or why not.

    Raises ``LockHeld`` (another pull runs; named), ``InputError`` (no such name, no such machine), ``ModelServerError``
    (the only machine could not; everything that the server or the registry said).
    """
    model = name.strip()
    if not model:
        raise InputError("a model needs a name", hint="swarm models pull llama3.2:3b")
    root = Path(loaded.settings.queue.root)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    began_s = time.monotonic()
    with _only_puller(root, model), PullBars() as bars:
        settings = loaded.settings
        found = places(registry.living(Layout(settings.queue.root)), nodes)
        pulls = [(place.node, _way_in(place, settings, root)) for place in found]
        alone = len(pulls) == 1
        done = [pull_alone(model, *pulls[0], bars)] if alone else pull_together(model, pulls, bars)
    return Pulled(
        model=model,
        through=", ".join(one.through for one in done if not one.error),
        seconds=round(time.monotonic() - began_s, 3),
        mib=sum(one.mib for one in done if not one.error),
        nodes=tuple(done),
    )


def pulled_lines(done: Pulled) -> list[Line]:
    """One line for each machine; its name where there are several."""
    several = len(done.nodes) > 1
    return [_line(one, done.model, f"{node_name(one.node)}: " if several else "") for one in done.nodes]


def _line(one: NodePull, model: str, before: str) -> Line:
    if one.error:
        return Line(f"{before}{one.error}", "red")
    return Line(f"{before}{model}: pulled through {one.through} in {one.seconds:.1f}s")


def refuse_failed(done: Pulled) -> None:
    """Raises ``ModelServerError`` where a machine has not got the model."""
    if done.failed:
        names = ", ".join(node_name(one.node) for one in done.failed)
        raise ModelServerError(
            f"{done.model} could not be pulled on {len(done.failed)} of {len(done.nodes)} machines: {names}",
            hint="run it again: what was downloaded is kept",
        )


def _way_in(place: Place, settings: Settings, root: Path) -> Open:
    if place.node:
        return partial(_relay, place, settings)
    return partial(_server, place, settings, root)


@contextmanager
def _relay(place: Place, settings: Settings) -> Iterator[tuple[RowServer, str]]:
    """A card of that machine whose relay answers, and the name of its worker. Raises ``ModelServerError``."""
    why = "none of its cards is served by Ollama, which alone can pull"
    for row in place.rows:
        if OLLAMA not in row.engines:
            continue
        with ExitStack() as open_things:
            try:
                server = open_things.enter_context(server_of(row, settings))
                server.tags(ANSWER_S)
            except TaskFault as fault:
                why = fault.message
                continue
            yield server, row.name
            return
    raise ModelServerError(f"nothing can be pulled on {place.node}: {why}", hint="swarm nodes; swarm doctor")


@contextmanager
def _only_puller(root: Path, model: str) -> Iterator[None]:
    """Two servers that pull one model write the same partial files, and one of them fails at the end."""
    lock = FileLock(root / LOCK_FILE, mode=0o600, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as held:
        who = read_note(root / NOTE_FILE, Pulling)
        what = f"{who.model} is being pulled by pid {who.pid}" if who is not None else "another pull is running"
        raise LockHeld(f"{what}, and only one may run at a time", hint="wait for it, or stop it; then try again") from held
    try:
        write_note(root / NOTE_FILE, Pulling(pid=os.getpid(), model=model))
        yield
    finally:
        remove_note(root / NOTE_FILE)
        lock.release()


@contextmanager
def _server(place: Place, settings: Settings, root: Path) -> Iterator[tuple[RowServer, str]]:
    """A client for a server that can pull, and its name: a living worker's, a real one first; else one started for it."""
    for row in sorted(place.rows, key=lambda row: (row.simulated, row.name)):
        if row.ollama_url is None:
            continue
        client = client_of(row.name, row.ollama_url, root=root, adopted=row.adopted)
        with client:
            if _can_answer(client):
                yield client, row.name
                return
    with _own_server(settings, root) as url, client_of(OWN_NAME, url, root=root, adopted=False) as client:
        yield client, "a server started for it"


def _can_answer(client: OllamaClient) -> bool:
    try:
        return bool(client.version(2.0))
    except TaskFault:
        return False


@contextmanager
def _own_server(settings: Settings, root: Path) -> Iterator[str]:
    """A server without cards, ended with the block. Raises ``ModelServerError``."""
    for folder in (root / "workers", root / "logs"):
        folder.mkdir(mode=0o700, exist_ok=True)
    port = free_port(HOST)
    plan = WorkerPlan(name=OWN_NAME, port=port, url=f"http://{HOST}:{port}")
    server = ServerProcess(server_spec(plan, settings, root=root, base_env=os.environ))
    server.start()
    try:
        while not server.ready():
            exit_ = server.poll()
            late = server.overdue() or (f"it ended: {exit_}" if exit_ is not None else None)
            if late is not None:
                raise ModelServerError(
                    f"the server for the pull did not get ready: {late}", hint=f"see {server.spec.log_path}"
                )
            time.sleep(_POLL_S)
        yield f"http://{HOST}:{port}"
    finally:
        server.stop()
        while server.stop_step() is None:
            time.sleep(_POLL_S)
