"""Which tasks each blocked one still waits for, which of them failed it and how, and who waits for whose end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from swarm.queue.brain.blocked_entry import Entry
from swarm.queue.brain.completions import Endings, HowEnded
from swarm.queue.layout import Layout


class Dependencies:
    """Of the blocked files, by name; for one thread."""

    def __init__(
        self, layout: Layout, endings: Endings, blocked: Mapping[str, Entry], awaited: Callable[[str], bool]
    ) -> None:
        """``blocked``: the files that are there; ``awaited(task id)``: whether anything else waits for that end, too."""
        self._endings = endings
        self._blocked = blocked
        self._awaited = awaited
        self._how = HowEnded(layout)
        self._open: dict[str, set[str]] = {}
        self._failed: dict[str, str] = {}
        self._dependents: dict[str, set[str]] = {}

    def add(self, entry: Entry) -> None:
        """A blocked file: looks up what it depends on, and asks to be told of what has not ended."""
        for wanted in entry.depends_on:
            completed = self._endings.ended(wanted)
            if completed is None:
                self._open.setdefault(entry.name, set()).add(wanted)
                self._dependents.setdefault(wanted, set()).add(entry.name)
                self._endings.watch(wanted)
            elif not completed and not entry.runs_anyway:
                self._failed.setdefault(entry.name, wanted)

    def drop(self, name: str) -> None:
        """It is not blocked any more; ends that nobody else waits for are followed no longer."""
        for wanted in self._open.pop(name, ()):
            self._dependents[wanted].discard(name)
            self._forget_if_unwanted(wanted)
        self._failed.pop(name, None)

    def note_end(self, task_id: str, *, completed: bool) -> Collection[str]:
        """A task has ended; names of the files that waited for it."""
        self._how.forget(task_id)
        names = self._dependents.pop(task_id, set())
        for name in names:
            self._open[name].discard(task_id)
            if not completed and not self._blocked[name].runs_anyway:
                self._failed.setdefault(name, task_id)
        return names

    def met(self, name: str) -> bool:
        """Whether it waits for no task, whether these completed or not."""
        return not self._open.get(name)

    def failed(self, name: str) -> str | None:
        """The id of a task that did not complete, for which it must not run."""
        return self._failed.get(name)

    def failed_how(self, name: str) -> str:
        """In what way that task did not complete, and why."""
        return self._how.of(self._failed.get(name))

    def waiting_for(self, entry: Entry) -> tuple[str, ...]:
        """Ids of what has not ended, as its ``depends_on`` has them."""
        open_ids = self._open.get(entry.name, ())
        return tuple(wanted for wanted in entry.depends_on if wanted in open_ids)

    def _forget_if_unwanted(self, task_id: str) -> None:
        if not self._dependents.get(task_id):
            self._dependents.pop(task_id, None)
            if not self._awaited(task_id):
                self._endings.forget(task_id)
