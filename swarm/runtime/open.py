"""What a command opens on a root: the queue, a reader, an observer; and who lives there.

Each function imports only what it needs, so that a quick look stays quick.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.brain.observe import Observer
    from swarm.config.settings import RetrySettings, Settings
    from swarm.core.task import Attempt
    from swarm.queue.file_queue import FileQueue
    from swarm.queue.worker.orphans import CrashRule

# ruff: noqa: PLC0415  (see the docstring)


def open_queue(settings: Settings) -> FileQueue:
    """The queue under ``settings.queue.root``; makes nothing."""
    from swarm.queue.file_queue import FileQueue

    return FileQueue(settings.queue.root, settings.queue.durability)


def open_observer(settings: Settings, queue: FileQueue | None = None, *, cards: bool = True) -> Observer:
    """An observer of that queue, its processes and (unless ``cards`` is off) cards; it moves nothing.

    Given an opened ``queue``, it shares the counts with it.
    """
    from swarm.brain.observe import Observer

    reader = None
    if cards:
        from swarm.runtime.cards import gpu_reader

        reader = gpu_reader(settings)
    view = (queue or open_queue(settings)).look_view(crash_rule(settings.retry, lambda: 0.0))
    return Observer(view, reader, settings)


def crash_rule(retry: RetrySettings, jitter: Callable[[], float] = random.random) -> CrashRule:
    """How long a task whose worker died waits before its next attempt, by its attempts; None: it has failed."""
    from swarm.core.policy.retry import crash_delay_s

    def rule(attempts: tuple[Attempt, ...]) -> float | None:
        return crash_delay_s(attempts, settings=retry, jitter=jitter())

    return rule


def reclaim(settings: Settings, worker: str) -> tuple[str, ...] | None:
    """What the brain does for a dead worker, for when none runs: a line per task; None: that worker lives.

    Raises ``StorageFault``.
    """
    from swarm.supervisor.what_runs import end_remains

    root = settings.queue.root
    view = open_queue(settings).brain_view(crash_rule(settings.retry), lambda name: not end_remains(root, name))
    return view.recover(worker)


def lives(settings: Settings, name: str) -> bool:
    """Whether the process of this name (``brain``, ``supervisor``, a worker) runs on this root: its lock is held."""
    from swarm.queue.coordination import is_held
    from swarm.queue.layout import Layout

    return is_held(Layout(settings.queue.root), name)


def swarm_lives(settings: Settings) -> bool:
    """Whether anything that works runs on this root: a supervisor, or workers started alone."""
    from swarm.queue.layout import Layout
    from swarm.queue.stores import registry

    return lives(settings, "supervisor") or any(registry.living(Layout(settings.queue.root)))
