"""What the operations of the swarm's API take: query parameters and bodies."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from swarm.core.lanes import Kind
from swarm.core.task import TaskState, canonical_model
from swarm.http.answers import ApiError
from swarm.views.verbs import BATCH_BY_HAND, BY_HAND

MOST_TASKS = 1000
MOST_LINES = 10_000
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
LogName = Annotated[str, Meta(min_length=1)]
Reason = Annotated[str, Meta(min_length=1, max_length=2000, description="Kept in the documents of the tasks.")]
Level = Literal["debug", "info", "warning", "error", "critical"]
Age = Annotated[
    str,
    Meta(
        max_length=40,
        description="Only entries newer than this: 90s, 15m, 24h, 2d.",
        extra_json_schema={"pattern": r"^([0-9]{1,9}(\.[0-9]{1,9})?(ms|[smhdw]))+$"},
    ),
]
Lane = Annotated[
    str,
    Meta(
        description="cpu, script, llm@MODEL, resource@WORKER.",
        extra_json_schema={"pattern": "^(cpu|script|(llm|resource)@[A-Za-z0-9]+)$"},
    ),
]
"""Their patterns are for readers: what does not match is refused in words."""


class _Query(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all."""


class TaskQuery(_Query, frozen=True, kw_only=True):
    """``GET /swarm/tasks``."""

    state: TaskState = TaskState.PENDING
    lane: Lane | None = None
    model: Annotated[Name, Meta(description="Only tasks for this model.")] | None = None
    batch: Annotated[Name, Meta(description="Only tasks of this batch.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_TASKS)] = 50
    offset: Annotated[int, Meta(ge=0, le=10**9, description="Tasks to pass over; those that move on move the pages.")] = 0


class TaskLogQuery(_Query, frozen=True, kw_only=True):
    """``GET /swarm/tasks/{task_id}/logs``."""

    lines: Annotated[int, Meta(ge=1, le=MOST_LINES, description="Only the last so many entries.")] = MOST_LINES
    level: Annotated[Level, Meta(description="This level and above.")] | None = None
    since: Age | None = None


class LogQueryParameters(_Query, frozen=True, kw_only=True):
    """``GET /swarm/logs``."""

    name: Annotated[tuple[LogName, ...], Meta(description="Logs: brain, worker-1 …; absent: all.")] = ()
    lines: Annotated[int, Meta(ge=1, le=MOST_LINES, description="Only the last so many entries.")] | None = None
    node: Annotated[Name, Meta(description="Logs of another machine's workers and model servers.")] | None = None
    level: Annotated[Level, Meta(description="This level and above.")] | None = None
    since: Age | None = None
    text: Annotated[Name, Meta(description="Only entries with this text in a line.")] | None = None
    follow: Annotated[bool, Meta(description="Go on with new entries, as server-sent events.")] = False


class DoctorQuery(_Query, frozen=True, kw_only=True):
    """``GET /swarm/doctor``."""

    worker: Annotated[Name, Meta(description="Only what concerns this worker.")] | None = None


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all: unknown fields are refused."""


class CancelTask(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of the cancelling of a task."""

    reason: Reason = BY_HAND


class CancelBatch(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of the cancelling of a batch."""

    reason: Reason = BATCH_BY_HAND


class RestartProcess(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a restart."""

    now: bool = False
    """Requeue running tasks instead of waiting for them."""


class PauseTarget(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is paused or resumed; exactly one of them."""

    all: Literal[True] | UnsetType = UNSET
    model: Name | UnsetType = UNSET
    batch: Name | UnsetType = UNSET
    worker: Name | UnsetType = UNSET

    def chosen(self) -> tuple[Kind, str]:
        """Its kind and name. Raises ``ApiError``."""
        named: tuple[tuple[Kind, str | UnsetType], ...] = (
            ("all", self.all if self.all is UNSET else ""),
            ("model", self.model if self.model is UNSET else canonical_model(self.model)),
            ("batch", self.batch),
            ("worker", self.worker),
        )
        given: list[tuple[Kind, str]] = [(kind, name) for kind, name in named if name is not UNSET]
        if len(given) != 1:
            raise ApiError(400, "give exactly one of all, model, batch and worker", hint='{"all": true} means everything')
        return given[0]


OnePauseTarget = Annotated[PauseTarget, Meta(extra_json_schema={"minProperties": 1, "maxProperties": 1})]
"""The same as a type whose schema says so."""
