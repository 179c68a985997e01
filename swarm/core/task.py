"""What a task is: its fields, its states, its attempts, and the document it ends as.

A task's body is written once and never changed. While it moves, its state is told by the directory it lies in and
the number in its file name; what happened to it is a second part of the same document (see ``swarm.queue.codec``).
A ``Claim`` is one worker's right to one attempt at it, fenced by the exact file it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, NewType

import msgspec

from swarm.core.faults import FaultClass

TaskId = NewType("TaskId", str)
WorkerName = NewType("WorkerName", str)
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}(?!\n)$"
"""``$`` alone would let a line break at the end pass: it becomes a file name that nobody recognises."""
ID_RE = re.compile(ID_PATTERN)
MODEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}(?!\n)$"
MAX_TASK_BYTES = 1 << 20
MAX_IMAGES = 16
DEFAULT_PRIORITY = 5
RESOURCE_PRIORITY = 9
IdText = Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
ModelText = Annotated[str, msgspec.Meta(pattern=MODEL_PATTERN)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=9)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]


class TaskClass(StrEnum):
    """The four kinds of work."""

    LLM = "llm"
    CPU = "cpu"
    SCRIPT = "script"
    RESOURCE = "resource"


class TaskState(StrEnum):
    """The state directories; a task is in exactly one of them."""

    PENDING = "pending"
    BLOCKED = "blocked"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CORRUPT = "corrupt"


MAX_SESSION_CHARS = 200


def session_fault(name: str) -> str | None:
    """What keeps a text from being a session's name; None: nothing."""
    if not name:
        return "is empty; leave it out for a task without one"
    if len(name) > MAX_SESSION_CHARS:
        return f"has {len(name):,} characters; a session's name has at most {MAX_SESSION_CHARS}"
    if not name.isprintable():
        return f"{name[:40]!r} holds a line break or another unprintable character"
    return None


TERMINAL = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED)
Endpoint = Literal["/api/chat", "/api/generate", "/api/embed"]
EMBED: Endpoint = "/api/embed"


class MapSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Run the request once for each element of a list; ``{item}`` in it stands for the element."""

    over: str
    """Whose result holds the list: an entry of ``depends_on``."""
    path: str = ""
    """Where the list is in that result read as JSON: fields and indices with dots between; empty: it is the list."""


class ImageRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image that goes with the request: where it lies, and what it is."""

    path: str
    """Absolute."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Task(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The immutable body of a task, as in the first line of its file. Unknown fields stay in the file untouched."""

    task_id: IdText
    task_class: TaskClass
    created_at: str = ""
    """ISO 8601 with milliseconds and offset; set when the task is accepted."""
    name: str = ""
    batch_id: IdText | None = None
    custom_id: str | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    priority: Priority = DEFAULT_PRIORITY
    model: ModelText | None = None
    endpoint: Endpoint = "/api/chat"
    request: dict[str, Any] = msgspec.field(default_factory=dict)
    images: Annotated[tuple[ImageRef, ...], msgspec.Meta(max_length=MAX_IMAGES)] = ()
    """Read when the task runs: a body of 1 MiB has no room for them."""
    command: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str | None = None
    action: Literal["load_llm", "unload_llm"] | None = None
    target_worker: str | None = None
    depends_on: tuple[str, ...] = ()
    results: dict[str, str] = msgspec.field(default_factory=dict)
    """Task ids by the names under which the request asks for results (``{results.NAME.text}``); ids need no entry."""
    map: MapSpec | None = None
    on_dependency_failure: Literal["fail", "run"] = "fail"
    session: str | None = None
    not_before: str | None = None
    """ISO 8601; the task waits in ``blocked`` until then."""
    timeout_s: PositiveSeconds | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    notify: tuple[str, ...] = ()
    cache: bool | None = None
    """Whether an answer given before will do; None: as ``[llm] cache`` says."""


class TaskError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt or a task failed."""

    type: str
    """One word for machines: ``timeout``, ``server``, ``crash``, ``exit_code``, ``cancelled`` …"""
    message: str
    retryable: bool = False


Outcome = Literal["completed", "failed", "retried", "released", "crashed", "cancelled", "forgiven"]
"""``forgiven``: an attempt before the task was retried or requeued by hand; it counts no longer."""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One attempt: who, when, and how it ended."""

    attempt: int
    worker: str
    gpu: str | None = None
    model_digest: str | None = None
    started_at: str = ""
    ended_at: str = ""
    outcome: Outcome
    fault: FaultClass | None = None
    """The class of the error, see ``swarm.core.faults``; None when it completed."""
    error: TaskError | None = None
    alone: bool = False
    """The attempts after it run alone on their server: then it is known whose fault the next fault is."""
    energy_j: float | None = None
    """Of an llm task: its share of what the cards used while it ran; None where no driver tells that."""


def forgiven(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """The same, counted no longer."""
    return tuple(msgspec.structs.replace(one, outcome="forgiven", fault=None) for one in attempts)


class Trail(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The second part of a task's file: what happened to it so far, and how it ended.

    While the task is not terminal only ``attempts``, ``retry_at``, ``children`` and ``released`` may be set.
    """

    status: Literal["completed", "failed", "cancelled"] | None = None
    completed_at: str | None = None
    result: dict[str, Any] | None = None
    error: TaskError | None = None
    attempts: tuple[Attempt, ...] = ()
    retry_at: str | None = None
    """ISO 8601; a failed attempt waits in ``blocked`` until then."""
    children: int | None = None
    """Of a mapped task: how many children it has; -1 while they are being made."""
    released: bool = False
    """What it depends on had ended when it was released; held since, it waits for that no more."""
    simulated: bool = False
    """The answer came from a simulated server."""
    cached: bool = False
    """The answer was given before, to the same request by the same model; its times and tokens are those of then."""


def canonical_model(name: str) -> str:
    """Ollama's identity of a model name: lower case, ``:latest`` where no tag is given."""
    lowered = name.lower()
    return lowered if ":" in lowered.rsplit("/", 1)[-1] else f"{lowered}:latest"


Settled = Outcome | Literal["fenced"]
"""How a run ended: as its attempt says, or fenced, when the claim was lost to somebody else meanwhile."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What ``claim`` returns. Whoever holds it finishes the task by moving exactly ``path``; a missing file means fenced."""

    task: Task
    attempt: int
    """Number of this attempt, from 1; it is part of the file's name, so it counts even if the worker dies now."""
    worker: str
    path: str
    body_size: int
    """Bytes of the task's immutable body at the start of the file."""
    attempts: tuple[Attempt, ...] = ()
    """Earlier attempts."""
    group: str = ""
    """The mark of its prefix group; empty for one in none."""


class Finish(NamedTuple):
    """The end of a claim: completed, failed or cancelled, and what is recorded."""

    claim: Claim
    state: TaskState
    trail: Trail
