"""Writes a batch's output: a row per item (input columns, answer, cost) in the input's order, whole or not at all.

* A file is written beside its place, flushed to the disk, and renamed.
* A CSV header needs all rows first, so they wait in a temporary file, not in memory.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import stat
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from swarm.errors import InputError
from swarm.filesystem import temporary
from swarm.filesystem.durable import CannotFlush, sync_fd, sync_folder
from swarm.formats.output.rows import OUTPUT_COLUMNS, output_line, plain_row
from swarm.plain_text import json_shown

if TYPE_CHECKING:
    from typing_extensions import Buffer


_ALSO_STDOUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_MODE = 0o666
_NAME_BYTES = 200
"""Kept of a name for the file beside it: 255 bytes are the most, and its own marks are added."""


def check_writable(path: str, *, input_path: str | None = None) -> None:
    """Raise ``InputError`` now if ``path`` could not be written later, or if writing it would replace the input.

    Tries it for real: makes and removes a file beside it.
    """
    if path in _ALSO_STDOUT:
        return
    target = _target(path)
    if not path or os.path.isdir(target):
        raise InputError(f"{path or 'output'}: is a directory", hint="name a file, such as out.jsonl")
    if (
        input_path is not None
        and os.path.exists(target)
        and os.path.exists(input_path)
        and os.path.samefile(target, input_path)
    ):
        raise InputError(f"{path}: is the input itself", hint="give the output another name; the input is never overwritten")
    folder = os.path.dirname(target)
    if os.path.isdir(folder):
        _check_name(path, target)
    else:
        raise InputError(f"{path}: there is no directory {folder}", hint=f"make it: mkdir -p {folder}")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise InputError(f"{path}: may not be written", hint="choose another file, or change its mode: chmod u+w")
    if os.path.exists(target) and not _is_regular(target):
        return
    try:
        handle, beside = temporary.take(folder, _stem(target), _MODE)
        temporary.discard(beside, handle)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}", hint="choose another place for the output"
        ) from error


def _check_name(path: str, target: str) -> None:
    try:
        os.stat(target)
    except FileNotFoundError:
        return
    except OSError as error:  # the name is too long, the way to it is closed
        raise InputError(
            f"{path}: cannot be written: {error.strerror}", hint="choose another name for the output"
        ) from error


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of ``path`` when the block ends well; otherwise nothing changes.

    ``-`` and what is no regular file (``/dev/null``, a pipe) are written directly. Raises ``OSError``.
    """
    if path in _ALSO_STDOUT:
        yield _Terminal(sys.stdout.buffer) if sys.stdout.isatty() else sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = _target(path)
    if os.path.exists(target) and not _is_regular(target):
        try:
            with open(target, "wb") as stream:
                yield stream
        except OSError as problem:
            problem.filename = problem.filename or path
            raise
        return
    with temporary.replacement(target, durable=False, stem=_stem(target), mode=_MODE) as handle:
        with os.fdopen(handle, "wb", closefd=False) as stream:
            yield stream
        with contextlib.suppress(CannotFlush):  # its content can be written again from the queue at any time
            sync_fd(handle)
        if os.path.exists(target):
            os.fchmod(handle, stat.S_IMODE(os.stat(target).st_mode))
    with contextlib.suppress(CannotFlush):
        sync_folder(os.path.dirname(target))


class _Terminal(io.BytesIO):
    """Standard output on a terminal: JSON lines mean the same there, and hold nothing that a terminal obeys."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, data: Buffer, /) -> int:
        """Whole lines of JSON."""
        text = bytes(data).decode()
        self._stream.write(json_shown(text).encode())
        return len(text)


def _stem(target: str) -> str:
    """Names the temporary file beside it, so that what a killed command left of the same output is taken over."""
    return os.fsdecode(os.fsencode(os.path.basename(target))[:_NAME_BYTES])


def _target(path: str) -> str:
    """Where it is written: what a link leads to; another's pipe, as ``/dev/fd/63`` names it, by its own name alone."""
    return path if os.path.exists(path) and not _is_regular(path) else os.path.realpath(path)


def _is_regular(target: str) -> bool:
    return stat.S_ISREG(os.stat(target).st_mode)


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
    damaged: int = 0
    """Of these, without a record that could be read."""
    errors_path: str | None = None
    """The errors file of an OpenAI batch; None if there was nothing to put into one."""

    @property
    def without_answer(self) -> int:
        """Items that ended without one, or that nobody will work on as their record is."""
        return self.failed + self.cancelled + self.damaged


def errors_path_of(path: str) -> str:
    """Where the failures of an OpenAI batch go unless said otherwise: ``out.jsonl`` -> ``out.errors.jsonl``.

    Beside standard output, a pipe or a device there is no place for a second file: to the same.
    """
    if path in _ALSO_STDOUT or (os.path.exists(path) and not _is_regular(path)):
        return path
    return f"{os.path.splitext(path)[0]}.errors.jsonl"


def write_results(path: str, pairs: Iterable[Pair], *, openai: bool = False, errors_path: str | None = None) -> Written:
    """Write the output to ``path`` (``-``: standard output) and, for OpenAI batches, failures to ``errors_path``.

    ``openai``: it is such a batch. A name that ends in ``.csv`` makes CSV of any.
    Both files are replaced atomically, the errors file first; one that an earlier run left is removed if nothing failed.
    Flat memory. Raises ``OSError`` when the disk refuses; the old files stay as they were.
    """
    written = Written()
    entries = _counted(pairs, written)
    if path.lower().endswith(".csv"):
        with replacing(path) as stream:
            write_csv(stream, (plain_row(*entry) for entry in entries), last=OUTPUT_COLUMNS)
    elif openai:
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
        written.damaged += finished is not None and ended == "unfinished"
        yield item, finished


def _write_openai(path: str, entries: Iterator[Pair], errors_path: str | None, written: Written) -> None:
    """Successes to ``path``, the rest to the errors file; all in one file where both names are one."""
    failures_path = errors_path or errors_path_of(path)
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
