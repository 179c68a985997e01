"""Results of tasks for Python programs, as they finish or in the items' order.

Waiting works while a swarm runs on the queue root.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Self

import msgspec

from swarm.cli.run.hosting import Hosting, LifeWatch
from swarm.cli.run.servable import ServableWatch, does_not_fit
from swarm.config.settings import Settings
from swarm.core.task import canonical_model
from swarm.errors import UnknownTask
from swarm.queue import lookup
from swarm.queue.batches.batch_watch import ShardWatch
from swarm.queue.layout import Layout

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.1
LOOK_SHARE = 20
"""A look that costs long is taken seldom: at most one part in so many of the time goes into looking."""
SAMPLED = 200
"""Tasks whose models are looked up when nothing ends."""


class Alive(LifeWatch):
    """Checks now and then that a swarm still works, and can work on what is left."""

    def __init__(self, settings: Settings, host: Hosting) -> None:
        super().__init__(settings, host, "ask again")
        self._servable = ServableWatch(settings)

    def moved(self) -> None:
        """Note that a task has ended."""
        self._servable.moved()

    def check_servable(self, models: Callable[[], Collection[str]]) -> None:
        """Raises ``ModelDoesNotFit`` when all that is left is for models that no worker can serve; the tasks stay."""
        reasons = self._servable.look(models)
        if reasons:
            raise does_not_fit(reasons)


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


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens; 0 where a task has none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How one task ended."""

    task_id: str
    text: str
    """The answer (of a program: its standard output); empty where there is none."""
    usage: Usage
    document: dict[str, Any]
    """Everything that is on record: the task, its result, its attempts, its error."""
    ok: bool
    error: str | None
    """``type: message`` of what went wrong; None if nothing did."""
    simulated: bool
    """The answer comes from a simulated model server."""
    cached: bool = False
    """The answer was given before and comes from the cache; tokens and times are those of then."""
    index: int | None = None
    """The item's place in what was given to ``map``, from 0."""

    @property
    def embeddings(self) -> list[list[float]]:
        """Vectors of an embedding task, one per input; empty for others."""
        vectors: list[list[float]] = (self.document.get("result") or {}).get("embeddings") or []
        return vectors

    def json(self) -> Any:  # noqa: ANN401 - whatever the model wrote
        """The text read as JSON. Raises ``ValueError`` when it is none."""
        return msgspec.json.decode(self.text)


def result_of(document: dict[str, Any], index: int | None = None) -> Result:
    """The result in a finished document."""
    ok = document["status"] == "completed"
    found = document.get("result")
    result: Mapping[str, Any] = found if isinstance(found, dict) else {}
    usage = result.get("usage") or {}
    return Result(
        task_id=document["task_id"],
        text=_text(result),
        usage=Usage(**{name: int(usage.get(name) or 0) for name in Usage.__struct_fields__}),
        document=document,
        ok=ok,
        error=None if ok else _error(document),
        simulated=bool(document.get("simulated")),
        cached=bool(document.get("cached")),
        index=index,
    )


def _text(result: Mapping[str, Any]) -> str:
    message = result.get("message") or {}
    return str(message.get("content") or result.get("response") or result.get("stdout") or "")


def _error(document: Mapping[str, Any]) -> str:
    error = document.get("error") or {}
    return f"{error.get('type', document['status'])}: {error.get('message', 'no reason was recorded')}"


class Results(Iterator[Result]):
    """Iterate once: results as they finish. Memory: the ids; documents are read one at a time."""

    def __init__(self, layout: Layout, batch_id: str, task_ids: list[str], alive: Alive) -> None:
        self.batch_id = batch_id
        """For ``swarm batch show``, ``swarm results``, and for calling ``map`` again with ``batch=`` to go on."""
        self._layout = layout
        self._ids = task_ids
        self._alive = alive
        self._stream: Iterator[Result] | None = None

    def __repr__(self) -> str:
        return f"<Results {self.batch_id}: {len(self._ids)} items>"

    def __len__(self) -> int:
        """How many items there are."""
        return len(self._ids)

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> Result:
        """The next that finished. Raises ``EngineError`` or ``NotRunning`` when no swarm works on it any more."""
        if self._stream is None:
            self._stream = self._finished()
        return next(self._stream)

    def ordered(self) -> Iterator[Result]:
        """The same in the order of the items: each as soon as it and all before it have ended."""
        ended: set[str] = set()
        arriving = as_ended(self._layout, self._ids, self._alive, None)
        for index, task_id in enumerate(self._ids):
            while task_id not in ended:
                ended.add(next(arriving))
            ended.discard(task_id)
            yield read_result(self._layout, task_id, index)

    def _finished(self) -> Iterator[Result]:
        places = {task_id: index for index, task_id in enumerate(self._ids)}
        for task_id in as_ended(self._layout, self._ids, self._alive, None):
            yield read_result(self._layout, task_id, places[task_id])


def read_result(layout: Layout, task_id: str, index: int | None = None) -> Result:
    """The result of a task that has ended. Raises ``UnknownTask`` if its record was removed since, ``QueueError``."""
    document = lookup.read_result(layout, task_id)
    if document is None:
        raise UnknownTask(
            f"the record of task {task_id} is missing", hint="was it purged, or retried with `swarm queue retry`?"
        )
    return result_of(document, index)
