"""Waiting for tasks to end, for as long as somebody works on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress

from swarm.cli.run.host import Hosting
from swarm.cli.run.unservable import ServableWatch
from swarm.config.settings import Settings
from swarm.core.placement.fit import what_helps
from swarm.core.task import canonical_model
from swarm.errors import EngineError, ModelDoesNotFit, NotRunning, UnknownTask
from swarm.queue import lookup
from swarm.queue.batches.watch import ShardWatch
from swarm.queue.layout import Layout
from swarm.supervisor.main import swarm_lives

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
LOOK_SHARE = 20
"""A look that costs long is taken seldom: at most one part in so many of the time goes into looking."""
LIFE_S = 1.0
GONE_S = 5.0
SAMPLED = 200
"""Tasks whose models are looked up when nothing ends."""


class Alive:
    """Whether anybody works; asked now and then."""

    def __init__(self, settings: Settings, host: Hosting) -> None:
        self._settings = settings
        self._host = host
        self._asked_s = self._seen_s = time.monotonic()
        self._servable = ServableWatch(settings)

    def moved(self) -> None:
        """Something has ended."""
        self._servable.moved()

    def check_servable(self, models: Callable[[], Collection[str]]) -> None:
        """Raises ``ModelDoesNotFit`` when all that is left is for models that no worker can serve; the tasks stay."""
        reasons = self._servable.look(models)
        if reasons:
            raise ModelDoesNotFit("; ".join(reasons.values()), hint=what_helps(next(iter(reasons))))

    def check(self) -> None:
        """Raises ``EngineError`` when the swarm that was started here has ended, ``NotRunning`` when no other is left."""
        now_s = time.monotonic()
        if now_s - self._asked_s < LIFE_S:
            return
        self._asked_s = now_s
        if self._host.ended():
            logs = f"{self._settings.queue.root}/logs/supervisor.log"
            raise EngineError("the swarm has ended; what was done is kept", hint=f"see {logs}")
        if self._host.own is not None or swarm_lives(self._settings):
            self._seen_s = now_s
        elif now_s - self._seen_s > GONE_S:
            raise NotRunning("no swarm is running any more; what was done is kept", hint="`swarm up`, then ask again")


def as_ended(layout: Layout, task_ids: Iterable[str], alive: Alive, timeout_s: float | None) -> Iterator[str]:
    """The ids in the order in which their tasks end. Raises ``TimeoutError``, and what the checks of ``Alive`` raise."""
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    watch = ShardWatch(layout, task_ids)
    pause_s = FIRST_PAUSE_S
    while watch.left:
        began_s = time.monotonic()
        ended = watch.look()
        cost_s = time.monotonic() - began_s
        for task_id, _ in ended:
            yield task_id
        if not watch.left:
            return
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise TimeoutError(f"{watch.left} of the tasks have not ended within {timeout_s:g} s; they go on")
        alive.check()
        if ended:
            alive.moved()
        alive.check_servable(lambda: _models(layout, watch))
        pause_s = FIRST_PAUSE_S if ended else min(pause_s * 2, LONGEST_PAUSE_S)
        wanted_s = max(pause_s, cost_s * LOOK_SHARE)
        time.sleep(wanted_s if deadline_s is None else max(0.0, min(wanted_s, deadline_s - time.monotonic())))


def _models(layout: Layout, watch: ShardWatch) -> set[str]:
    """The models that what is left waits for; the empty name stands for all that is not known, or has none."""
    found = {""} if watch.left > SAMPLED else set[str]()
    for task_id in watch.open_ids(SAMPLED):
        with suppress(UnknownTask):
            model = lookup.read(layout, task_id).get("model")
            found.add(canonical_model(model) if isinstance(model, str) else "")
    return found
