"""Encodes and decodes task files: one JSON document, of a body and an outcome (``Trail``).

The body is written once and never rewritten. ``{body}`` is the first line; later its closing brace is replaced by the
outcome::

    {"task_id":"…","task_class":"llm",…,
    "status":"completed","result":{…},"attempts":[…]}

The first line ends in ``}`` or ``,``; whatever is torn after it, the body can be read back (compact JSON has no line
break of its own). Unknown fields of the body survive, because nobody writes it again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from swarm.core.task import MAX_TASK_BYTES, Task, Trail
from swarm.errors import TaskInvalid

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


def parse_document(data: bytes) -> dict[str, Any]:
    """The whole file as one dictionary, unknown fields included; a torn trail is left out."""
    try:
        document: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError):
        body, _ = split(data)
        document = msgspec.json.decode(body, type=dict[str, Any])
    return document
