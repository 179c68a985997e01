"""The brain process: wires the brain and its notifier, under the process lock ``brain``."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial

from swarm.brain.apply import Effects, Killer
from swarm.brain.brain import Brain, DeathWatch
from swarm.brain.metrics_endpoint import serving_if_wanted
from swarm.brain.notifier import Notifier, notifying
from swarm.brain.observe import Observer
from swarm.config.settings import Settings
from swarm.errors import EngineError
from swarm.notify.deliver import deliver
from swarm.proc import identity
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck.fsck import recover_root
from swarm.queue.stores import registry
from swarm.queue.stores.outbox import Outbox
from swarm.runtime.bootstrap import RunOptions, living, logging_as, open_root, own_row
from swarm.runtime.cards import gpu_reader
from swarm.runtime.loop import StopWish, install, root_watch, run_loop
from swarm.runtime.open import crash_rule
from swarm.supervisor.what_runs import BRAIN_WAIT_S, end_remains, trim_logs


def make_notifier(
    queue: FileQueue, settings: Settings, log: logging.Logger, now_s: Callable[[], float] = time.time
) -> Notifier:
    """Notifies by ``swarm.notify``, as the queue's outbox asks."""
    outbox = Outbox(queue.layout, queue.storage)
    return Notifier(outbox, partial(deliver, settings=settings), max_tries=settings.notify.max_tries, log=log, now_s=now_s)


def run_brain(options: RunOptions) -> int:
    """Run the brain of this root until asked to stop; returns the exit status. Raises ``LockHeld`` when there is one."""
    queue, instead = open_root(options)
    root_trouble = root_watch(queue.layout.root)
    with living(queue, own_row("brain", "brain")) as row, logging_as("brain", options) as brain_log:
        for check in instead:
            brain_log.info("Fallback: %s", check)
        for line in recover_root(queue.layout, queue.storage):
            brain_log.info("%s", line)
        wakeup = queue.wakeup(drop_ins=True)
        wish = StopWish(wakeup.wake_self)
        install(wish)
        watch = DeathWatch(wakeup_fds=[] if wakeup.fd is None else [wakeup.fd], urgent_fd=wakeup.self_fd, drain=wakeup.drain)
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
            wakeup.close()


def _brain(
    queue: FileQueue, options: RunOptions, watch: DeathWatch, wish: StopWish, epoch: int, brain_log: logging.Logger
) -> Brain:
    settings = options.settings
    view = queue.brain_view(
        crash_rule(settings.retry),
        lambda worker: not end_remains(str(options.root), worker, BRAIN_WAIT_S),
        count_finished=settings.brain.retention_count > 0,
        ready_only=True,
    )
    return Brain(
        observer=Observer(view, gpu_reader(settings), settings, retention=True),
        effects=Effects(view, _killer(queue), settings, brain_log),
        waiter=watch,
        heart=queue.heartbeats(),
        settings=settings,
        pid=os.getpid(),
        epoch=epoch,
        wish=wish,
        log=brain_log,
        trim_logs=lambda: trim_logs(options.root),
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


def switched_off(settings: Settings) -> tuple[str, ...]:
    """One entry for each loop or warning that an interval of 0 turns off, with its key."""
    brain = settings.brain
    found = [
        ("the MONITOR line", "monitor_s", brain.monitor_s),
        ("looking for stuck tasks", "stuck_after_s", brain.stuck_after_s),
        ("counting stale tasks", "stale_queued_s", brain.stale_queued_s),
        ("warning of loads that wait", "load_warn_s", brain.load_warn_s),
    ]
    off = [f"{what} (brain.{key} = 0)" for what, key, value in found if not value]
    if not brain.retention_days and not brain.retention_count:
        off.append("purging of finished tasks (brain.retention_days and brain.retention_count = 0)")
    return tuple(off)
