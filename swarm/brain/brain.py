"""The brain's loop: observe, decide, apply.

* It never runs work. Everything goes on, more slowly, while it is down.
* The MONITOR line, stuck tasks and alarms are logged when they change, not at each tick.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from swarm.brain.apply import Applied, Effects
from swarm.brain.observe import Observer
from swarm.clock import now_iso
from swarm.config.settings import Settings
from swarm.core.health.liveness import monitor_line, stuck, stuck_line, workers_of
from swarm.core.placement.placement import next_live_turn_s
from swarm.core.policy.decide import DROP_IN_QUIET_S, decide
from swarm.core.policy.decisions import Decision, FailBlocked, FileDropIn, RecoverWorker, ReleaseTask, Warn
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.worker import TICK_BOUNDS_S, Heartbeat, ProcessIdentity, WorkerStatus, WorkerTally, empty
from swarm.errors import StorageFault
from swarm.proc.identity import open_pidfd
from swarm.runtime.logging import LogOnce
from swarm.runtime.loop import StopWish
from swarm.runtime.ports import HeartbeatSink

MONITOR_GAP_S = 5.0
"""A changing MONITOR line is logged no more often."""
TRIM_S = 60.0


class Announcer:
    """Logs the state of the whole when it changes; remembers what was logged."""

    def __init__(self, settings: Settings, log: logging.Logger) -> None:
        self._settings = settings
        self._log = log
        self._line = ""
        self._said_s = float("-inf")
        self._stuck: frozenset[tuple[str, int]] = frozenset()
        self._alarms: dict[str, str] = {}

    def announce(self, snapshot: SwarmSnapshot, decisions: Iterable[Decision]) -> None:
        """Once per tick."""
        self._announce_alarms({d.key: d.reason for d in decisions if isinstance(d, Warn)}, grace=snapshot.grace)
        self._announce_stuck(snapshot)
        self._announce_monitor(snapshot)

    def _announce_alarms(self, alarms: dict[str, str], *, grace: bool) -> None:
        for key, text in alarms.items():
            if key not in self._alarms:
                self._log.warning("%s", text)
        # In a tick of grace ages are not judged, so an alarm's absence means nothing.
        kept = {key: text for key, text in self._alarms.items() if grace}
        for key, text in self._alarms.items():
            if key not in alarms and key not in kept:
                self._log.info("Cleared: %s", text)
        self._alarms = {**kept, **{key: self._alarms.get(key, text) for key, text in alarms.items()}}

    def _announce_stuck(self, snapshot: SwarmSnapshot) -> None:
        if snapshot.grace:
            return
        found = stuck(snapshot, self._settings)
        now = frozenset((c.task_id, c.attempt) for c in found)
        if now and now != self._stuck:
            self._log.warning("%s", stuck_line(found))
        elif self._stuck and not now:
            self._log.info("Stuck tasks: none any more")
        self._stuck = now

    def _announce_monitor(self, snapshot: SwarmSnapshot) -> None:
        if not self._settings.brain.monitor_s:
            return
        line = monitor_line(snapshot, self._settings)
        since_s = snapshot.mono_s - self._said_s
        changed = line != self._line and since_s >= MONITOR_GAP_S
        if changed or (snapshot.has_work and since_s >= self._settings.brain.monitor_s):
            self._log.info("%s", line)
            self._line, self._said_s = line, snapshot.mono_s


PAUSE_S = 0.05
"""Wake-ups within so long of the last tick are answered together, so that a busy queue costs twenty ticks a second at most.
Deaths and wishes to stop are answered at once."""


class DeathWatch:
    """What the brain waits on between ticks: deaths of processes and wake-ups, in one ``poll``. Used by one thread.

    ``wakeup_fds`` are only watched, never read: ``drain`` must empty them. ``urgent_fd`` (its self-wake) also
    ends a wait that does not listen to wake-ups, so that a signal is acted on at once.
    """

    def __init__(
        self,
        *,
        wakeup_fds: Sequence[int] = (),
        urgent_fd: int | None = None,
        drain: Callable[[], None] | None = None,
    ) -> None:
        self._wakeup_fds = tuple(wakeup_fds)
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

    def wait(self, timeout_s: float, *, wakeup: bool = True) -> bool:
        """Wait for a death, an urgent wake or, unless ``wakeup`` is False, a wake-up; False after ``timeout_s``.

        A death is reported once.
        """
        if self._news:
            self._news = False
            return True
        poll = select.poll()
        pidfds = {pidfd: name for name, (_, pidfd) in self._watched.items() if pidfd >= 0}
        for fd in (*pidfds, *self._urgent_fds, *(self._wakeup_fds if wakeup else ())):
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
        """Close all pidfds."""
        self.watch({})


class Brain:
    """One per queue root, under the process lock ``brain``. Used by one thread; fits ``runtime.loop.Actor``."""

    def __init__(
        self,
        *,
        observer: Observer,
        effects: Effects,
        waiter: DeathWatch,
        heart: HeartbeatSink,
        settings: Settings,
        pid: int,
        epoch: int,
        wish: StopWish,
        log: logging.Logger,
        mono_s: Callable[[], float] = time.monotonic,
        trim_logs: Callable[[], None] = lambda: None,
    ) -> None:
        """``trim_logs`` is called every ``TRIM_S``."""
        self._observer = observer
        self._effects = effects
        self._waiter = waiter
        self._heart = heart
        self._mono_s = mono_s
        self._settings = settings
        self._pid = pid
        self._epoch = epoch
        self._wish = wish
        self._log = log
        self._announcer = Announcer(settings, log)
        self._turns = 0
        self._beats = 0
        self._beat_due_s = self._trim_due_s = mono_s()
        self._trim_logs = trim_logs
        self._mute = False
        """The disk refused its last heartbeat, and so those of all others."""
        self._troubles = LogOnce(log)
        self._ticks = empty(TICK_BOUNDS_S)

    @property
    def title(self) -> str:
        """Its name in log lines."""
        return "Brain"

    @property
    def finished(self) -> bool:
        """Whether a stop was requested."""
        return self._wish.urgency > 0

    def step(self) -> float:
        """One tick; returns seconds to wait. Whatever unexpected it meets is raised: ``run_loop`` logs it and ends us."""
        self._turns += 1
        began_s = self._mono_s()
        pause_s = self._turn()
        self._ticks = self._ticks.with_one(self._mono_s() - began_s)
        if began_s >= self._trim_due_s:
            self._trim_due_s = began_s + TRIM_S
            self._troubles.tried("logs", self._trim_logs, None)
        return pause_s

    def _turn(self) -> float:
        snapshot = self._look()
        if snapshot is None:
            return self._settings.brain.tick_s
        self._watch_lives(snapshot)
        decisions = decide(snapshot, self._settings)
        applied = self._apply(decisions)
        self._announcer.announce(snapshot, decisions)
        self._beat(WorkerStatus.BUSY if snapshot.has_work else WorkerStatus.IDLE)
        return PAUSE_S if applied else self._until_next(snapshot)

    def wait(self, timeout_s: float) -> None:
        """Wait between ticks: first a moment for deaths alone, then for wake-ups too."""
        if not self._waiter.wait(min(PAUSE_S, timeout_s), wakeup=False) and timeout_s > PAUSE_S:
            self._waiter.wait(timeout_s - PAUSE_S)

    def close(self) -> None:
        """Write a last heartbeat that says it has ended."""
        self._log.info("Brain shutting down after %d ticks", self._turns)
        self._beat_due_s = self._mono_s()
        self._beat(WorkerStatus.STOPPED)

    def abandon(self) -> None:
        """Nothing to do: everything the brain knows can be seen again."""

    def _look(self) -> SwarmSnapshot | None:
        try:
            snapshot = self._observer.snapshot(mute=self._mute)
        except StorageFault as fault:
            self._failing("read the queue", fault)
            return None
        self._troubles.working("read the queue", "Brain can read the queue again")
        return snapshot

    def _watch_lives(self, snapshot: SwarmSnapshot) -> None:
        self._waiter.watch({w.name: w.row.process for w in workers_of(snapshot) if w.alive and w.row is not None})

    def _apply(self, decisions: tuple[Decision, ...]) -> bool:
        """Whether anything was done that calls for another look at once."""
        outcomes = [self._effects.apply(decision) for decision in decisions]
        self._effects.forget_undecided(decisions)
        return any(isinstance(o, Applied) and _calls_for_a_look(o.decision) for o in outcomes)

    def _until_next(self, snapshot: SwarmSnapshot) -> float:
        """Seconds until the first thing falls due by itself; a tick at most."""
        ripe_s = [DROP_IN_QUIET_S - d.quiet_s for d in snapshot.drop_ins if d.quiet_s < DROP_IN_QUIET_S]
        due_s = [b.due_in_s for b in snapshot.blocked if b.due_in_s is not None and b.due_in_s > 0]
        turn_s = next_live_turn_s(snapshot, self._settings)
        turns_s = [] if turn_s is None else [turn_s]
        return max(0.0, min([self._settings.brain.tick_s, *ripe_s, *due_s, *turns_s]))

    def _beat(self, status: WorkerStatus) -> None:
        now_s = self._mono_s()
        if now_s < self._beat_due_s:
            return
        self._beat_due_s = now_s + self._settings.worker.heartbeat_s
        self._beats += 1
        heartbeat = Heartbeat(
            name="brain",
            pid=self._pid,
            epoch=self._epoch,
            seq=self._beats,
            turn=self._turns,
            written_at=now_iso(),
            status=status,
            tally=WorkerTally(crashes=self._effects.reclaimed),
            ticks=self._ticks,
        )
        try:
            self._heart.beat(heartbeat)
        except (StorageFault, OSError) as fault:
            self._mute = True
            self._failing("write its heartbeat", fault)
        else:
            self._mute = False
            self._troubles.working("write its heartbeat", "Brain can write its heartbeat again")

    def _failing(self, what: str, fault: Exception) -> None:
        self._troubles.failing(what, f"Brain cannot {what}: {fault}; retried each tick", logging.ERROR)


def _calls_for_a_look(decision: Decision) -> bool:
    """It put tasks where they count: models may have to be placed for them now rather than a tick later."""
    return isinstance(decision, FileDropIn | RecoverWorker | ReleaseTask | FailBlocked)
