"""The progress of a download on standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from swarm.cli.render import clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 5.0
_MIB = 1 << 20


class Step(Protocol):
    """One line of a download's progress; bytes."""

    @property
    def status(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def completed(self) -> int: ...


class PullBar:
    """``step`` is told each line; layers are summed up. Use it as a context manager."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._layers: dict[str, tuple[int, int]] = {}
        self._status = ""
        self._said_s = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @property
    def total_mib(self) -> int:
        """Of all layers heard of so far."""
        return sum(total for total, _ in self._layers.values()) // _MIB

    def step(self, step: Step) -> None:
        """One line from the server."""
        if step.digest and step.total:
            self._layers[step.digest] = (step.total, step.completed)
        changed = step.status != self._status
        self._status = step.status
        if self._bar is not None and self._task is not None:
            total, done = self._sums()
            self._bar.update(
                self._task, total=total or None, completed=done, description=clean(f"{self._model}: {step.status}")
            )
        elif changed or time.monotonic() - self._said_s > LINE_EVERY_S:
            self._say()

    def _sums(self) -> tuple[int, int]:
        return sum(t for t, _ in self._layers.values()), sum(d for _, d in self._layers.values())

    def _say(self) -> None:
        self._said_s = time.monotonic()
        total, done = self._sums()
        share = f", {done / _MIB:,.0f} of {total / _MIB:,.0f} MiB ({done / total:.0%})" if total else ""
        print(clean(f"{self._model}: {self._status}{share}"), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(clean(self._model), total=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
