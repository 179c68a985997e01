"""The one place that names concrete adapters: which queue, cards, servers and processes fit the ports.

Commands enter here; each function imports only what it needs, so that a quick look stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.config.settings import Settings

if TYPE_CHECKING:
    from swarm.brain.observe import Observer
    from swarm.config.load import Loaded
    from swarm.queue.file_queue import FileQueue
    from swarm.queue.reader import QueueReader
    from swarm.runtime.bootstrap import RunOptions
    from swarm.supervisor.what_runs import Running

# ruff: noqa: PLC0415  (see the docstring)


def open_queue(settings: Settings) -> FileQueue:
    """The queue under ``settings.queue.root``; makes nothing."""
    from swarm.queue.file_queue import FileQueue

    return FileQueue(str(Path(settings.queue.root).absolute()), settings.queue.durability)


def open_reader(settings: Settings) -> QueueReader:
    """The same queue for commands that only look, at a fraction of the imports."""
    from swarm.queue.reader import QueueReader

    return QueueReader(str(Path(settings.queue.root).absolute()), settings.queue.durability)


def open_observer(settings: Settings, queue: FileQueue | None = None, *, cards: bool = True) -> Observer:
    """An observer of that queue, its processes and (unless ``cards`` is off) cards; it moves nothing.

    Given an opened ``queue``, it shares the counts with it.
    """
    from swarm.runtime.open import open_observer as make

    return make(settings, queue, cards=cards)


def run_options(loaded: Loaded, *, simulate: int | None = None, verbose: bool = False) -> RunOptions:
    """What the processes are given. Log lines go to a terminal too, where there is one."""
    from swarm.runtime.bootstrap import RunOptions

    return RunOptions(
        settings=loaded.settings, config=loaded.path, simulate=simulate, verbose=verbose, console=sys.stderr.isatty()
    )


def run_supervisor(loaded: Loaded, *, simulate: int | None, verbose: bool, for_pid: int | None = None) -> int:
    """Start all and look after it until told to stop; the exit status. With ``for_pid`` until that process ends."""
    from swarm.errors import EngineError
    from swarm.proc import identity
    from swarm.supervisor.main import run_supervisor as run

    parent = None
    if for_pid is not None:
        parent = identity.of_pid(for_pid)
        if parent is None:
            raise EngineError(f"--for-pid {for_pid}: there is no such process")
    return run(run_options(loaded, simulate=simulate, verbose=verbose), parent=parent)


def start_detached(loaded: Loaded, *, simulate: int | None, verbose: bool) -> int:
    """The same in a session of its own; returns once it is up."""
    from swarm.supervisor.main import start_detached as start

    return start(run_options(loaded, simulate=simulate, verbose=verbose))


def stop_swarm(settings: Settings, *, now: bool) -> Sequence[str]:
    """Drain (or, ``now``, stop) what runs on this root; a line per process that ended.

    Raises ``NotRunning``; ``EngineError`` when something would not end.
    """
    from swarm.supervisor.down import stop_swarm as stop

    return stop(settings, now=now)


def orphans(settings: Settings) -> tuple[Running, ...]:
    """What runs on although its supervisor died without a goodbye; () while one lives. Raises ``StorageFault``."""
    from swarm.supervisor.what_runs import orphans as look

    return look(settings)


def take_back(settings: Settings, worker: str) -> tuple[str, ...] | None:
    """What the brain does for a dead worker, for when none runs: a line per task; None: that worker lives."""
    from swarm.runtime.open import take_back as take

    return take(settings, worker)


def run_brain(loaded: Loaded, *, verbose: bool) -> int:
    """The brain in this process, until told to stop; the exit status."""
    from swarm.brain.main import run_brain as run

    return run(run_options(loaded, verbose=verbose))


def run_server(loaded: Loaded, worker: str, *, simulate: int | None, verbose: bool) -> int:
    """The model server of one worker, kept running by this process until told to stop; the exit status."""
    from swarm.supervisor.serve import run_server as run

    return run(run_options(loaded, simulate=simulate, verbose=verbose), worker)


def restart_processes(settings: Settings, names: Sequence[str], *, now: bool) -> Iterator[str]:
    """Restart processes of the running swarm; yields a line as each is back. Raises ``NotRunning``, ``InputError``."""
    from swarm.supervisor.restart_client import restart

    return restart(settings, names, now=now)


def run_worker(loaded: Loaded, name: str, *, simulate: int | None, verbose: bool) -> int:
    """One worker in this process, until told to stop; the exit status."""
    from swarm.worker.main import run_worker as run

    return run(run_options(loaded, simulate=simulate, verbose=verbose), name)
