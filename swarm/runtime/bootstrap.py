"""Common startup of brain, worker and supervisor: root, log, process lock, registration."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from swarm import __version__
from swarm.clock import now_iso
from swarm.config.load import Loaded
from swarm.config.settings import Settings
from swarm.core.doctor.root_check import Check, fallbacks, first_missing
from swarm.core.worker import Heartbeat, WorkerRow, WorkerStatus
from swarm.errors import EngineError
from swarm.proc import identity
from swarm.proc.host_probe import host_checks
from swarm.proc.ports import describe
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.runtime import logging as logsetup

LOCK_WAIT_S = 2.0
"""A look or a recovery holds a process lock for milliseconds; a starting process waits so long."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says beside the settings; handed on to the processes that are started."""

    settings: Settings
    config: Path | None = None
    sources: Mapping[str, str] = {}
    """Where each key that is no default came from."""
    simulate: int | None = None
    verbose: bool = False
    console: bool = False
    """Log lines to standard error too."""

    @property
    def root(self) -> Path:
        """The queue root, absolute."""
        return Path(self.settings.queue.root)


def run_options(loaded: Loaded, *, simulate: int | None = None, verbose: bool = False) -> RunOptions:
    """What a process that the command line starts is given. Log lines go to a terminal too, where there is one."""
    return RunOptions(
        settings=loaded.settings,
        config=loaded.path,
        sources=loaded.sources,
        simulate=simulate,
        verbose=verbose,
        console=sys.stderr.isatty(),
    )


def check_host() -> tuple[Check, ...]:
    """What this host lets us do with processes. Raises ``EngineError`` if something indispensable is missing."""
    checks = host_checks()
    missing = first_missing(checks)
    if missing is not None:
        raise EngineError(f"swarm cannot work on this host: {missing.text}", hint=missing.next)
    return checks


def open_root(options: RunOptions) -> tuple[FileQueue, tuple[Check, ...]]:
    """The queue, its directories made and checked; and what this host or its file system does in another way.

    Raises ``EngineError``, ``QueueError``, ``StorageFault``.
    """
    host = check_host()
    queue = FileQueue(str(options.root), options.settings.queue.durability).prepare()
    return queue, tuple(fallbacks((*host, *queue.self_test())))


@contextmanager
def logging_as(name: str, options: RunOptions) -> Iterator[logging.Logger]:
    """Logs go to ``logs/<name>.log`` within the block."""
    faulthandler.enable()  # a fatal signal leaves its traceback on standard error, which is kept in logs/<name>.err
    wanted = options.settings.logging
    logs = logsetup.setup(
        name,
        options.root / "logs" / f"{name}.log",
        "DEBUG" if options.verbose else wanted.level,
        console=options.console,
        max_mb=wanted.max_mb,
        keep=wanted.keep,
    )
    try:
        yield logging.getLogger(f"swarm.{name}")
    finally:
        logs.close()


def process_lock(layout: Layout, name: str) -> ProcessLock:
    """The process lock of this name; a refusal names the holder."""

    def holder() -> str:
        row = registry.read_row(layout, name)
        return "holder unknown" if row is None else f"{describe(row.process.pid)}, since {row.started_at}"

    return ProcessLock(layout, name, holder)


@contextmanager
def living(queue: FileQueue, row: WorkerRow) -> Iterator[WorkerRow]:
    """Hold the process lock and be registered within the block; yields the registration with its epoch.

    Raises ``LockHeld``.
    """
    lock = process_lock(queue.layout, row.name)
    lock.acquire(LOCK_WAIT_S)
    try:
        lived = msgspec.structs.replace(row, epoch=registry.next_epoch(queue.layout, row.name))
        registry.register(queue.layout, queue.storage, lived)
        yield lived
    finally:
        lock.release()


def own_row(name: str, role: str) -> WorkerRow:
    """This process's registration; ``living`` fills in its epoch."""
    return WorkerRow(
        name=name,
        role=role,
        process=identity.current(),
        started_at=now_iso(),
        epoch=0,
        version=__version__,
    )


def beats_of(queue: FileQueue, row: WorkerRow) -> Callable[[int, WorkerStatus], None]:
    """Writes heartbeats of a process that runs no tasks: called with the turn of its loop, and its status."""
    heart = queue.heartbeats()

    def beat(turn: int, status: WorkerStatus) -> None:
        heart.beat(
            Heartbeat(
                name=row.name,
                pid=row.process.pid,
                epoch=row.epoch,
                seq=turn,
                turn=turn,
                written_at=now_iso(),
                status=status,
            )
        )

    return beat


def command_of(*words: str, options: RunOptions) -> tuple[str, ...]:
    """The argv that starts another process of ours with the same root and configuration."""
    # -P: modules are not looked for in the current directory, where others may have put some.
    argv = [sys.executable, "-P", "-m", "swarm", *words, "--root", str(options.root)]
    if options.config is not None:
        argv += ["--config", os.path.abspath(options.config)]
    if options.verbose:
        argv.append("--verbose")
    return tuple(argv)
