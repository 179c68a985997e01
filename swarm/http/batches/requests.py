"""The requests of a batch's input file: each line checked as OpenAI checks it, and made a task.

Only OpenAI's four fields are taken. The other fields that `swarm submit` knows stay with the command line: a client of the
HTTP server names no programs to notify and no tasks to wait for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from swarm.cli.run.input_options import LineCheck
from swarm.cli.run.servable import find_missing
from swarm.config.settings import Settings
from swarm.core.models.engines import EngineCheck
from swarm.filesystem.entries import is_file
from swarm.formats.input.problems import FieldError, did_you_mean, kind
from swarm.formats.input.readers import parse_object
from swarm.formats.input.source import MAX_LINE_BYTES, InputItem, ReadOptions
from swarm.formats.tasks.openai_batch import CHAT, COMPLETIONS, EMBEDDINGS
from swarm.formats.tasks.task_builder import builder
from swarm.plain_text import ForeignText, one_line, without_bom
from swarm.queue.batches.api_batches import BatchProblem

ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS)
MOST_PROBLEMS = 100
MOST_MODELS = 1000
"""Of one batch: its record has the number of requests of each."""
_MESSAGE_CHARS = 300
_PARAM_CHARS = 80
"""Both may quote the client, and all problems of a batch are in its record."""
_FIELDS = ("custom_id", "method", "url", "body")
_PAUSE_EVERY = 200
_CHUNK_BYTES = 1 << 20


class LineProblem(Exception):
    """One line is wrong. ``code`` is OpenAI's; message and ``param`` are short and of one line, whatever they quote."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.message = one_line(message, _MESSAGE_CHARS)
        super().__init__(self.message)
        self.code = code
        self.param = None if param is None else one_line(param, _PARAM_CHARS)

    def at(self, line_no: int | None) -> BatchProblem:
        """For the record of a batch."""
        return BatchProblem(code=self.code, message=self.message, line=line_no, param=self.param)


class BatchRequest(NamedTuple):
    """One good line."""

    key: str
    """Its item key in the batch record, made of its ``custom_id``."""
    custom_id: str
    document: dict[str, Any]
    """A task without its id."""


def item_key(custom_id: str) -> str:
    """20 hex digits: unique in a batch, since its ``custom_id`` is."""
    return hashlib.blake2b(custom_id.encode(), digest_size=10, person=b"swarm-request-1").hexdigest()


class RequestReader:
    """Reads lines of one batch's file."""

    def __init__(self, settings: Settings, endpoint: str) -> None:
        options = ReadOptions(format="openai", raw_completions=EngineCheck(settings).raw_completions)
        self._build = builder("openai", options)
        self._check = LineCheck(settings)
        self._endpoint = endpoint

    def read(self, line_no: int, line: bytes) -> BatchRequest:
        """The request of one line. Raises ``LineProblem``."""
        if len(line) > MAX_LINE_BYTES:
            raise LineProblem("request_too_large", f"The line is longer than {MAX_LINE_BYTES >> 20} MiB.")
        try:
            record = parse_object(line)
        except FieldError as error:
            raise LineProblem("invalid_json_line", f"This line is not parseable as valid JSON: {error}") from error
        self._check_envelope(record)
        try:
            document = self._build(InputItem(line_no, record)).document
            self._check(document)
        except FieldError as error:
            raise LineProblem(_code_of(error), str(error), error.field or None) from error
        return BatchRequest(item_key(record["custom_id"]), record["custom_id"], document)

    def _check_envelope(self, record: dict[str, Any]) -> None:
        for name in record:
            if name not in _FIELDS:
                raise LineProblem("unknown_parameter", f"Unknown parameter: {name}{did_you_mean(name, _FIELDS)}.", name)
        for name, wanted in (("custom_id", str), ("method", str), ("url", str), ("body", dict)):
            if record.get(name) is None or record[name] == "":
                raise LineProblem("missing_required_parameter", f"Missing required parameter: {name}.", name)
            if not isinstance(record[name], wanted):
                must = "a text" if wanted is str else "an object"
                raise LineProblem("invalid_type", f"{name} must be {must}, is {kind(record[name])}.", name)
        if record["method"] != "POST":
            raise LineProblem("invalid_method", f"The method must be POST, is {record['method']!r}.", "method")
        if record["url"] not in ENDPOINTS:
            raise LineProblem("invalid_url", f"{record['url']!r} is not served; there is {', '.join(ENDPOINTS)}.", "url")
        if record["url"] != self._endpoint:
            what = f"The url {record['url']} does not match the endpoint of the batch, {self._endpoint}."
            raise LineProblem("url_mismatch", what, "url")


