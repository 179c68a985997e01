"""What the swarm's API tells: the documents of the commands' ``--json``, each made once for all who ask at the same time."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import anyio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from swarm.brain.metrics_endpoint import SwarmCollector, open_metrics
from swarm.brain.metrics_endpoint import text as metrics_text
from swarm.core.snapshot import SwarmSnapshot
from swarm.errors import UnknownName, name_hint
from swarm.http.answers import json_answer
from swarm.http.cached import Cache, Cached
from swarm.http.jobs.log_events import LogEvents
from swarm.http.jobs.queries import MOST_LINES, DoctorQuery, LogQueryParameters, TaskLogQuery, TaskQuery
from swarm.http.jobs.status_events import StatusEvents
from swarm.http.look import SwarmLook
from swarm.http.operations import query_of
from swarm.http.parts import HttpParts
from swarm.views import documents
from swarm.views.batches.batch_documents import BatchDocument, BatchList, batch_document, batch_list
from swarm.views.config_document import ConfigDocument, without_secrets
from swarm.views.doctor.gather import gather
from swarm.views.doctor.report import doctor_report
from swarm.views.documents import ModelList
from swarm.views.logs.log_query import ChosenLogs, LogLines, LogQuery, choose, log_line
from swarm.views.node_rows import node_list
from swarm.views.task_lists import TaskFilter, task_list

BATCHES_FRESH_S = 1.0
BATCH_FRESH_S = 2.0
MODELS_FRESH_S = 5.0
DOCTOR_FRESH_S = 10.0
MOST_BATCHES_KEPT = 64
MOST_SLOW = 4
"""Answers that read many files, made at once; further ones wait."""

Found = TypeVar("Found")


class Reads:
    """Handlers, named as their operations are."""

    def __init__(self, parts: HttpParts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._queue = parts.queue
        self._slow = anyio.CapacityLimiter(MOST_SLOW)
        self._batches: Cache[BatchList] = Cache(lambda: batch_list(self._queue, self._settings), BATCHES_FRESH_S)
        self._batch: dict[str, Cache[BatchDocument]] = {}
        self._doctor = Cache(lambda: gather(self._settings), DOCTOR_FRESH_S)
        self._metrics = Cache(lambda: metrics_text(self._collector), 0.0)  # the collector keeps its look itself
        self._snapshot = SwarmSnapshot()
        self._models: Cache[ModelList] = Cache(lambda: documents.model_list(self._snapshot, self._settings), MODELS_FRESH_S)
        self.status_events = StatusEvents(parts, self._batches)
        self.log_events = LogEvents(parts)

    @cached_property
    def _collector(self) -> SwarmCollector:
        return open_metrics(self._settings)

    async def status(self, _request: Request) -> Response:
        """`swarm status`."""
        seen = await self._look()
        return _aged(seen, seen.value.status)

    async def queue(self, _request: Request) -> Response:
        """`swarm queue stats`."""
        seen = await self._look()
        return _aged(seen, seen.value.status.queue)

    async def active(self, _request: Request) -> Response:
        """`swarm queue active`."""
        seen = await self._look()
        return _aged(seen, documents.active_list(seen.value.snapshot, self._settings))

    async def workers(self, _request: Request) -> Response:
        """`swarm workers`."""
        seen = await self._look()
        return _aged(seen, documents.worker_list(seen.value.snapshot, self._settings))

    async def worker(self, request: Request) -> Response:
        """One of them."""
        seen = await self._look()
        name = request.path_params["name"]
        workers = {line.name: line for line in seen.value.status.workers}
        if name not in workers:
            raise UnknownName(f"there is no worker {name}", hint=name_hint(name, workers))
        return _aged(seen, workers[name])

    async def gpus(self, _request: Request) -> Response:
        """`swarm gpus`."""
        seen = await self._look()
        return _aged(seen, documents.card_list(seen.value.snapshot))

    async def nodes(self, _request: Request) -> Response:
        """`swarm nodes`."""
        seen = await self._look()
        return _aged(seen, await run_in_threadpool(node_list, seen.value.snapshot, self._settings))

    async def models(self, _request: Request) -> Response:
        """`swarm models`."""
        self._snapshot = (await self._look()).value.snapshot
        found = await self._models.get()
        return _aged(found, found.value)

    async def tasks(self, request: Request) -> Response:
        """`swarm queue list`."""
        asked = query_of(request, TaskQuery)
        wanted = TaskFilter(state=asked.state, lane=asked.lane, model=asked.model, batch=asked.batch)
        found = await self._slowly(lambda: task_list(self._queue, wanted, limit=asked.limit, offset=asked.offset))
        return json_answer(found)

    async def task(self, request: Request) -> Response:
        """`swarm queue show`."""
        task_id = request.path_params["task_id"]
        return json_answer(await run_in_threadpool(self._queue.read, task_id))

    async def task_logs(self, request: Request) -> Response:
        """`swarm logs --task ID`."""
        asked = query_of(request, TaskLogQuery)
        task_id = request.path_params["task_id"]
        query = LogQuery(task=task_id, lines=asked.lines, level=asked.level, since=asked.since)
        return json_answer(await self._slowly(lambda: _lines(choose(self._settings, query))))

    async def batches(self, _request: Request) -> Response:
        """`swarm batches`."""
        found = await self._batches.get()
        return _aged(found, found.value)

    async def batch(self, request: Request) -> Response:
        """`swarm batch show`."""
        batch_id = request.path_params["batch_id"]
        cache = self._batch.get(batch_id)
        if cache is None:
            cache = Cache(lambda: batch_document(self._queue, self._settings, batch_id), BATCH_FRESH_S)
        found = await cache.get()  # one that is not there is not kept
        self._batch[batch_id] = cache
        while len(self._batch) > MOST_BATCHES_KEPT:
            del self._batch[next(iter(self._batch))]
        return _aged(found, found.value)

    async def feeds(self, _request: Request) -> Response:
        """`swarm feeds`."""
        return json_answer(await run_in_threadpool(documents.feed_list, self._queue))

    async def explain(self, request: Request) -> Response:
        """`swarm explain`."""
        target = request.path_params["target"]
        snapshot = (await self._look()).value.snapshot
        return json_answer(await self._slowly(lambda: documents.explain(target, snapshot, self._settings, self._queue)))

    async def doctor(self, request: Request) -> Response:
        """`swarm doctor`."""
        asked = query_of(request, DoctorQuery)
        found = await self._doctor.get()
        report = doctor_report(found.value, self._settings, file=self._parts.config_file, worker=asked.worker)
        return _aged(found, report)

    async def logs(self, request: Request) -> Response:
        """`swarm logs`, and with ``follow`` `swarm logs --follow`."""
        asked = query_of(request, LogQueryParameters)
        pattern = None if asked.text is None else re.compile(re.escape(asked.text))  # no one's expression stops the server
        lines = asked.lines if asked.lines is not None or asked.since is None else MOST_LINES
        query = LogQuery(
            names=asked.name, node=asked.node, lines=lines, level=asked.level, since=asked.since, pattern=pattern
        )
        chosen = await run_in_threadpool(lambda: choose(self._settings, query, follow=asked.follow))
        if asked.follow:
            return self.log_events.stream(chosen)
        return json_answer(await self._slowly(lambda: _lines(chosen)))

    async def events(self, request: Request) -> Response:
        """Changes of the status."""
        return self.status_events.stream(request.headers.get("last-event-id"))

    async def metrics(self, _request: Request) -> Response:
        """`swarm metrics`."""
        found = await self._metrics.get()
        return Response(found.value, media_type=CONTENT_TYPE_LATEST)

    async def config(self, _request: Request) -> Response:
        """`swarm config show`, without secrets."""
        parts = self._parts
        document = ConfigDocument(file=parts.config_file, settings=parts.settings, sources=parts.config_sources)
        return json_answer(without_secrets(document))

    async def _look(self) -> Cached[SwarmLook]:
        return await self._parts.observer.look()

    async def _slowly(self, make: Callable[[], Found]) -> Found:
        return await anyio.to_thread.run_sync(make, limiter=self._slow)


def _aged(seen: Cached[Any], document: object) -> Response:
    """A document that may have been made for somebody else: ``Age`` says how many seconds ago."""
    return json_answer(document, headers={"Age": str(int(seen.age_s))})


def _lines(chosen: ChosenLogs) -> LogLines:
    return LogLines(lines=tuple(map(log_line, chosen.entries())))
