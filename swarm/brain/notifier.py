"""Delivers notifications of ended tasks and batches, in a loop of its own.

It runs beside the brain's loop and never delays it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import msgspec

from swarm.core.backoff import doubled_s
from swarm.core.faults import DeliveryFailed
from swarm.core.notification import Note
from swarm.errors import QueueError
from swarm.runtime.logging import LogOnce

LOOK_S = 1.0
BASE_S = 2.0
CAP_S = 600.0
DOWN_CAP_S = 60.0
"""Longest time for which a target that was down is not asked at all."""
CLOCK_SLACK_S = 1.0
"""A next try that lies further ahead than any was set is due: the clock was set back."""
LAST_S = 5.0
"""How long the brain's end waits for a delivery under way."""
ORPHAN_TRIES = 600
"""Looks after which a note whose subject is nowhere is dropped: its submission was cut off."""


class Notes(Protocol):
    """The outbox."""

    def waiting(self) -> Sequence[Note]: ...
    def message(self, note: Note) -> Mapping[str, Any] | None: ...
    def enqueue(self, note: Note) -> None: ...
    def done(self, note: Note) -> None: ...
    def give_up(self, note: Note) -> None: ...
    def exists(self, note: Note) -> bool: ...


def delay_s(tries: int, cap_s: float = CAP_S) -> float:
    """Seconds until the next try, after so many failed ones (from 1)."""
    return doubled_s(BASE_S, tries - 1, cap_s)


class Targets:
    """Which targets were down when last asked. One that hangs would hold up all others, were it asked for each message.

    While it is down, a message for it fails unasked; when it is up again, all that failed meanwhile is due at once.
    """

    def __init__(self, deliver: Callable[[str, Mapping[str, Any]], None], now_s: Callable[[], float]) -> None:
        self._deliver = deliver
        self._now_s = now_s
        self._down: dict[str, tuple[int, float, str]] = {}
        self._up_s: dict[str, float] = {}

    def tell(self, target: str, message: Mapping[str, Any], *, anyway: bool) -> None:
        """Raises ``DeliveryFailed``; ``anyway``: only once it has asked."""
        failures, until_s, why = self._down.get(target, (0, 0.0, ""))
        if not anyway and self._now_s() < until_s:
            raise DeliveryFailed(why, down=True)
        try:
            self._deliver(target, message)
        except DeliveryFailed as failure:
            if failure.down:
                now_s = self._now_s()  # after what may have been a long wait
                self._down[target] = (failures + 1, now_s + delay_s(failures + 1, DOWN_CAP_S), str(failure))
            raise
        if self._down.pop(target, None) is not None:
            self._up_s[target] = self._now_s()

    def is_due(self, note: Note) -> bool:
        """Whether a note is due, or a target has recovered since it failed."""
        if not 0 < note.next_s - self._now_s() <= delay_s(note.tries) + CLOCK_SLACK_S:
            return True
        failed_s = note.next_s - delay_s(note.tries)
        return any(self._up_s.get(target, failed_s) > failed_s for target in note.targets)


class Notifier:
    """One ``step`` looks at every note once."""

    def __init__(
        self,
        notes: Notes,
        deliver: Callable[[str, Mapping[str, Any]], None],
        *,
        max_tries: int,
        log: logging.Logger,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``deliver`` raises ``DeliveryFailed``."""
        self._notes = notes
        self._targets = Targets(deliver, now_s)
        self._max_tries = max_tries
        self._log = log
        self._now_s = now_s
        self._unseen: dict[str, int] = {}
        self._troubles = LogOnce(log)

    def step(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Deliver what can be delivered now. Raises ``QueueError`` when the disk refuses."""
        for note in self._notes.waiting():
            if stopping():
                return
            if self._targets.is_due(note):
                self._troubles.tried(f"notifying of the end of {note.subject} {note.id}", partial(self._see_to, note), None)

    def _see_to(self, note: Note) -> None:
        message = self._notes.message(note)
        if message is not None:
            self._unseen.pop(note.name, None)
            self._tell(note, message)
        elif self._is_orphan(note):
            self._log.warning("No notification for %s: there is no such %s", note.id, note.subject)
            self._notes.done(note)

    def _tell(self, note: Note, message: Mapping[str, Any]) -> None:
        left, problems = [], []
        permanent = True
        for target in note.targets:
            try:
                self._targets.tell(target, message, anyway=note.by_hand)
            except DeliveryFailed as failure:
                left.append(target)
                problems.append(str(failure))
                permanent = permanent and failure.permanent
            except Exception as problem:  # noqa: BLE001 - one message that cannot be made must not hold up all others
                self._log.exception("Notifying %s of the end of %s %s crashed", target, note.subject, note.id)
                left.append(target)
                problems.append(f"{type(problem).__name__}: {problem}")
                permanent = False
        if not left:
            self._notes.done(note)
            self._log.info("Notified %d targets of the end of %s %s", len(note.targets), note.subject, note.id)
            return
        tries = note.tries + 1
        wait_s = delay_s(tries)
        later = msgspec.structs.replace(
            note,
            targets=tuple(left),
            tries=tries,
            next_s=self._now_s() + wait_s,
            error="; ".join(problems)[:500],
            message=dict(message) if note.subject == "task" else None,  # a batch may go on again, and ends once more then
            by_hand=False,
        )
        if permanent or tries >= self._max_tries:
            self._notes.give_up(later)
            self._log.error("Could not notify of the end of %s %s: see `swarm notify list`", note.subject, note.id)
            return
        self._notes.enqueue(later)
        self._log.warning("Notification of the end of %s %s failed; retried in %.0fs", note.subject, note.id, wait_s)

    def _is_orphan(self, note: Note) -> bool:
        seen = self._unseen.get(note.name, 0) + 1
        self._unseen[note.name] = seen
        if seen % ORPHAN_TRIES or self._notes.exists(note):
            return False
        del self._unseen[note.name]
        return True


def never() -> bool:
    """Never asks to stop."""
    return False


@contextmanager
def notifying(notifier: Notifier, log: logging.Logger) -> Iterator[None]:
    """Run the notifier in its own thread within the block."""
    stop = threading.Event()

    def loop() -> None:
        said = ""
        while True:
            last = stop.is_set()  # what ended just before is told still, if it does not take long
            try:
                notifier.step(never if last else stop.is_set)
                said = ""
            except (QueueError, OSError) as problem:
                if str(problem) != said:
                    log.warning("Notifications cannot be read: %s", problem)
                said = str(problem)
            except Exception as problem:
                if str(problem) != said:
                    log.exception("Notifying crashed")
                said = str(problem)
            if last:
                return
            stop.wait(LOOK_S)

    # A daemon: a target that does not answer must not hold up the brain's end; what was not told stays noted.
    thread = threading.Thread(target=loop, name="notifier", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LAST_S)
