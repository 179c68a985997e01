"""Writes a batch's output: a row per item (input columns, answer, cost) in the input's order, whole or not at all.

A CSV header needs all rows first, so they wait in a temporary file, not in memory.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, BinaryIO

import msgspec

from swarm.formats.openai.replies import finish_reason, output_line, usage_of
from swarm.formats.output.atomic_file import STDOUT, replacing
from swarm.formats.tasks.task_builder import unpack

Pair = tuple[Mapping[str, Any], Mapping[str, Any] | None]
"""An item's task and its finished document; None while it has not ended."""
_encode = msgspec.json.Encoder().encode


class Written(msgspec.Struct):
    """What was written."""

    rows: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    unfinished: int = 0
    errors_path: str | None = None
    """The errors file of an OpenAI batch; None if there was nothing to put into one."""

    @property
    def without_answer(self) -> int:
        """Items that ended without one."""
        return self.failed + self.cancelled


def errors_path_of(path: str) -> str:
    """Where the failures of an OpenAI batch go unless said otherwise: ``out.jsonl`` -> ``out.errors.jsonl``."""
    return f"{os.path.splitext(path)[0]}.errors.jsonl"


def write_results(path: str, pairs: Iterable[Pair], *, errors_path: str | None = None) -> Written:
    """Write the output to ``path`` (``-``: standard output) and, for OpenAI batches, failures to ``errors_path``.

    The first item's ``metadata.format`` says which kind of batch it is. A name that ends in ``.csv`` makes CSV of any.
    Both files are replaced atomically, the errors file first; one that an earlier run left is removed if nothing failed.
    Flat memory. Raises ``OSError`` when the disk refuses; the old files stay as they were.
    """
    written = Written()
    rest = iter(_counted(pairs, written))
    first = next(rest, None)
    entries = rest if first is None else chain((first,), rest)
    if path.lower().endswith(".csv"):
        with replacing(path) as stream:
            write_csv(stream, (plain_row(*entry) for entry in entries), last=OUTPUT_COLUMNS)
    elif first is not None and _is_openai(first[0]):
        _write_openai(path, entries, errors_path, written)
    else:
        with replacing(path) as stream:
            for entry in entries:
                stream.write(_encode(plain_row(*entry)) + b"\n")
    return written


def _counted(pairs: Iterable[Pair], written: Written) -> Iterator[Pair]:
    for item, finished in pairs:
        written.rows += 1
        status = (finished or {}).get("status")
        ended = status if status in ("completed", "failed", "cancelled") else "unfinished"
        setattr(written, ended, getattr(written, ended) + 1)
        yield item, finished


def _is_openai(document: Mapping[str, Any]) -> bool:
    return (document.get("metadata") or {}).get("format") == "openai"


def _write_openai(path: str, entries: Iterator[Pair], errors_path: str | None, written: Written) -> None:
    """Successes to ``path``, the rest to the errors file; all in one file where both names are one, or ``-``."""
    failures_path = errors_path or (path if path == STDOUT else errors_path_of(path))
    if os.path.realpath(failures_path) == os.path.realpath(path):
        with replacing(path) as stream:
            for entry in entries:
                stream.write(_encode(output_line(*entry)[0]) + b"\n")
        return
    failures: BinaryIO | None = None
    with replacing(path) as stream:
        with contextlib.ExitStack() as stack:
            for entry in entries:
                line, good = output_line(*entry)
                if not good and failures is None:
                    failures = stack.enter_context(replacing(failures_path))
                (stream if good or failures is None else failures).write(_encode(line) + b"\n")
        if failures is not None:
            written.errors_path = failures_path
        elif os.path.isfile(failures_path):
            os.unlink(failures_path)


_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def write_csv(stream: BinaryIO, rows: Iterable[Mapping[str, Any]], *, last: Collection[str]) -> None:
    """Write a header and the rows, as RFC 4180 with UTF-8.

    The header has every column of any row in order of appearance, those named in ``last`` behind all others.

    ``usage`` becomes three columns, ``error`` one text; other lists and objects are written as JSON, null as nothing.
    """
    columns: dict[str, None] = {}
    with tempfile.TemporaryFile(prefix="swarm-csv-") as waiting:
        for row in rows:
            flat = _flat(row)
            columns.update(dict.fromkeys(flat))
            waiting.write(_encode(flat) + b"\n")
        waiting.seek(0)
        behind = {*last, *_USAGE}
        header = sorted(columns, key=behind.__contains__)
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=False)
        table = csv.writer(text)
        table.writerow(header)
        for line in waiting:
            flat = _decode(line)
            table.writerow([_cell(flat.get(name)) for name in header])
        text.flush()
        text.detach()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "usage" and (value is None or isinstance(value, dict)):
            counts = value or {}
            flat |= {count: counts.get(count) for count in _USAGE if count not in row}
        elif name == "error" and isinstance(value, dict):
            flat[name] = f"{value.get('type')}: {value.get('message')}"
        else:
            flat[name] = value
    return flat


