"""The rest of the program as the commands see it, and the one place that gets it (late: it is heavy)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import msgspec

from swarm.cli.ports import Observer, Queue, Reader

if TYPE_CHECKING:
    from swarm.cli.run.progress import RunView
    from swarm.config.load import Loaded
    from swarm.config.settings import Settings


class Wiring(Protocol):
    """``swarm.runtime.wiring`` as the command line uses it."""

    def open_queue(self, settings: Settings) -> Queue:
        """The queue under ``settings.queue.root``."""
        ...

    def open_reader(self, settings: Settings) -> Reader:
        """The same for commands that only look; quicker to get."""
        ...

    def open_observer(self, settings: Settings, queue: Queue | None = None, *, cards: bool = True) -> Observer:
        """An observer of that queue, its processes and cards; with ``queue`` nothing is counted twice."""
        ...

    def orphans(self, settings: Settings) -> Sequence[object]:
        """What runs on although its supervisor died without a goodbye; empty while one lives."""
        ...

    def take_back(self, settings: Settings, worker: str) -> Sequence[str] | None:
        """Take back what a dead worker held; a line per task, None: it lives."""
        ...

    def run_supervisor(self, loaded: Loaded, *, simulate: int | None, verbose: bool, for_pid: int | None) -> int:
        """Start all, look after it until told to stop; the exit code. Raises ``LockHeld``, ``ConfigError``, ``GpuError``."""
        ...

    def start_detached(self, loaded: Loaded, *, simulate: int | None, verbose: bool) -> int:
        """The same in a session of its own; returns once it is up."""
        ...

    def stop_swarm(self, settings: Settings, *, now: bool) -> Sequence[str]:
        """Drain (or, ``now``, stop) what runs on this root; a line per process that ended. Raises ``NotRunning``."""
        ...

    def run_brain(self, loaded: Loaded, *, verbose: bool) -> int:
        """The brain in this process, until told to stop; the exit code."""
        ...

    def run_server(self, loaded: Loaded, worker: str, *, simulate: int | None, verbose: bool) -> int:
        """The model server of one worker, kept running until told to stop; the exit code."""
        ...

    def restart_processes(self, settings: Settings, names: Sequence[str], *, now: bool) -> Iterator[str]:
        """Restart processes of the running swarm; a line as each is back. Raises ``NotRunning``, ``InputError``."""
        ...

    def run_worker(self, loaded: Loaded, name: str, *, simulate: int | None, verbose: bool) -> int:
        """One worker in this process, until told to stop; the exit code."""
        ...


def brain_lives(settings: Settings) -> bool:
    """Whether a brain runs on this root: its life lock is held."""
    from swarm.queue.layout import Layout
    from swarm.queue.storage.locks import is_held

    return is_held(Layout(settings.queue.root), "brain")


def supervisor_lives(settings: Settings) -> bool:
    """Whether a supervisor runs on this root: its life lock is held."""
    from swarm.queue.layout import Layout
    from swarm.queue.storage.locks import is_held

    return is_held(Layout(settings.queue.root), "supervisor")


def wiring() -> Wiring:
    """The concrete parts."""
    return cast("Wiring", importlib.import_module("swarm.runtime.wiring"))


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `swarm run` and `swarm submit` were asked to do. Exactly one of ``source``, ``prompt`` and ``task`` is given."""

    source: str | None = None
    """A path, or ``-`` for standard input."""
    prompt: str | None = None
    task: Path | None = None
    output: Path | None = None
    """None for `submit`; `run` needs one unless it is a dry run."""
    model: str | None = None
    prompt_field: str | None = None
    template: str | None = None
    system: str | None = None
    priority: int | None = None
    limit: int | None = None
    format: str | None = None
    endpoint: str | None = None
    options: tuple[str, ...] = ()
    """Generation options as ``NAME=VALUE``."""
    schema: Path | None = None
    images_dir: str | None = None
    errors: Path | None = None
    sort: Literal["input", "longest", "shortest"] = "input"
    max_fails: int | None = None
    retry_failed: bool = False
    dry_run: bool = False
    notify: tuple[str, ...] = ()
    """Who is told when all of it has ended."""
    not_before: str | None = None
    """A duration, a time of day, or a date and time."""
    timeout: str | None = None
    max_attempts: int | None = None
    cache: bool | None = None
    """None: as the worker's configuration has it."""
    simulate: int | None = None
    verbose: bool = False
    quiet: bool = False
    """Nothing is said meanwhile."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended: ``document`` for ``--json``; for people ``lines``, after the ``answer`` that was asked for."""

    exit_code: int
    document: dict[str, Any]
    lines: tuple[str, ...]
    answer: str = ""
    """A model's or program's own text."""


Show = Callable[["RunView"], None]


class Batches(Protocol):
    """``swarm.cli.run.pipeline`` as the commands use it."""

    def run(self, loaded: Loaded, request: RunRequest, show: Show) -> Outcome:
        """Submit, work, collect; resumes. Raises ``InputError`` before any work starts."""
        ...

    def submit(self, loaded: Loaded, request: RunRequest, show: Show | None) -> Outcome:
        """Put it into the queue; with ``show`` wait until it has ended."""
        ...

    def results(
        self, settings: Settings, batch_id: str, output: Path, errors: Path | None = None, *, report: bool = False
    ) -> Outcome:
        """Write the results of a batch, and its report where asked."""
        ...


def batches() -> Batches:
    """The main job."""
    return cast("Batches", importlib.import_module("swarm.cli.run.pipeline"))
