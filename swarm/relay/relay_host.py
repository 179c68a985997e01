"""Keeps the model servers of a relay, and ends them with it: the loop of its main thread.

* Its end is asked for by a signal, by the end of the process that started it (``watch_fd``), or comes by itself when nobody
  has asked it anything for the lease. Then requests are cut, servers end, and the process last. A second signal: at once.
* After a crash the servers go on: the next relay adopts them, or the guard ends them.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from swarm.core.faults import TaskFault
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER, SERVER_MARKER, kill_marked
from swarm.relay.relay_guard import GuardProcess
from swarm.runtime.logging import LogOnce
from swarm.runtime.loop import StopWish
from swarm.supervisor import restarts
from swarm.supervisor.keeper import Keeper, Waker
from swarm.supervisor.state import ChildState
from swarm.supervisor.what_runs import trim_logs

TICK_S, SOON_S = 1.0, 0.05
TRIM_S = 60.0
FROZEN_S = 5.0
"""Between two ticks: the process, or its machine, was stopped meanwhile."""


class KeptCard(Protocol):
    """What is kept of one card."""

    keeper: Keeper | None
    """Of its Ollama server; None where it has none."""

    def close(self, *, leave: bool) -> None:
        """End its other processes, or ``leave`` them to the next life. Raises ``TaskFault``."""
        ...


class RelayHost:
    """Fits ``loop.Actor``."""

    def __init__(
        self,
        root: Path,
        cards: Mapping[str, KeptCard],
        guard: GuardProcess,
        waker: Waker,
        *,
        quiet_s: Callable[[], float],
        hang_up: Callable[[], None],
        root_trouble: Callable[[], str],
        lease_s: float | None,
        watch_fd: int | None,
        log: logging.Logger,
    ) -> None:
        """``quiet_s``: since anybody has asked anything. ``hang_up`` ends the HTTP side, requests that run included.

        ``root_trouble``: why its directory is no longer what it was; empty while it is.
        """
        self.title = "Relay"
        self.finished = False
        self.wish = StopWish(waker.wake)
        self._root = root
        self._cards = cards
        self._guard = guard
        self._waker = waker
        self._quiet_s = quiet_s
        self._hang_up = hang_up
        self._lease_s = lease_s
        self._watch_fd = watch_fd
        self._log = log
        self._troubles = LogOnce(log)
        self._root_trouble = root_trouble
        self._ending = self._forced = False
        self._closing: list[threading.Thread] = []
        self._looked_s = self._thawed_s = time.monotonic()
        self._left: list[str] = []
        self._trim_at_s = 0.0
        self.leftovers: tuple[str, ...] = ()
        """What could not be ended, in words; known once it has finished."""

    @property
    def _keepers(self) -> Sequence[Keeper]:
        return [card.keeper for card in self._cards.values() if card.keeper is not None]

    def step(self) -> float:
        """One tick; returns the seconds until the next."""
        why = "" if self._ending else self._why_end()
        if why:
            self._begin_end(why)
        if self._ending and self.wish.urgency > 1 and not self._forced:
            self._force()
        if not self._ending:
            self._troubles.tried("the guard", self._guard.keep_up, None)
            self._troubles.tried("requests to restart", self._carry_out, None)
        if time.monotonic() >= self._trim_at_s:
            self._trim_at_s = time.monotonic() + TRIM_S
            self._troubles.tried("logs", lambda: trim_logs(self._root), None)
        pause_s = min((keeper.step() for keeper in self._keepers), default=TICK_S)
        if self._ending and self._all_ended():
            self.leftovers = (*self._left, *(one for keeper in self._keepers for one in keeper.process.leftovers()))
            self.finished = True
        return min(pause_s, SOON_S if self._closing else TICK_S)

    def wait(self, timeout_s: float) -> None:
        """Until a server ends or gets ready, an end is asked for, or ``timeout_s`` has passed."""
        fds = [keeper.watch_fd for keeper in self._keepers]
        self._waker.wait(timeout_s, fds if self._ending else (*fds, self._watch_fd))

    def close(self) -> None:
        """Log an orderly end."""
        self._guard.release()
        self._log.info("%s shutting down", self.title)

    def abandon(self) -> None:
        """After a crash: the servers go on; the next relay adopts them, or the guard ends them."""
        for card in self._cards.values():
            card.close(leave=True)
        for keeper in self._keepers:
            keeper.process.close()

    def _why_end(self) -> str:
        if self.wish.urgency:
            return "asked to stop"
        if self._watch_fd is not None and _has_ended(self._watch_fd):
            return "the process that started it has ended"
        if self._lease_s is not None and self._quiet() > self._lease_s:
            return f"nobody has asked it anything for {self._lease_s:g} s"
        return self._root_trouble()

    def _quiet(self) -> float:
        """Seconds of silence that count: while this process was frozen nobody could ask it."""
        now_s = time.monotonic()
        if now_s - self._looked_s > FROZEN_S:
            self._thawed_s = now_s
        self._looked_s = now_s
        return min(self._quiet_s(), now_s - self._thawed_s)

    def _begin_end(self, why: str) -> None:
        self._ending = True
        self._log.info("Relay ends: %s", why)
        self._hang_up()
        for keeper in self._keepers:
            keeper.stop()
        for name, card in self._cards.items():
            self._closing.append(threading.Thread(target=self._close, args=(name, card), name=f"close-{name}"))
            self._closing[-1].start()

    def _close(self, name: str, card: KeptCard) -> None:
        try:
            card.close(leave=False)
        except (TaskFault, OSError) as fault:
            self._log.error("%s: %s", name, fault)
            self._left.append(f"{name}: {fault}")
        self._waker.wake()

    def _all_ended(self) -> bool:
        closed = not any(one.is_alive() for one in self._closing)
        return closed and all(keeper.state is ChildState.EXITED for keeper in self._keepers)

    def _force(self) -> None:
        self._forced = True
        self._log.warning("Relay ends at once, as asked a second time")
        for name in self._cards:
            for marker in (SERVER_MARKER, MODEL_MARKER):
                kill_marked(0.0, **{ROOT_MARKER: str(self._root), marker: name})

    def _carry_out(self) -> None:
        restarts.carry_out(self._root, self._keepers, others=True)


def _has_ended(fd: int) -> bool:
    """Whether the far end of a pipe is closed; what else comes through it means nothing."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0)) and not os.read(fd, 4096)
