"""Data for ``swarm top``, read in a thread so that keys never wait.

Status, dead letters, and one worker or task in detail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

from swarm.cli.top.screen_state import Look, TopData
from swarm.config.settings import Settings
from swarm.core.health.liveness import workers_of
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import TaskState
from swarm.errors import QueueError, SwarmError, UnknownTask
from swarm.runtime.open import open_observer, open_queue
from swarm.views import explanations
from swarm.views.logs.log_files import ERR, Wanted, history
from swarm.views.logs.task_history import pattern, why
from swarm.views.overview import StatusView, look
from swarm.views.task_rows import TaskRow, task_row
from swarm.views.words import count, duration, plural, rate
from swarm.views.worker_rows import WorkerLine, slots_words

LOG_LINES = 200
FAILED_ROWS = 200
"""Dead letters shown; `swarm queue list failed` has them all."""


class Looker:
    """Looks at one queue again and again; ages grow with each look."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.queue = open_queue(settings)
        self._observer = open_observer(settings, self.queue)

    def look(self, *, failed: bool = False, subject: str = "") -> TopData:
        """Everything once; with dead letters, and with one worker or task in detail, where asked for."""
        settings = self._settings
        snapshot = self._observer.snapshot()
        status = look(settings, self.queue, snapshot)
        return TopData(
            mono_s=time.monotonic(),
            status=status,
            failed=tuple(self._failed()) if failed else (),
            look=self._detail(subject, snapshot, status, brain=status.brain_alive) if subject else None,
        )

    def _failed(self) -> Iterator[TaskRow]:
        for located in islice(self.queue.list(TaskState.FAILED), FAILED_ROWS):
            try:
                document = self.queue.read(located.task_id)
            except QueueError:
                document = None  # retried this moment, or unreadable: what its place says is shown
            yield task_row(located, document)

    def _detail(self, subject: str, snapshot: SwarmSnapshot, status: StatusView, *, brain: bool) -> Look:
        view = next((w for w in workers_of(snapshot) if w.name == subject), None)
        if view is not None:
            found = explanations.worker(view, snapshot, self._settings, brain=brain)
            facts = tuple(_worker_facts(subject, status))
            return Look(subject=subject, kind="worker", explanation=found, facts=facts, log=self._log((subject,), Wanted()))
        try:
            document = self.queue.read(subject)
            found = explanations.task(document, snapshot, self._settings, brain=brain)
        except UnknownTask:
            return Look(subject=subject, kind="task", missing=f"there is no task or worker {subject} any more")
        except SwarmError as problem:
            return Look(subject=subject, kind="task", missing=problem.message)
        log = self._log((), Wanted(pattern=pattern(subject)))
        return Look(subject=subject, kind="task", explanation=found, facts=tuple(_task_facts(document)), log=log)

    def _log(self, names: tuple[str, ...], wanted: Wanted) -> tuple[str, ...]:
        """The last lines of these logs (all, if none are named) that are wanted."""
        chosen = [part for name in names for part in (name, f"{name}{ERR}")]
        entries = history(f"{self._settings.queue.root}/logs", chosen, wanted, LOG_LINES, rotated=False)
        return tuple(line for entry in entries for line in entry.lines)[-LOG_LINES:]


def _worker_facts(name: str, status: StatusView) -> Iterator[str]:
    row = next(w for w in status.workers if w.name == name)
    where = f"GPU {','.join(map(str, row.gpus))}" if row.gpus else "no GPU"
    where += f" of node {row.node}" if row.node else ""
    yield f"{where}, {row.url or 'no model server'}, pid {row.pid or '-'}, since {row.started_at or '-'}"
    yield f"model {row.model or '-'}, {row.completed:,} done, {row.failed:,} failed, {count(row.tokens_out)} tokens"
    if row.live_in_flight or row.yielded:
        live = f"live requests {row.live_in_flight} of at most {row.live_limit}"
        yield f"{live}, {plural(row.yielded, 'batch request')} gave way to such"
    yield from _gave_facts(row)
    for task in status.active:
        if task.worker == name:
            words = f"{task.task_id} attempt {task.attempt}, for {duration(task.elapsed_s)}, {count(task.progress)} tokens"
            yield f"task {words}{', stuck' if task.stuck else ''}"


def _gave_facts(row: WorkerLine) -> Iterator[str]:
    """What it gave in the last minute; nothing where that is not known."""
    if row.tokens_per_s is not None or row.tokens_in_per_s is not None:
        share = "" if row.share_of_best is None else f", {row.share_of_best:.0%} of the best of its card"
        yield f"last minute: tokens {rate(row.tokens_in_per_s)} in {rate(row.tokens_per_s)} out{share}"
    if row.slots_history:
        yield f"tokens/s by requests at once: {slots_words(row.slots_history)}"
    if row.power_w is not None:
        per_1k = "" if row.j_per_1k_tokens is None else f", {count(row.j_per_1k_tokens)} J per 1,000 tokens"
        yield f"power {row.power_w:.0f}W{per_1k}{' (simulated)' if row.simulated else ''}"


def _task_facts(document: dict[str, Any]) -> Iterator[str]:
    names = ("task_class", "model", "action", "name", "batch_id", "priority", "created_at", "completed_at")
    yield ", ".join(f"{name} {document[name]}" for name in names if document.get(name) is not None)
    for one in document.get("attempts") or ():
        yield f"attempt {one.get('attempt')} on {one.get('worker')}, {one.get('outcome', 'completed')}{why(one)}"


class LookingThread:
    """Looks every ``interval_s`` and when asked; ``wake`` is called after each look. ``take`` hands the last one over."""

    def __init__(self, settings: Settings, interval_s: float, *, wake: Callable[[], object]) -> None:
        self._looker = Looker(settings)
        self._interval_s = interval_s
        self._wake = wake
        self._again = threading.Event()
        self._ended = False
        self._failed = False
        self._subject = ""
        self._last: TopData | None = None
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="looking", daemon=True)

    def want(self, *, failed: bool, subject: str) -> None:
        """What else to look at; looks at once."""
        self._failed, self._subject = failed, subject
        self._again.set()

    def take(self) -> TopData | None:
        """The last look, None before the first. Raises what the looking ended with."""
        if self._problem is not None:
            raise self._problem
        return self._last

    def retry(self, task_id: str) -> str:
        """Put it back; what was done. Raises ``QueueError``."""
        return f"{task_id} is back in lane {self._looker.queue.retry(task_id)}"

    def cancel(self, task_id: str) -> str:
        """Cancel it; what was done. Raises ``QueueError``."""
        done = self._looker.queue.cancel(task_id, "cancelled by hand in swarm top")
        return f"{task_id}: {'its worker was asked to stop it' if done == 'asked' else done}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = True
        self._again.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._ended:
            started_s = time.monotonic()
            try:
                self._last = self._looker.look(failed=self._failed, subject=self._subject)
            except Exception as problem:  # noqa: BLE001  (raised in the thread that shows it)
                self._problem = problem
                self._ended = True
            self._wake()
            self._again.wait(max(0.0, self._interval_s - (time.monotonic() - started_s)))
            self._again.clear()
