"""The swarm's own API, below ``/swarm/``: what the commands' ``--json`` gives, events, and verbs."""

from __future__ import annotations

from typing import Any

from starlette.routing import BaseRoute

from swarm.core.lanes import Pauses
from swarm.http.jobs.changes import Changes
from swarm.http.jobs.queries import (
    CancelBatch,
    CancelTask,
    DoctorQuery,
    LogQueryParameters,
    OnePauseTarget,
    RestartProcess,
    TaskLogQuery,
    TaskQuery,
)
from swarm.http.jobs.reads import Reads
from swarm.http.operations import Operation, route
from swarm.http.parts import HttpParts, Scope
from swarm.views.batches.batch_documents import BatchDocument, BatchList
from swarm.views.config_document import ConfigDocument
from swarm.views.doctor.report import DoctorReport
from swarm.views.documents import ActiveList, CardList, FeedList, ModelList, WorkerList
from swarm.views.explanations import Explanation
from swarm.views.logs.log_query import LogLines
from swarm.views.node_drains import NodesChanged
from swarm.views.node_rows import NodeList
from swarm.views.overview import StatusView
from swarm.views.queue_rows import QueueStats
from swarm.views.task_lists import TaskList
from swarm.views.verbs import BatchCancelled, BatchRetried, CardsReleased, Restarted, TasksChanged
from swarm.views.worker_rows import WorkerLine

EVENTS = "text/event-stream"
METRICS = "text/plain"


def _read(path: str, name: str, summary: str, answer: Any = None, **more: Any) -> Operation:  # noqa: ANN401 - types
    return Operation(
        method="GET", path=path, name=name, group="swarm", summary=summary, scope=Scope.READ, answer=answer, **more
    )


def _verb(path: str, name: str, summary: str, scope: Scope, answer: Any, **more: Any) -> Operation:  # noqa: ANN401
    return Operation(method="POST", path=path, name=name, group="swarm", summary=summary, scope=scope, answer=answer, **more)


OPERATIONS: tuple[Operation, ...] = (
    _read("/swarm/status", "status", "Alarms, cards, workers, queue, throughput: `swarm status`.", StatusView),
    _read("/swarm/queue", "queue", "The queue in numbers: `swarm queue stats`.", QueueStats),
    _read("/swarm/active", "active", "What the workers hold: `swarm queue active`.", ActiveList),
    _read("/swarm/workers", "workers", "All workers: `swarm workers`.", WorkerList),
    _read("/swarm/workers/{name}", "worker", "One worker.", WorkerLine, errors=(404,)),
    _read("/swarm/gpus", "gpus", "All cards: `swarm gpus`.", CardList),
    _read("/swarm/nodes", "nodes", "Machines whose cards are used: `swarm nodes`.", NodeList),
    _read("/swarm/models", "models", "All models: `swarm models`.", ModelList),
    _read("/swarm/tasks", "tasks", "Tasks of one state: `swarm queue list`.", TaskList, query=TaskQuery, errors=(404,)),
    _read("/swarm/tasks/{task_id}", "task", "One task: `swarm queue show`.", dict[str, Any], errors=(404,)),
    _read(
        "/swarm/tasks/{task_id}/logs",
        "task_logs",
        "Its life in all logs and its record: `swarm logs --task ID`.",
        LogLines,
        query=TaskLogQuery,
        errors=(404,),
    ),
    _read("/swarm/batches", "batches", "All batches: `swarm batches`.", BatchList),
    _read("/swarm/batches/{batch_id}", "batch", "One batch: `swarm batch show`.", BatchDocument, errors=(404,)),
    _read("/swarm/feeds", "feeds", "All feeds: `swarm feeds`.", FeedList),
    _read(
        "/swarm/explain/{target:path}",
        "explain",
        "Why a task, worker or model is as it is: `swarm explain`.",
        Explanation,
        errors=(404,),
    ),
    _read("/swarm/doctor", "doctor", "What is wrong: `swarm doctor`.", DoctorReport, query=DoctorQuery, errors=(404,)),
    _read(
        "/swarm/logs",
        "logs",
        "All logs by time: `swarm logs`; with `follow` as events `log` and `skipped`.",
        LogLines,
        query=LogQueryParameters,
        media_types=("application/json", EVENTS),
        errors=(404, 429),
    ),
    _read(
        "/swarm/events",
        "events",
        "The parts of the status as they change: events `status`, `alarms`, `queue`, `workers`, `cards`, `active`, "
        "`throughput`, `batches`, `fault`.",
        media_types=(EVENTS,),
        errors=(429,),
    ),
    _read("/swarm/config", "config", "The settings in force, secrets hidden: `swarm config show`.", ConfigDocument),
    _read("/swarm/metrics", "metrics", "Prometheus metrics: `swarm metrics`.", media_types=(METRICS,)),
    _read("/metrics", "metrics_for_prometheus", "The same where Prometheus looks.", media_types=(METRICS,)),
    _verb(
        "/swarm/tasks/{task_id}/cancel",
        "cancel_task",
        "Cancel a task: `swarm queue cancel`.",
        Scope.SUBMIT,
        TasksChanged,
        body=CancelTask,
        body_required=False,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/tasks/{task_id}/retry",
        "retry_task",
        "Requeue a failed or cancelled task: `swarm queue retry`.",
        Scope.SUBMIT,
        TasksChanged,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/batches/{batch_id}/cancel",
        "cancel_batch",
        "Cancel what has not ended of a batch: `swarm batch cancel`.",
        Scope.SUBMIT,
        BatchCancelled,
        body=CancelBatch,
        body_required=False,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/batches/{batch_id}/retry",
        "retry_batch",
        "Requeue what failed or was cancelled of a batch: `swarm batch retry-failed`.",
        Scope.SUBMIT,
        BatchRetried,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/pause",
        "pause",
        "Start nothing new of everything, a model, a batch or a worker: `swarm queue pause`.",
        Scope.ADMIN,
        Pauses,
        body=OnePauseTarget,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/resume",
        "resume",
        "End a pause: `swarm queue resume`.",
        Scope.ADMIN,
        Pauses,
        body=OnePauseTarget,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/nodes/{name}/drain",
        "drain_node",
        "Take a machine out once its workers have finished what they run: `swarm nodes drain`.",
        Scope.ADMIN,
        NodesChanged,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/nodes/{name}/resume",
        "resume_node",
        "Use a drained machine again: `swarm nodes resume`.",
        Scope.ADMIN,
        NodesChanged,
        errors=(404, 409),
    ),
    _verb(
        "/swarm/workers/{name}/release",
        "release_cards",
        "End the quarantine of a worker's cards: `swarm workers release`.",
        Scope.ADMIN,
        CardsReleased,
        errors=(404,),
    ),
    _verb(
        "/swarm/processes/{name}/restart",
        "restart",
        "Restart a process; answers once it is back: `swarm restart`.",
        Scope.ADMIN,
        Restarted,
        body=RestartProcess,
        body_required=False,
        errors=(404,),
    ),
)


def routes(parts: HttpParts) -> list[BaseRoute]:
    """Its routes; where they go and what they take is in ``OPERATIONS``."""
    reads, changes = Reads(parts), Changes(parts)
    handlers = {"metrics_for_prometheus": reads.metrics}
    return [
        route(one, handlers.get(one.name) or getattr(reads if one.method == "GET" else changes, one.name))
        for one in OPERATIONS
    ]
