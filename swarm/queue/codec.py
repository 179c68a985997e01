"""Checks, encodes and decodes task files: one JSON document, of a body and an outcome (``Trail``).

The body is written once and never rewritten. ``{body}`` is the first line; later its closing brace is replaced by the
outcome::

    {"task_id":"…","task_class":"llm",…,
    "status":"completed","result":{…},"attempts":[…]}

The first line ends in ``}`` or ``,``; whatever is torn after it, the body can be read back (compact JSON has no line
break of its own). Unknown fields of the body survive, because nobody writes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from swarm.clock import parse_iso
from swarm.core.models.model_options import option_problem
from swarm.core.task import ID_PATTERN, ID_RE, MAX_TASK_BYTES, RESOURCE_PRIORITY, Task, TaskClass, Trail, session_fault
from swarm.core.workflow.templating import references
from swarm.errors import TaskInvalid
from swarm.filesystem.entries import read_file

_decode_task = msgspec.json.Decoder(Task).decode
_decode_trail = msgspec.json.Decoder(Trail).decode
_encoder = msgspec.json.Encoder()
MAX_FILE_BYTES = 64 << 20
"""Body and trail together; the trail holds the answer, which ``llm.max_reply_mib`` bounds."""


class Parts(NamedTuple):
    """A task file taken apart."""

    task: Task
    trail: Trail
    body_size: int
    """Bytes of the body, closing brace included."""


def encode_body(document: dict[str, Any]) -> bytes:
    """The body's one line. Raises ``TaskInvalid`` when it is too large or holds what JSON cannot say."""
    try:
        body = _encoder.encode(document)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise TaskInvalid(f"the task cannot be written as JSON: {exc}") from exc
    if len(body) > MAX_TASK_BYTES:
        raise TaskInvalid(
            f"the task has {len(body)} bytes; at most {MAX_TASK_BYTES} are allowed",
            hint="put large material into a file and pass its path, or split the task",
        )
    return body + b"\n"


def encode_trail(trail: Trail) -> bytes:
    """What replaces the body's closing brace."""
    text = _encoder.encode(trail)
    return b"}\n" if text == b"{}" else b",\n" + text[1:] + b"\n"


def split(data: bytes) -> tuple[bytes, bytes | None]:
    """Body and trail as JSON texts (trail None if there is none). Raises ``ValueError`` if there is no body."""
    end = data.find(b"\n")
    head = data if end < 0 else data[:end]
    if head.endswith(b","):
        return head[:-1] + b"}", b"{" + data[end + 1 :]
    if head.endswith(b"}"):
        return head, None
    raise ValueError("the first line is no complete JSON object")


def parse(data: bytes) -> Parts:
    """Take a task file apart. A torn trail reads as none; a broken body raises ``TaskInvalid``."""
    try:
        body, tail = split(data)
        task = _decode_task(body)
    except (ValueError, RecursionError) as exc:
        raise TaskInvalid(f"not a task: {exc}") from exc
    trail = Trail()
    if tail is not None:
        try:
            trail = _decode_trail(tail)
        except (ValueError, RecursionError):
            trail = Trail()
    return Parts(task, trail, len(body))


def read(path: str) -> Parts:
    """Read a task file. Raises ``FileNotFoundError``, ``TaskInvalid``, ``OddEntry`` (a ``ValueError``), ``OSError``."""
    return parse(read_file(path, MAX_FILE_BYTES))


def read_if_task(path: str) -> Parts | None:
    """The same; None for what is missing, or no task. Raises ``OSError``."""
    try:
        return read(path)
    except (FileNotFoundError, TaskInvalid, ValueError):
        return None


def parse_document(data: bytes) -> dict[str, Any]:
    """The whole file as one dictionary, unknown fields included; a torn trail is left out."""
    try:
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        body, _ = split(data)
        document = msgspec.json.decode(body, type=dict[str, Any])
    return document


def read_document(path: str) -> dict[str, Any]:
    """The whole file as one dictionary. Raises ``FileNotFoundError``, ``ValueError``, ``OSError``."""
    return parse_document(read_file(path, MAX_FILE_BYTES))


_MAP_ID_CHARS = 56
_FIELDS = frozenset(Task.__struct_fields__)
_OUTCOME_FIELDS = frozenset({"status", "completed_at", "result", "error", "attempts", "retry_at"})


