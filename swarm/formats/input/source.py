"""Inputs: how to read one, its lines from a file or from a pipe (copied, to be read twice), and one item of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec

from swarm.core.task import Endpoint
from swarm.errors import InputError
from swarm.formats.input.problems import FieldError, Problems
from swarm.plain_text import ForeignText, without_bom

T = TypeVar("T")
Format = Literal["openai", "jsonl", "csv", "text"]


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that turns lines into tasks. Whatever a line says itself wins over what is said here.

    The one exception is ``model`` with OpenAI input: there every line must name a model, most often one that no local
    server has, so ``model`` replaces it.
    """

    format: Format | None = None
    """None: found by the file's extension; for ``.jsonl`` by its first line, OpenAI batch or plain."""
    prompt_field: str | None = None
    """Column that holds the prompt (text) or the messages (list). None: ``prompt`` or ``messages``."""
    template: str | None = None
    """Prompt built from columns: ``Translate {text} to {lang}``; ``{{`` and ``}}`` stand for braces."""
    system: str | None = None
    """System prompt; a line whose messages bring their own keeps its own."""
    model: str | None = None
    endpoint: Endpoint = "/api/chat"
    """Where plain lines go; OpenAI lines say it by their ``url``."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Generation options in Ollama's format, such as ``{"temperature": 0, "num_predict": 200}``."""
    schema: dict[str, Any] | None = None
    """A JSON Schema that every answer must fit; a line that brings its own ``format`` keeps it."""
    images_dir: str | None = None
    """Directory of the images that lines name. None: that of the input, for pipes the current one. No part of the batch's
    identity, since each item's own covers its images."""
    limit: int | None = None
    """Read only so many items. No part of the batch's identity: a later run without it does the rest."""
    name_field: str | None = None
    """Column whose value names the task in lists and logs."""
    raw_completions: Callable[[str], bool] = lambda _model: False
    """Whether text completions of an OpenAI batch for this model are ``raw`` (``formats.tasks.openai_batch.map_body``)."""

    def meaning(self) -> dict[str, Any]:
        """The options that change what is asked, ready to be hashed; ``format`` is left to whoever resolved it."""
        schema = {} if self.schema is None else {"schema": self.schema}
        return schema | {
            "model": self.model,
            "template": self.template,
            "prompt_field": self.prompt_field,
            "system": self.system,
            "endpoint": self.endpoint,
            "options": self.options,
        }


class InputItem(msgspec.Struct, frozen=True):
    """One line (CSV: one row) as columns and values."""

    line_no: int
    """From 1; of a row that spans lines, the first."""
    record: dict[str, Any]


MAX_LINE_BYTES = 8 << 20
"""No longer line can become a task of at most 1 MiB, however it is escaped, so no line needs more memory than this."""
STDIN = "-"
_COPY_CHUNK = 1 << 20


class Source(msgspec.Struct, frozen=True):
    """A readable input that stays the same between two readings."""

    path: str
    """A regular file; for a pipe, the temporary copy."""
    label: str
    """How messages call it: as the user typed it."""
    identity: str
    """Stable across runs: the absolute path, or for a pipe a hash of what came through it."""

    @property
    def folder(self) -> str:
        """Where what it names lies: beside it; for a pipe in the current directory."""
        return os.curdir if self.identity.startswith("pipe:") else os.path.dirname(os.path.abspath(self.path))

    def stamp(self) -> tuple[int, int]:
        """Size and modification time (ns): whether the file changed between two readings."""
        info = os.stat(self.path)
        return info.st_size, info.st_mtime_ns


def source_of(path: str | Source) -> Source:
    """A regular file as a source. Raises ``InputError`` for what is none; pipes need ``opened``."""
    if isinstance(path, Source):
        return path
    if path == STDIN:
        raise InputError("standard input must be kept before it can be read twice", hint="use opened('-')")
    _check_readable(path)
    return Source(path=path, label=path, identity=as_text(os.path.abspath(path)))


