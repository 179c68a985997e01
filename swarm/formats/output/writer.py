"""Writing a batch's output: one line per item in the input's order, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from swarm.formats.openai.replies import output_line
from swarm.formats.output.atomic_file import STDOUT, replacing
from swarm.formats.output.csv_writer import write_csv
from swarm.formats.output.rows import OUTPUT_COLUMNS, plain_row

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
    entries = _chain(first, rest)
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
        match (finished or {}).get("status"):
            case "completed":
                written.completed += 1
            case "failed":
                written.failed += 1
            case "cancelled":
                written.cancelled += 1
            case _:
                written.unfinished += 1
        yield item, finished


def _chain(first: Pair | None, rest: Iterator[Pair]) -> Iterator[Pair]:
    if first is not None:
        yield first
        yield from rest


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
    with replacing(path) as stream:
        failures = _Failures(failures_path)
        with failures:
            for entry in entries:
                line, good = output_line(*entry)
                (stream if good else failures.stream()).write(_encode(line) + b"\n")
    if failures.opened:
        written.errors_path = failures_path


class _Failures:
    """The errors file, made when the first failure comes; without any, an earlier run's is removed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        self._stream: BinaryIO | None = None

    @property
    def opened(self) -> bool:
        return self._stream is not None

    def stream(self) -> BinaryIO:
        if self._stream is None:
            self._stream = self._stack.enter_context(replacing(self._path))
        return self._stream

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None and not self.opened and os.path.isfile(self._path):
            os.unlink(self._path)
