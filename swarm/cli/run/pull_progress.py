"""Progress of downloads on standard error: one bar each on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from swarm.core.models.model_server import PullStep
from swarm.plain_text import one_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 5.0
_MIB = 1 << 20


class PullBars:
    """All downloads of one command. Use it as a context manager; its bars may be moved from any thread."""

    def __init__(self) -> None:
        self._shown: Progress | None = None

    def bar(self, title: str) -> PullBar:
        """For one download."""
        return PullBar(title, self._shown)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            text = progress.TextColumn("{task.description}", markup=False)
            numbers = progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn()
            console = Console(stderr=True)
            self._shown = progress.Progress(text, progress.BarColumn(), *numbers, console=console, transient=True)
            self._shown.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown is not None:
            self._shown.stop()


class PullBar:
    """One download; its layers are summed up. Moved by one thread."""

    def __init__(self, title: str, shown: Progress | None) -> None:
        self._title = title
        self._layers: dict[str, tuple[int, int]] = {}
        self._status = ""
        self._said_s = 0.0
        self._shown = shown
        self._task: TaskID | None = shown.add_task(one_line(title), total=None) if shown is not None else None

    @property
    def total_mib(self) -> int:
        """Of all layers heard of so far."""
        return self._sums()[0] // _MIB

    def step(self, step: PullStep) -> None:
        """One line from the server."""
        if step.digest and step.total:
            self._layers[step.digest] = (step.total, step.completed)
        changed = step.status != self._status
        self._status = step.status
        if self._shown is not None and self._task is not None:
            total, done = self._sums()
            words = one_line(f"{self._title}: {step.status}")
            self._shown.update(self._task, total=total or None, completed=done, description=words)
        elif changed or time.monotonic() - self._said_s > LINE_EVERY_S:
            self._say()

    def failed(self, why: str) -> None:
        """It has ended without the model."""
        if self._shown is not None and self._task is not None:
            self._shown.update(self._task, description=one_line(f"{self._title}: {why}"))
        else:
            _print(f"{self._title}: {why}")

    def _sums(self) -> tuple[int, int]:
        return sum(t for t, _ in self._layers.values()), sum(d for _, d in self._layers.values())

    def _say(self) -> None:
        self._said_s = time.monotonic()
        total, done = self._sums()
        share = f", {done / _MIB:,.0f} of {total / _MIB:,.0f} MiB ({done / total:.0%})" if total else ""
        _print(f"{self._title}: {self._status}{share}")


_line = threading.Lock()


def _print(text: str) -> None:
    """Whole lines, whoever else prints."""
    with _line:
        print(one_line(text), file=sys.stderr, flush=True)