def as_text(path: str) -> str:
    """A path for documents, which are UTF-8: bytes that are none are escaped. Most are what they were."""
    return path.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def opened(path: str) -> Iterator[Source]:
    """A source for as long as the block lasts. ``-`` and pipes are copied to a temporary file that is removed after it.

    Raises ``InputError`` when there is no such file or it cannot be read.
    """
    if path == STDIN:
        with _spooled(sys.stdin.buffer, label="<stdin>") as source:
            yield source
        return
    _check_readable(path)
    if stat.S_ISREG(os.stat(path).st_mode):
        yield source_of(path)
        return
    with open(path, "rb") as pipe, _spooled(pipe, label=path) as source:
        yield source


@contextlib.contextmanager
def _spooled(stream: BinaryIO, *, label: str) -> Iterator[Source]:
    import tempfile  # noqa: PLC0415  (only pipes need it)

    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(prefix="swarm-input-") as copy:
        while chunk := stream.read(_COPY_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        yield Source(path=copy.name, label=label, identity=f"pipe:{digest.hexdigest()}")


def read_json(path: str, label: str, kind: type[T]) -> T:
    """A file, or standard input (``-``), as JSON of this kind. Raises ``InputError`` that begins with ``label``."""
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        return msgspec.json.decode(without_bom(data), type=kind)
    except OSError as error:
        raise InputError(f"{label}: {error.strerror}") from error
    except ForeignText as error:
        raise InputError(f"{label}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{label}: not a JSON object: {error}") from error


def _check_readable(path: str) -> None:
    if not path:
        raise InputError("the input's name is empty", hint="name a file, or - for standard input")
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}", hint="check the path") from error
    if stat.S_ISDIR(info.st_mode):
        raise InputError(f"{path}: is a directory, not a file of prompts", hint="name one file in it")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read: permission denied", hint="check who owns it: ls -l")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def raw_lines(source: Source, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """Line numbers (from 1) and lines with their ends, without a byte order mark. Over-long lines become problems.

    Only LF ends a line: JSON and prompts may hold the other characters that Unicode calls line ends.
    """
    line_no = 0
    with open(source.path, "rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            line_no += 1
            if line_no == 1:
                line = first_line(source.label, line)
            if len(line) > MAX_LINE_BYTES:
                _skip_to_end_of_line(stream, line)
                problems.add(line_no, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB; a task may have 1 MiB")
                continue
            yield line_no, line


def lines(source: Source, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """Like ``raw_lines``, but without line ends (LF or CRLF) and without blank lines."""
    for line_no, line in raw_lines(source, problems):
        text = line.rstrip(b"\r\n")
        if text and not text.isspace():
            yield line_no, text


def first_line(label: str, line: bytes) -> bytes:
    """The first line of a text without its byte order mark. Raises ``InputError`` for a text that is no UTF-8."""
    try:
        return without_bom(line)
    except ForeignText as error:
        encoding = error.encoding
        raise InputError(
            f"{label}:1: the file is {encoding}, not UTF-8",
            problems=(f"{label}:1: byte 1: a {encoding} byte order mark",),
            hint=f"convert it: iconv -f {encoding.lower()} -t utf-8 {label}",
        ) from error


def _skip_to_end_of_line(stream: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(_COPY_CHUNK)


def text_of(raw: bytes) -> str:
    """A line as text. Raises ``FieldError`` for bytes that are none."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FieldError("", not_utf8(error)) from error
    if "\x00" in text:
        raise FieldError("", nul_at(raw))
    return text


def nul_at(raw: bytes) -> str:
    """The message for a NUL byte; counts from 1."""
    return f"byte {raw.index(0) + 1} is NUL; this is no text file, or it is damaged"


def not_utf8(error: UnicodeDecodeError) -> str:
    """The message for bytes that are no UTF-8; counts bytes of the line from 1."""
    bad = error.object[error.start]
    return f"byte {error.start + 1} (0x{bad:02x}) is no UTF-8; convert the file, say with: iconv -f latin1 -t utf-8"