def _code_of(error: FieldError) -> str:
    if "is missing" in error.message:
        return "missing_required_parameter"
    return "unsupported_parameter" if "not supported" in error.message else "invalid_parameter"


def numbered_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Line numbers (from 1) and lines that are not blank, in flat memory. Of one that is too long, what shows that."""
    with open(path, "rb") as stream:
        line_no = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            line_no += 1
            if len(line) > MAX_LINE_BYTES:
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = stream.readline(_CHUNK_BYTES)
            try:
                text = without_bom(line) if line_no == 1 else line
            except ForeignText:
                text = line  # it is no JSON either, and is reported as that
            if text.strip():
                yield line_no, text


class Checked(msgspec.Struct, frozen=True):
    """What a file holds."""

    total: int
    models: dict[str, int]
    problems: tuple[BatchProblem, ...]


UnknownModels = Callable[[Iterable[str]], dict[str, str]]
"""Of these models, those that no worker has, with what to say of each."""


def check_file(path: str, reader: RequestReader, most: int, unknown: UnknownModels) -> Generator[None, None, Checked]:
    """Read the whole file; yields now and then. Memory: some 100 bytes a request. Stops after ``MOST_PROBLEMS``."""
    if not is_file(path):
        return Checked(0, {}, (BatchProblem(code="file_not_found", message="The input file is not there any more."),))
    problems: list[BatchProblem] = []
    lines: dict[str, int] = {}
    models: dict[str, int] = {}
    first: dict[str, int] = {}
    for line_no, line in numbered_lines(path):
        if len(lines) % _PAUSE_EVERY == 0:
            yield
        if len(problems) >= MOST_PROBLEMS:
            break
        if len(lines) >= most:
            problems.append(BatchProblem(code="too_many_tasks", message=f"The file has more than {most} requests."))
            break
        try:
            request = reader.read(line_no, line)
            if request.key in lines:
                again = f"The custom_id {request.custom_id!r} is already used on line {lines[request.key]}."
                raise LineProblem("duplicate_custom_id", again, "custom_id")
        except LineProblem as found:
            problems.append(found.at(line_no))
            continue
        lines[request.key] = line_no
        model = str(request.document["model"])
        if model not in models and len(models) >= MOST_MODELS:
            many = LineProblem("too_many_models", f"A batch may name {MOST_MODELS} models, this is one more.", "body.model")
            problems.append(many.at(line_no))
            break
        models[model] = models.get(model, 0) + 1
        first.setdefault(model, line_no)
    if not lines and not problems:
        problems.append(BatchProblem(code="empty_file", message="The file has no requests."))
    for model, why in unknown(models).items() if models else ():
        problems.append(LineProblem("model_not_found", why, "body.model").at(first[model]))
    return Checked(len(lines), models, tuple(sorted(problems, key=lambda p: p.line or 0)[:MOST_PROBLEMS]))


def unknown_models(settings: Settings) -> UnknownModels:
    """By what all workers of the swarm have; nothing is unknown while one of them is away."""

    def unknown(models: Iterable[str]) -> dict[str, str]:
        found = find_missing(settings, models)
        return {model: f"{problem.message}. {problem.hint or ''}".rstrip() for model, problem in found.items()}

    return unknown