def _cell(value: object) -> object:
    match value:
        case bool() | list() | dict():
            return _encode(value).decode()
        case None:
            return ""
        case _:
            return value


OUTPUT_COLUMNS = (
    "response",
    "finish_reason",
    "usage",
    "duration_s",
    "load_s",
    "tokens_per_s",
    "model",
    "task_id",
    "status",
    "error",
    "thinking",
    "tool_calls",
    "cached",
    "simulated",
)
"""The columns swarm adds; the last four only where there is something to say."""
_NS = 1e9
_ABSENT = object()


def plain_row(document: Mapping[str, Any], finished: Mapping[str, Any] | None) -> dict[str, Any]:
    """One output row. ``finished`` None: the task has not ended, its ``status`` is ``unfinished``.

    An input column of the same name as one of ours is kept as ``input_<name>`` (with more ``input_`` before it if that
    is taken too), unless both say the same.
    """
    answer = _answer(document, finished)
    columns = unpack(document)
    taken = {*columns, *OUTPUT_COLUMNS}
    row: dict[str, Any] = {}
    for name, value in columns.items():
        if name not in OUTPUT_COLUMNS:
            row[name] = value
        elif answer.get(name, _ABSENT) != value:
            moved = f"input_{name}"
            while moved in taken:
                moved = f"input_{moved}"
            taken.add(moved)
            row[moved] = value
    return row | answer


def _answer(document: Mapping[str, Any], finished: Mapping[str, Any] | None) -> dict[str, Any]:
    ended: Mapping[str, Any] = finished or {}
    status = ended.get("status") or "unfinished"
    found = ended.get("result")
    result: Mapping[str, Any] = found if status == "completed" and isinstance(found, dict) else {}
    answer: dict[str, Any] = {
        "response": _response(result),
        "finish_reason": finish_reason(result) if result else None,
        "usage": usage_of(result) if result else None,
        "duration_s": _duration_s(result, ended),
        "load_s": _seconds(result.get("load_duration")),
        "tokens_per_s": _rate(result),
        "model": ended.get("model") or document.get("model"),
        "task_id": ended.get("task_id") or document.get("task_id"),
        "status": status,
        "error": _error(ended.get("error")),
    }
    message = result.get("message") or {}
    extras = {
        "thinking": message.get("thinking") or result.get("thinking"),
        "tool_calls": message.get("tool_calls"),
        "cached": bool(ended.get("cached")),
        "simulated": bool(ended.get("simulated")),
    }
    return answer | {name: value for name, value in extras.items() if value}


def _response(result: Mapping[str, Any]) -> object:
    """The text; for embeddings the vector, or the list of them where the input was a list."""
    if "message" in result:
        return result["message"].get("content") or ""
    if "embeddings" in result:
        vectors = result["embeddings"]
        return vectors[0] if len(vectors) == 1 else vectors
    return result.get("response")


def _error(error: object) -> dict[str, Any] | None:
    if not isinstance(error, dict):
        return None
    return {"type": error.get("type", "failed"), "message": error.get("message", "")}


def _duration_s(result: Mapping[str, Any], ended: Mapping[str, Any]) -> float | None:
    """The server's own time for the request; for what has none, the last attempt's wall-clock time."""
    if result.get("total_duration"):
        return _seconds(result["total_duration"])
    attempts = ended.get("attempts") or ()
    if not attempts:
        return None
    try:
        started, stopped = (datetime.fromisoformat(attempts[-1][key]) for key in ("started_at", "ended_at"))
        return round((stopped - started).total_seconds(), 6)
    except (KeyError, ValueError, TypeError):
        return None


def _seconds(nanoseconds: object) -> float | None:
    return round(nanoseconds / _NS, 6) if isinstance(nanoseconds, int | float) else None


def _rate(result: Mapping[str, Any]) -> float | None:
    tokens, nanoseconds = result.get("eval_count"), result.get("eval_duration")
    return round(tokens / nanoseconds * _NS, 2) if tokens and nanoseconds else None