def validate(document: Mapping[str, Any]) -> Task:
    """The task a document describes. Raises ``TaskInvalid`` naming the field and what was expected."""
    known = document if _FIELDS.issuperset(document) else _known(document)
    try:
        task = msgspec.convert(known, Task)
    except msgspec.ValidationError as exc:
        raise TaskInvalid(_explain(str(exc))) from exc
    _check_class(task)
    if task.images and (task.task_class is not TaskClass.LLM or task.endpoint == "/api/embed"):
        raise TaskInvalid("field `images`: only requests for text of an llm task can have any")
    if task.session is not None and (fault := session_fault(task.session)) is not None:
        raise TaskInvalid(f"field `session`: {fault}")
    if task.not_before is not None:
        _check_time(task.not_before)
    if task.task_id in task.depends_on:
        raise TaskInvalid("field `depends_on`: the task depends on itself")
    if task.map is not None:
        _check_map(task)
    return task


def _known(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields that are none of ours, whatever they are."""
    unexpected = _OUTCOME_FIELDS.intersection(document)
    if unexpected:
        raise TaskInvalid(f"field `{min(unexpected)}` belongs to finished tasks and cannot be submitted")
    return {k: v for k, v in document.items() if k in _FIELDS}


def _explain(message: str) -> str:
    """Put the library's sentence with the field first."""
    text, separator, path = message.partition(" - at `$.")
    if "Invalid enum value" in text:
        text += "; known classes are llm, cpu, script, resource"
    if "matching regex" in text and ID_PATTERN in text:
        text = "must be 1 to 64 letters, digits, `_` or `-`, beginning with a letter or digit"
    return f"field `{path.rstrip('`')}`: {text}" if separator else text


def _check_class(task: Task) -> None:
    match task.task_class:
        case TaskClass.LLM:
            if not task.model:
                raise TaskInvalid("field `model`: an llm task needs one, for example llama3.2:3b")
            if not task.request:
                raise TaskInvalid('field `request`: an llm task needs one, for example {"messages": […]}')
            if "options" in task.request:
                _check_options(task.request["options"])
        case TaskClass.CPU | TaskClass.SCRIPT:
            if not task.command:
                raise TaskInvalid(f"field `command`: a {task.task_class} task needs an argv list")
        case TaskClass.RESOURCE:
            _check_resource(task)


def _check_options(options: object) -> None:
    """Of a wrong type the server would refuse each attempt. Names it does not know it ignores, so they may stay."""
    if not isinstance(options, dict):
        raise TaskInvalid('field `request.options`: must be an object, such as {"num_predict": 64}')
    for name, value in options.items():
        problem = option_problem(name, value)
        if problem is not None:
            raise TaskInvalid(f"field `request.options.{name}`: {problem}")


def _check_resource(task: Task) -> None:
    for field in ("action", "target_worker", "model"):
        if not getattr(task, field):
            raise TaskInvalid(f"field `{field}`: a resource task needs it")
    if not ID_RE.fullmatch(task.target_worker or ""):
        raise TaskInvalid(f"field `target_worker`: {task.target_worker!r} is no worker's name")
    if task.priority != RESOURCE_PRIORITY:
        raise TaskInvalid(f"field `priority`: resource tasks have priority {RESOURCE_PRIORITY}")


def _check_map(task: Task) -> None:
    assert task.map is not None
    if task.task_class is not TaskClass.LLM:
        raise TaskInvalid("field `map`: only llm tasks can be mapped over a list")
    if task.results.get(task.map.over, task.map.over) not in task.depends_on:
        raise TaskInvalid(f"field `map.over`: {task.map.over!r} is not among the task's `depends_on`")
    if task.session is not None:
        raise TaskInvalid("field `map`: a task of a session cannot be mapped, because its parts run in parallel")
    if len(task.task_id) > _MAP_ID_CHARS:
        raise TaskInvalid(f"field `task_id`: of a mapped task at most {_MAP_ID_CHARS} characters: its parts add a number")
    if not any(r.partition(".")[0] == "item" for r in references(task.request)):
        raise TaskInvalid("field `request`: that of a mapped task must hold {item}, which stands for one element")


def _check_time(text: str) -> None:
    try:
        parse_iso(text)
    except ValueError as exc:
        raise TaskInvalid(f"field `not_before`: {text!r} is no ISO 8601 time") from exc
