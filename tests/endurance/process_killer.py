"""Finds and kills a running swarm's processes at random, for whoever tries to make it lose something."""

from __future__ import annotations

import random
import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.env_markers import MODEL_MARKER, PROCESS_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked_values


def victims(root: str, kind: str) -> dict[ProcessIdentity, str]:
    """Living processes of this root with their names; ``kind`` is ``server``, ``brain``, ``http``, ``ray``; else workers."""
    marker = {ROOT_MARKER: root}
    if kind == "server":
        return find_marked_values(SERVER_MARKER, **marker) | find_marked_values(MODEL_MARKER, **marker)
    found = find_marked_values(PROCESS_MARKER, **marker)
    others = ("brain", "http", "ray")
    return {who: name for who, name in found.items() if (name == kind if kind in others else name not in others)}


def pick(found: dict[ProcessIdentity, str], dice: random.Random) -> ProcessIdentity:
    """One of them; the same dice and the same processes give the same one."""
    return dice.choice(sorted(found, key=lambda who: who.pid))


def shoot(root: str, kind: str, dice: random.Random) -> bool:
    """SIGKILL one process of a kind; False if there is none just now."""
    found = victims(root, kind)
    return bool(found) and identities.signal(pick(found, dice), signal.SIGKILL)


class Shooter(ABC):
    """Shoots in a thread of its own until it is done or told to stop; ``_run`` says at whom and when."""

    def __init__(self, root: str, dice: random.Random, *, name: str) -> None:
        """``name``: of the thread."""
        self._root = root
        self._dice = dice
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self.hit: Counter[str] = Counter()
        """Shots that killed, by kind."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No shot falls after this returns."""
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """In the thread; returns soon after ``_stop`` is set."""


class Sniper(Shooter):
    """Shoots at random moments, ``shots`` times."""

    def __init__(self, root: str, kinds: Sequence[str], dice: random.Random, *, shots: int, every_s: float) -> None:
        """``every_s`` lies between two shots on average; a kind named more often is hit more often."""
        super().__init__(root, dice, name="sniper")
        self._kinds = kinds
        self._shots = shots
        self._every_s = every_s

    def _run(self) -> None:
        while self.hit.total() < self._shots and not self._stop.wait(self._dice.expovariate(1 / self._every_s)):
            kind = self._dice.choice(self._kinds)
            if shoot(self._root, kind, self._dice):
                self.hit[kind] += 1
