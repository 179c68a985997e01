"""The rest of the program as the commands see it, and the one place that gets it (late: it is heavy)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from swarm.cli.ports import Observer, Queue, Reader

if TYPE_CHECKING:
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
