"""Ends the model servers of a relay that was killed, unless its next life takes them over.

* A process of its own, ``python -m swarm.relay.relay_guard ROOT CARD...``, whose standard input is a pipe that the relay
  holds: its end is the relay's, however that comes.
* Then it ends what runs on a card whose process lock nobody has held for ``TAKE_OVER_S``, with the lock in its own hands,
  so that no relay starts meanwhile; a card whose lock somebody has held for so long is the next life's, with its own guard.
  No single look counts: a dying relay may hold its locks a moment longer than the pipe. Looks are counted, not seconds: the
  time in which the guard itself stood still tells nothing.
* When the guard itself is killed, the relay starts another one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from swarm.proc.env_markers import MODEL_MARKER, PROCESS_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked_values, kill_marked
from swarm.queue.coordination import ProcessLock, is_held
from swarm.queue.layout import Layout

NAME = "relay-guard"
TAKE_OVER_S = 15.0
AGAIN_S = 1.0
_POLL_S = 0.2
_GRACE_S = 2.0


class GuardProcess:
    """The relay's side of it."""

    def __init__(self, root: Path, cards: tuple[str, ...]) -> None:
        self._argv = [sys.executable, "-P", "-m", __name__, str(root), *cards]
        self._errors = root / "logs" / f"{NAME}.err"
        self._env = {**os.environ, PROCESS_MARKER: NAME, ROOT_MARKER: str(root)}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = float("-inf")

    @property
    def pid(self) -> int | None:
        """Of the guard, while there is one."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def keep_up(self) -> None:
        """Start it unless it runs; at most once a second. Raises ``OSError``."""
        now_s = time.monotonic()
        if self.pid is not None or now_s - self._started_s < AGAIN_S:
            return
        self.release()
        self._started_s = now_s
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # a terminal's Ctrl-C is for the relay
            )

    def release(self) -> None:
        """Let it go: it ends by itself once nothing is left to be guarded, or another relay guards it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.poll()


def main(words: list[str]) -> int:
    """The guard's process."""
    root, *cards = words
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    seen: dict[str, tuple[bool, int]] = {}
    while left := _running(root) & set(cards):
        for card in left:
            held = is_held(Layout(root), card)
            before, looks = seen.get(card, (held, 0))
            seen[card] = held, looks + 1 if held == before else 1
            if seen[card][1] * _POLL_S > TAKE_OVER_S and (held or _end(root, card)):
                cards.remove(card)
        time.sleep(_POLL_S)
    return 0


def _running(root: str) -> set[str]:
    """Cards whose model servers run."""
    found = (find_marked_values(marker, **{ROOT_MARKER: root}) for marker in (SERVER_MARKER, MODEL_MARKER))
    return {card for processes in found for card in processes.values()}


def _end(root: str, card: str) -> bool:
    """End what runs on it. False: somebody has just taken its lock, or something would not die."""
    lock = ProcessLock(Layout(root), card)
    if not lock.try_acquire():
        return False
    try:
        left = [kill_marked(_GRACE_S, **{ROOT_MARKER: root, marker: card}) for marker in (SERVER_MARKER, MODEL_MARKER)]
        return not any(left)
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
