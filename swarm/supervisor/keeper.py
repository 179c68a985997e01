"""Keeps one process running: starts, watches, restarts and ends it. It never waits."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Iterable
from typing import Protocol, assert_never

from swarm.core.policy.restart_backoff import Life, RestartPolicy, RestartRecord, after_end, after_ready
from swarm.errors import PortTaken, SwarmError
from swarm.proc.child import Exit, KeptProcess
from swarm.runtime.logging import LogOnce, words_of
from swarm.runtime.ports import Clock
from swarm.supervisor.state import ChildState, ChildStatus

log = logging.getLogger(__name__)
SOON_S = 0.02
"""How soon to look again while something starts or ends."""
SOON_MAX_S = 0.25
IDLE_S = 1.0


class QuarantineBook(Protocol):
    """The record of one worker's quarantine: it outlives this process and can be ended by a command."""

    def standing(self) -> tuple[float, str] | None:
        """Seconds until its trial, and why; None when there is no quarantine or its trial is due."""
        ...

    def enter(self, reason: str) -> None:
        """Record a quarantine. Raises ``OSError``."""
        ...

    def release(self) -> None:
        """End the quarantine now, by request."""
        ...


class Waker:
    """Ends a wait early, from signal handlers and other threads."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # stays open: a thread may still wake it at the end

    def wake(self) -> None:
        """End the wait that runs now, or the next one."""
        os.eventfd_write(self._fd, 1)

    def wait(self, timeout_s: float, fds: Iterable[int | None]) -> None:
        """Wait until it is woken, one of these descriptors is readable, or ``timeout_s`` has passed."""
        poll = select.poll()
        for fd in (self._fd, *fds):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        if any(fd == self._fd for fd, _ in poll.poll(max(timeout_s, 0.0) * 1000)):
            os.eventfd_read(self._fd)


class Keeper:
    """Keeps one process running until asked to drain or stop; with ``server`` it starts only once that one runs."""

    def __init__(
        self,
        process: KeptProcess,
        policy: RestartPolicy,
        clock: Clock,
        *,
        server: Keeper | None = None,
        fault: str | None = None,
        book: QuarantineBook | None = None,
    ) -> None:
        self.process = process
        self.state = ChildState.BACKOFF
        self._policy = policy
        self._clock = clock
        self._server = server
        self._record = RestartRecord()
        self._ready_since_s: float | None = None
        self._reason = "about to start"
        self._since = clock.iso()
        self._last_exit: str | None = None
        self._wanted = True
        self._why = ""
        self._troubles = LogOnce(log)
        self._forced = self._again = False
        self._fresh = fault is None
        """Nothing was started or adopted yet: what an earlier supervisor left may live."""
        self._soon_s = SOON_S
        self._book = book
        standing = book.standing() if book is not None else None
        if standing is not None:
            self._record = RestartRecord(quarantined=True)
            self._enter(ChildState.QUARANTINED, standing[1])
            log.warning("%s quarantined for another %.0f s: %s", process.name, *standing)
        if fault is not None:
            self._record = RestartRecord(quarantined=True, due_s=float("inf"))
            self._enter(ChildState.QUARANTINED, fault)

    @property
    def status(self) -> ChildStatus:
        """Its status, for display."""
        identity = self.process.identity
        return ChildStatus(
            name=self.process.name,
            role=self.process.role,
            state=self.state,
            since=self._since,
            reason=self._reason,
            pid=identity.pid if identity is not None else None,
            restarts=self._record.restarts,
            last_exit=self._last_exit,
        )

    @property
    def watch_fd(self) -> int | None:
        """A pidfd worth waiting on; None when its end is known already (it would be readable for ever)."""
        try:
            return self.process.pidfd if self.process.poll() is None else None
        except OSError:  # nothing can be seen of it now, and the next tick says so
            return None

    def step(self) -> float:
        """One tick; returns the seconds until the next is due (an ended process comes earlier, through its pidfd).

        What the system refuses is said and tried again in the next tick.
        """
        return self._troubles.tried(self.process.name, self._tick, IDLE_S)

    def _tick(self) -> float:
        match self.state:
            case ChildState.BACKOFF | ChildState.QUARANTINED:
                return self._waiting()
            case ChildState.STARTING:
                return self._starting()
            case ChildState.RUNNING:
                return self._running()
            case ChildState.STOPPING:
                return self._stopping()
            case ChildState.EXITED:
                return IDLE_S
            case _:
                assert_never(self.state)

    def drain(self, why: str = "") -> None:
        """Drain it: it finishes its work and is not restarted. ``why`` is shown once it has ended."""
        self._wanted, self._why = False, why or self._why
        if self._absent():
            self._force("not started")
        elif self.state in (ChildState.STARTING, ChildState.RUNNING):
            self._enter(ChildState.STOPPING, "finishing its work")
            self.process.drain()

    def stop(self, why: str = "") -> None:
        """End it without a restart, by force after a grace period. Harmless when repeated."""
        self._wanted, self._why = False, why or self._why
        if self.state is not ChildState.EXITED and not self._forced:
            self._force("not started" if self._absent() else "stopping")

    def restart(self, *, now: bool) -> str:
        """A fresh start, as asked: after its work is done unless ``now`` (a server's requests are always cut); at once for
        who waits, even in quarantine. Counts as no failure. Returns words for the log.
        """
        match self.state:
            case ChildState.STARTING | ChildState.RUNNING if now or self.process.role == "server":
                self._again = True
                self._force("restarting, as asked")
            case ChildState.STARTING | ChildState.RUNNING:
                self._again = True
                self._enter(ChildState.STOPPING, "finishing its work before it restarts, as asked")
                self.process.drain()
            case ChildState.STOPPING if now and not self._forced:
                self._force(self._reason)
            case ChildState.BACKOFF | ChildState.QUARANTINED if self._record.due_s < float("inf"):
                self._record = RestartRecord(restarts=self._record.restarts)
                if self._book is not None:
                    self._book.release()
                self._reason = "about to start, as asked"
            case _:
                return f"{self.process.name} cannot be restarted: {self.state}{f', {self._reason}' if self._reason else ''}"
        return f"{self.process.name}: {self._reason}"

    def _waiting(self) -> float:
        if self._adopted():
            return SOON_S
        if self._server is not None and self._server.state is not ChildState.RUNNING:
            status = self._server.status
            self._reason = f"waits for its server, which is {status.state}{': ' + status.reason if status.reason else ''}"
            return IDLE_S
        left_s = self._left_s()
        if left_s > 0:
            return min(left_s, IDLE_S)
        try:
            line = self.process.start()
        except PortTaken as error:
            return self._kept_out(words_of(error))
        except (OSError, SwarmError) as error:
            self._ended(f"could not start: {words_of(error)}", Life())
            return 0.0
        self._begun(line)
        return SOON_S

    def _kept_out(self, reason: str) -> float:
        """Somebody else has its port: nothing was started and nothing failed, so it is tried until the port is free."""
        if self._reason != reason:
            log.error("%s", reason)
        self._last_exit = self._reason = reason
        return IDLE_S

    def _adopted(self) -> bool:
        """Whether one was found alive: it is watched then, whatever keeps a new one from starting."""
        line = self.process.adopt() if self._fresh else None
        if line is not None:
            self._begun(line)
        return line is not None

    def _absent(self) -> bool:
        """Whether there is nothing to be asked to end, only remains perhaps."""
        waits = self.state in (ChildState.BACKOFF, ChildState.QUARANTINED)
        return waits and not self._troubles.tried(self.process.name, self._adopted, otherwise=False)

    def _begun(self, line: str) -> None:
        log.info("%s", line)
        self._fresh = False
        self._ready_since_s = None
        self._soon_s = SOON_S
        self._enter(ChildState.STARTING, "")

    def _left_s(self) -> float:
        """Until the next start. A quarantine on record lasts as long as its note, which an operator may remove."""
        if self.state is ChildState.QUARANTINED and self._book is not None and self._record.due_s < float("inf"):
            standing = self._book.standing()
            return standing[0] if standing is not None else 0.0
        return self._record.due_s - self._clock.mono_s()

    def _starting(self) -> float:
        if self.process.ready():
            self._ready_since_s = self._clock.mono_s()
            self._record = after_ready(self._record)
            self._enter(ChildState.RUNNING, "")
            log.info("%s is ready", self.process.name)
            return 0.0
        overdue = self.process.overdue()
        if overdue is not None:
            self._force(overdue)
            return 0.0
        return self._running()

    def _running(self) -> float:
        exit_ = self.process.poll()
        if exit_ is None:
            return self._soon() if self.state is ChildState.STARTING else IDLE_S
        life = self._life(exit_)
        complaint = self.process.clean_up()
        self._ended(str(exit_) if complaint is None else f"{exit_}; {complaint}", life)
        return 0.0

    def _life(self, exit_: Exit) -> Life:
        """The life that is over, even one too short to be seen ready."""
        worked = self.process.worked()
        ready_s = None if self._ready_since_s is None else self._clock.mono_s() - self._ready_since_s
        return Life(ready_s=0.0 if worked and ready_s is None else ready_s, worked=worked, broke=exit_.broke)

    def _stopping(self) -> float:
        if self._forced:
            gone = self.process.stop_step()
        else:
            exit_ = self.process.poll()
            gone = None if exit_ is None else self.process.clean_up() is None
            self._last_exit = str(exit_) if exit_ is not None else self._last_exit
        if gone is None:
            return self._soon()
        reason = self._reason if gone else f"{self._reason}; it cannot be killed: {'; '.join(self.process.leftovers())}"
        if self._wanted:
            self._ended(reason, Life())
        else:
            stopped = f"stopped: {self._why}" if self._why else "stopped"
            self._enter(ChildState.EXITED, stopped if gone else reason)
            (log.info if gone else log.error)("%s %s", self.process.name, self._reason)
        return 0.0

    def _force(self, reason: str) -> None:
        self._forced = True
        self._soon_s = SOON_S
        self._enter(ChildState.STOPPING, reason)
        self.process.stop()

    def _ended(self, how: str, life: Life) -> None:
        """A life that was wanted is over: plan the next one."""
        now_s = self._clock.mono_s()
        self._forced = False
        self._last_exit = how
        if self._again:
            self._again, self._ready_since_s = False, None
            self._record = RestartRecord(restarts=self._record.restarts + 1, due_s=now_s)
            self._enter(ChildState.BACKOFF, "about to start, as asked")
            return
        self._record = after_end(self._record, life, now_s=now_s, policy=self._policy)
        self._ready_since_s = None
        wait_s = self._record.due_s - now_s
        if self._record.quarantined:
            self._enter(ChildState.QUARANTINED, f"{self._record.never_ready} starts never got ready; last: {how}")
            wait_s = self._write_down(wait_s)
            log.error("%s quarantined, tried again in %.0f s: %s", self.process.name, wait_s, self._reason)
        else:
            self._enter(ChildState.BACKOFF, how)
            log.warning("%s ended: %s; next start in %.0f s", self.process.name, how, wait_s)

    def _write_down(self, wait_s: float) -> float:
        """Put a quarantine on record; returns how long it lasts."""
        if self._book is None:
            return wait_s
        try:
            self._book.enter(self._reason)
        except OSError as error:
            log.warning("the quarantine of %s cannot be recorded: %s", self.process.name, error.strerror)
            self._book = None  # or it would count as over at once
            return wait_s
        return self._left_s()

    def _enter(self, state: ChildState, reason: str) -> None:
        self.state = state
        self._reason = reason
        self._since = self._clock.iso()

    def _soon(self) -> float:
        soon_s, self._soon_s = self._soon_s, min(self._soon_s * 1.5, SOON_MAX_S)
        return soon_s
