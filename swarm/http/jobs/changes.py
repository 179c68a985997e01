"""The verbs of the swarm's API. Each answers with the document of its command, and does twice what it does once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from swarm.errors import InputError, LockHeld, QueueError, StorageFault, UnknownBatch, UnknownName, UnknownTask
from swarm.http.answers import ApiError, json_answer
from swarm.http.jobs.queries import CancelBatch, CancelTask, PauseTarget, RestartProcess
from swarm.http.operations import body_of
from swarm.http.parts import HttpParts
from swarm.plain_text import one_line
from swarm.supervisor.restarts import restart
from swarm.views.node_drains import change_drain
from swarm.views.verbs import (
    Restarted,
    TaskDone,
    TasksChanged,
    cancel_batch,
    cancel_task,
    cards_released,
    release_cards,
    retry_batch,
    retry_task,
)

MOST_RESTARTS = 8
"""At once: each waits until its process is back."""

Done = TypeVar("Done")


class Changes:
    """Handlers, named as their operations are."""

    def __init__(self, parts: HttpParts) -> None:
        self._settings = parts.settings
        self._queue = parts.queue
        self._log = parts.log
        self._restarts = anyio.CapacityLimiter(MOST_RESTARTS)

    async def cancel_task(self, request: Request) -> Response:
        """`swarm queue cancel`."""
        task_id = request.path_params["task_id"]
        asked = await body_of(request, CancelTask, otherwise=CancelTask())
        done = await _done(lambda: cancel_task(self._queue, task_id, asked.reason))
        return self._changed(request, _one(done))

    async def retry_task(self, request: Request) -> Response:
        """`swarm queue retry`."""
        task_id = request.path_params["task_id"]
        return self._changed(request, _one(await _done(lambda: retry_task(self._queue, task_id))))

    async def cancel_batch(self, request: Request) -> Response:
        """`swarm batch cancel`."""
        batch_id = request.path_params["batch_id"]
        asked = await body_of(request, CancelBatch, otherwise=CancelBatch())
        return self._changed(request, await _done(lambda: cancel_batch(self._queue, batch_id, asked.reason)))

    async def retry_batch(self, request: Request) -> Response:
        """`swarm batch retry-failed`."""
        batch_id = request.path_params["batch_id"]
        return self._changed(request, await _done(lambda: retry_batch(self._queue, batch_id)))

    async def pause(self, request: Request) -> Response:
        """`swarm queue pause`."""
        kind, name = (await body_of(request, PauseTarget)).chosen()
        return self._changed(request, await _done(lambda: self._queue.pause(kind, name)))

    async def resume(self, request: Request) -> Response:
        """`swarm queue resume`."""
        kind, name = (await body_of(request, PauseTarget)).chosen()
        left, _ended = await _done(lambda: self._queue.resume(kind, name))
        return self._changed(request, left)

    async def drain_node(self, request: Request) -> Response:
        """`swarm nodes drain`."""
        return await self._drain(request, drain=True)

    async def resume_node(self, request: Request) -> Response:
        """`swarm nodes resume`."""
        return await self._drain(request, drain=False)

    async def _drain(self, request: Request, *, drain: bool) -> Response:
        name = request.path_params["name"]
        return self._changed(request, await _done(lambda: change_drain(self._settings, [name], drain=drain)))

    async def release_cards(self, request: Request) -> Response:
        """`swarm workers release`."""
        name = request.path_params["name"]
        freed = await _done(lambda: release_cards(self._settings, [name]))
        return self._changed(request, cards_released(freed))

    async def restart(self, request: Request) -> Response:
        """`swarm restart`: answers once the process is back."""
        name = request.path_params["name"]
        asked = await body_of(request, RestartProcess, otherwise=RestartProcess())

        def act() -> Restarted:
            return Restarted(restarted=tuple(restart(self._settings, [name], now=asked.now)))

        return self._changed(request, await anyio.to_thread.run_sync(act, limiter=self._restarts))

    def _changed(self, request: Request, document: object) -> Response:
        self._log.info("%s %s", request.method, one_line(request.url.path))
        return json_answer(document)


async def _done(act: Callable[[], Done]) -> Done:
    """What it gives. Raises ``ApiError`` 409 where the state of things forbids it, else what it raises."""
    try:
        return await run_in_threadpool(act)
    except (UnknownTask, UnknownBatch, UnknownName, LockHeld, StorageFault):
        raise
    except (QueueError, InputError) as problem:
        raise ApiError(409, problem.message, code="conflict", hint=problem.hint) from problem


def _one(done: TaskDone) -> TasksChanged:
    return TasksChanged(done=(done,), refused=())
