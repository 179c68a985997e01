"""The brain process.

The notifier of the brain, with its outbox and its ways to deliver.

Waits for deaths and for rings at once: the kernel tells of an ended process within a millisecond.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swarm.brain.apply import Effects, Killer
from swarm.brain.brain import Brain
from swarm.brain.metrics_endpoint import serving_if_wanted
from swarm.brain.notifier import Notifier, notifying
from swarm.brain.observe import Observer
from swarm.clock import SystemClock
from swarm.config.settings import Settings
from swarm.core.explain.monitor import switched_off
from swarm.core.worker import ProcessIdentity
from swarm.errors import EngineError
from swarm.notify.deliver import deliver
from swarm.proc import identity
from swarm.proc.identity import open_pidfd
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck.fsck import recover_root
from swarm.queue.stores import registry
from swarm.queue.stores.outbox import Outbox
from swarm.runtime.bootstrap import RunOptions, living, logging_as, open_root, own_row, root_watch
from swarm.runtime.cards import gpu_reader
from swarm.runtime.loop import StopWish, install, run_loop
from swarm.runtime.open import crash_rule
from swarm.supervisor.what_runs import BRAIN_WAIT_S, end_remains


class DeathWatch:
    """Pidfds of the watched processes plus the bell's descriptors in one ``poll``. Used by one thread.

    ``bell_fds`` are only watched, never read: ``drain`` must empty them. ``urgent_fd`` (the bell's self-wake) also
    ends a wait that does not listen to rings, so that a signal is acted on at once.
    """

    def __init__(
        self,
        *,
        bell_fds: Sequence[int] = (),
        urgent_fd: int | None = None,
        drain: Callable[[], None] | None = None,
    ) -> None:
        self._bell_fds = tuple(bell_fds)
        self._urgent_fds = () if urgent_fd is None else (urgent_fd,)
        self._drain = drain
        self._watched: dict[str, tuple[ProcessIdentity, int]] = {}
        self._news = False

    def watch(self, processes: Mapping[str, ProcessIdentity]) -> None:
        """Watch exactly these from now on. One that has ended already makes the next ``wait`` return at once, once."""
        for name, (known, pidfd) in list(self._watched.items()):
            if processes.get(name) != known:
                del self._watched[name]
                if pidfd >= 0:
                    os.close(pidfd)
        for name, process in processes.items():
            if name not in self._watched:
                opened = open_pidfd(process)
                self._news = self._news or opened is None
                # Kept with no descriptor, so that a dead process still listed is no news in every turn.
                self._watched[name] = (process, -1 if opened is None else opened)

    def wait(self, timeout_s: float, *, bell: bool = True) -> bool:
        """Wait for a death or an urgent wake, and unless ``bell`` is False for a ring; False after ``timeout_s``.

        A death is reported once.
        """
        if self._news:
            self._news = False
            return True
        poll = select.poll()
        pidfds = {pidfd: name for name, (_, pidfd) in self._watched.items() if pidfd >= 0}
        for fd in (*pidfds, *self._urgent_fds, *(self._bell_fds if bell else ())):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(0.0, timeout_s) * 1000)]
        for fd in ready:
            if fd in pidfds:
                name = pidfds[fd]
                self._watched[name] = (self._watched[name][0], -1)
                os.close(fd)
        if self._drain is not None and any(fd not in pidfds for fd in ready):
            self._drain()
        return bool(ready)

    def close(self) -> None:
        """Give all pidfds back."""
        self.watch({})


def make_notifier(
    queue: FileQueue, settings: Settings, log: logging.Logger, now_s: Callable[[], float] = time.time
) -> Notifier:
    """Tells by ``swarm.notify`` what the queue's outbox owes."""

    def tell(target: str, message: Mapping[str, Any]) -> None:
        deliver(target, message, settings)

    return Notifier(Outbox(queue.layout, queue.storage), tell, max_tries=settings.notify.max_tries, log=log, now_s=now_s)


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
        crash_rule(settings.retry),
        lambda worker: not end_remains(str(options.root), worker, BRAIN_WAIT_S),
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
