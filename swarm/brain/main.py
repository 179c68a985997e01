"""The brain process."""

from __future__ import annotations

import logging
import os
import random
import signal

from swarm.brain.apply import Effects, Killer
from swarm.brain.brain import Brain
from swarm.brain.make_notifier import make_notifier
from swarm.brain.notifier import notifying
from swarm.brain.observe import Observer
from swarm.brain.process_watch import DeathWatch
from swarm.brain.serve_metrics import serving_if_wanted
from swarm.clock import SystemClock
from swarm.core.explain.switched_off import switched_off
from swarm.core.policy.retry import crash_delay_s
from swarm.errors import EngineError
from swarm.proc import identity
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck.fsck import recover_root
from swarm.queue.stores import registry
from swarm.runtime.bootstrap import RunOptions, living, logging_as, open_root, own_row, root_watch
from swarm.runtime.loop import run_loop
from swarm.runtime.open import gpu_reader
from swarm.runtime.signals import StopWish, install
from swarm.supervisor.remains import BRAIN_WAIT_S, end_remains


def run_brain(options: RunOptions) -> int:
    """Be the brain of this root until told to stop; returns the exit status. Raises ``LockHeld`` when there is one."""
    queue, instead = open_root(options)
    root_trouble = root_watch(queue.layout.root)
    with living(queue, own_row("brain", "brain")) as row, logging_as("brain", options) as brain_log:
        for check in instead:
            brain_log.info("Fallback: %s", check)
        for line in recover_root(queue.layout, queue.storage):
            brain_log.info("%s", line)
        bell = queue.bell(drop_ins=True)
        wish = StopWish(bell.wake_self)
        install(wish)
        watch = DeathWatch(bell_fds=[] if bell.fd is None else [bell.fd], urgent_fd=bell.self_fd, drain=bell.drain)
        brain = _brain(queue, options, watch, wish, row.epoch, brain_log)
        off = switched_off(options.settings)
        if off:
            brain_log.info("Switched off: %s", "; ".join(off))
        try:
            notifier = make_notifier(queue, options.settings, brain_log)
            with serving_if_wanted(options.settings, brain_log), notifying(notifier, brain_log):
                return run_loop(brain, wait=brain.wait, log=brain_log, lost=root_trouble)
        finally:
            watch.close()
            bell.close()


def _brain(
    queue: FileQueue, options: RunOptions, watch: DeathWatch, wish: StopWish, epoch: int, brain_log: logging.Logger
) -> Brain:
    settings = options.settings
    clock = SystemClock()
    view = queue.brain_view(
        lambda attempts: crash_delay_s(attempts, settings=settings.retry, jitter=random.random()),
        lambda worker: end_remains(str(options.root), worker, BRAIN_WAIT_S),
        count_finished=settings.brain.retention_count > 0,
        ready_only=True,
    )
    return Brain(
        observer=Observer(view, gpu_reader(settings), clock, settings, retention=True),
        effects=Effects(view, _killer(queue), clock, settings, brain_log),
        waiter=watch,
        heart=queue.heartbeats(),
        clock=clock,
        settings=settings,
        pid=os.getpid(),
        epoch=epoch,
        stopping=lambda: wish.urgency > 0,
        log=brain_log,
    )


def _killer(queue: FileQueue) -> Killer:
    def kill(worker: str, epoch: int) -> bool:
        row = registry.read_row(queue.layout, worker)
        if row is None or row.epoch != epoch:
            return False
        try:
            return identity.signal(row.process, signal.SIGKILL)
        except PermissionError as exc:
            raise EngineError(f"cannot kill {worker} (pid {row.process.pid}): it belongs to another user") from exc

    return kill
