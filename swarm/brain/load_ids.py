"""Which id a load task gets: a deterministic one, so that the same load is not asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Container

from swarm.runtime.ports import Clock

_MAX_AGAIN = 99


class LoadIds:
    """Remembers since when an id is refused; for one thread."""

    def __init__(self, exists: Callable[[str], bool], clock: Clock, *, believe_s: float) -> None:
        """``exists(task id)``: in any state; ``believe_s``: how old what a worker says of itself may be."""
        self._exists = exists
        self._clock = clock
        self._believe_s = believe_s
        self._refused_s: dict[str, float] = {}

    def free(self, task_id: str) -> str | None:
        """The id to use; None while an existing task of that id may still become visible as done.

        Right after a load ended, the heartbeat that says so may be a period old. An id that stays used beyond that
        belongs to a load that was withdrawn or cancelled before it ran, and the deficit has come back: number it on.
        """
        if not self._exists(task_id):
            return task_id
        now_s = self._clock.mono_s()
        if now_s - self._refused_s.setdefault(task_id, now_s) < self._believe_s:
            return None
        again = (f"{task_id}-{n}" for n in range(2, _MAX_AGAIN + 1))
        return next((i for i in again if not self._exists(i)), None)

    def forget_but(self, task_ids: Container[str]) -> None:
        """Of all others nothing needs to be remembered."""
        self._refused_s = {i: s for i, s in self._refused_s.items() if i in task_ids}
