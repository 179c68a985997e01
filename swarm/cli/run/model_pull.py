"""Downloads a model, one download at a time per queue root, and shows its progress.

It goes through a running server, or through one started for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec
from filelock import FileLock, Timeout

from swarm.config.load import Loaded
from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.models.model_server import PullStep
from swarm.core.placement.worker_plan import HOST, WorkerPlan
from swarm.engines.ollama.client import OllamaClient
from swarm.engines.ollama.server import ServerProcess, client_of
from swarm.engines.ollama.server_spec import server_spec
from swarm.errors import InputError, LockHeld, ModelServerError
from swarm.filesystem.temporary import read_note, remove_note, write_note
from swarm.plain_text import one_line
from swarm.proc.ports import free_port
from swarm.queue.layout import Layout
from swarm.queue.stores import registry

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


LINE_EVERY_S = 5.0
_MIB = 1 << 20


class PullBar:
    """A bar on a terminal, a plain line now and then elsewhere; layers are summed up. Use it as a context manager."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._layers: dict[str, tuple[int, int]] = {}
        self._status = ""
        self._said_s = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @property
    def total_mib(self) -> int:
        """Of all layers heard of so far."""
        return self._sums()[0] // _MIB

    def step(self, step: PullStep) -> None:
        """One line from the server."""
        if step.digest and step.total:
            self._layers[step.digest] = (step.total, step.completed)
        changed = step.status != self._status
        self._status = step.status
        if self._bar is not None and self._task is not None:
            total, done = self._sums()
            words = one_line(f"{self._model}: {step.status}")
            self._bar.update(self._task, total=total or None, completed=done, description=words)
        elif changed or time.monotonic() - self._said_s > LINE_EVERY_S:
            self._say()

    def _sums(self) -> tuple[int, int]:
        return sum(t for t, _ in self._layers.values()), sum(d for _, d in self._layers.values())

    def _say(self) -> None:
        self._said_s = time.monotonic()
        total, done = self._sums()
        share = f", {done / _MIB:,.0f} of {total / _MIB:,.0f} MiB ({done / total:.0%})" if total else ""
        print(one_line(f"{self._model}: {self._status}{share}"), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            text = progress.TextColumn("{task.description}", markup=False)
            numbers = progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn()
            console = Console(stderr=True)
            self._bar = progress.Progress(text, progress.BarColumn(), *numbers, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(one_line(self._model), total=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


LOCK_FILE = ".pull.lock"
NOTE_FILE = ".pull.json"
OWN_NAME = "pull"
"""Name of the server started for a pull; markers, note and log carry it."""
_POLL_S = 0.05


class Pulling(msgspec.Struct, frozen=True, kw_only=True):
    """``<root>/.pull.json``: who holds the lock."""

    pid: int
    model: str


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    model: str
    through: str
    """The worker whose server did it, or the temporary server."""
    seconds: float
    mib: int
    """Of the layers that the server spoke of, those that existed already included."""


def pull(loaded: Loaded, name: str) -> Pulled:
    """Pull ``name``; returns only when the server has said ``success``.

    Raises ``LockHeld`` (another pull runs; named), ``InputError`` (no such name), ``ModelServerError`` (everything else
    the server or the registry said).
    """
    model = name.strip()
    if not model:
        raise InputError("a model needs a name", hint="swarm models pull llama3.2:3b")
    root = Path(loaded.settings.queue.root)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    began_s = time.monotonic()
    with _only_puller(root, model), _server(loaded.settings, root) as (client, through), PullBar(model) as bar:
        try:
            client.pull(model, bar.step)
        except TaskFault as fault:
            raise _words(model, through, fault) from fault
        finally:
            client.close()
    return Pulled(model=model, through=through, seconds=round(time.monotonic() - began_s, 3), mib=bar.total_mib)


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
def _server(settings: Settings, root: Path) -> Iterator[tuple[OllamaClient, str]]:
    """A client for a server that can pull, and its name: a living worker's, a real one first; else one started for it."""
    for row in sorted(registry.living(Layout(settings.queue.root)), key=lambda row: (row.simulated, row.name)):
        if row.ollama_url is None:
            continue
        client = client_of(row.name, row.ollama_url, root=root, adopted=row.adopted)
        if _answers(client):
            yield client, row.name
            return
        client.close()
    with _own_server(settings, root) as url:
        yield client_of(OWN_NAME, url, root=root, adopted=False), "a server started for it"


def _answers(client: OllamaClient) -> bool:
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


def _words(model: str, through: str, fault: TaskFault) -> ModelServerError:
    hints = {
        "transient": "run it again: what was downloaded is kept",
        "infra": f"check its server: swarm doctor, swarm logs ollama-{through}",
    }
    hint = hints.get(fault.fault, "look the name up at https://ollama.com/library")
    return ModelServerError(f"{model} could not be pulled through {through}: {fault.message}", hint=hint)
