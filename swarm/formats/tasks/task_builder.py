"""Makes of one input item one task document, with the digest of what it asks.

The task keeps the input's columns, each text once, so that the output can be written from it alone: ``metadata`` gets
``columns`` (all names, in the input's order) and ``input`` (the values that the task does not hold elsewhere). What the
request or ``custom_id`` holds already is read back from there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from swarm.core.models.model_options import option_problems
from swarm.core.task import MAX_TASK_BYTES, MODEL_PATTERN
from swarm.errors import InputError
from swarm.formats.input.images import image_refs
from swarm.formats.input.problems import FieldError, did_you_mean, kind, need_object, need_text
from swarm.formats.input.source import Format, InputItem, ReadOptions
from swarm.formats.tasks.columns import CONTENT_FIELDS, FIELD_NAMES, build_request, compile_template, task_fields
from swarm.formats.tasks.openai_batch import map_body

DIGEST_BYTES = 16
"""128 bits: among 10 million items a false clash has a chance of 1 in 10^25, so none has to be looked at again."""
_ENVELOPE_BYTES = 1024
"""Room for what the queue adds to a document (id, times, batch)."""
_SCHEDULING = ("priority", "not_before", "timeout_s", "max_attempts", "notify", "cache")
_OPENAI_FIELDS = ("custom_id", "method", "url", "body")
_MODEL = re.compile(MODEL_PATTERN)
_encode = msgspec.json.Encoder(order="sorted").encode


class Built(msgspec.Struct, frozen=True):
    """A checked item: the document for the queue and the digest of its content."""

    line_no: int
    document: dict[str, Any]
    digest: bytes


def builder(form: Format, options: ReadOptions) -> Callable[[InputItem], Built]:
    """The function that builds items of this format. It raises ``FieldError``; this raises ``InputError`` (template)."""
    _check_options(options)
    if form == "openai":
        return lambda item: _finish(item, _openai_document(item.record, options), {})
    template = None if options.template is None else compile_template(options.template)

    def build(item: InputItem) -> Built:
        fields: dict[str, Any] = {}
        if not FIELD_NAMES.isdisjoint(item.record):
            fields = task_fields(item.record, text_only=form == "csv", prompt_field=options.prompt_field)
        endpoint = fields.get("endpoint", options.endpoint)
        extra, own = fields.get("request") or {}, fields.get("options") or {}
        request, column = build_request(item.record, options, template, endpoint=endpoint, extra=extra, own=own)
        document = _document(fields, endpoint, request, fields.get("model") or options.model)
        if fields.get("images"):
            document["images"] = _images(fields["images"], endpoint, options)
        if options.name_field is not None:
            document["name"] = _name(item.record, options.name_field)
        document["metadata"] = {**fields.get("metadata", {}), "format": form}
        packed = pack(item.record, document, column)
        return _finish(item, document, packed)

    return build


def _check_options(options: ReadOptions) -> None:
    if options.model is not None and not _MODEL.search(options.model):
        raise InputError(f"model: {options.model!r} is no model name", hint="write it like llama3.2:3b")
    for name, problem in option_problems(options.options):
        raise InputError(f"options.{name}: {problem}", hint='in the format of Ollama, such as {"num_predict": 64}')
    if options.system and options.endpoint == "/api/embed":
        raise InputError("system: embeddings take no system prompt", hint="leave --system out")
    if options.schema is not None and options.endpoint == "/api/embed":
        raise InputError("schema: embeddings are no JSON", hint="leave --schema out")


def _document(fields: Mapping[str, Any], endpoint: str, request: dict[str, Any], model: str | None) -> dict[str, Any]:
    if model is None:
        raise FieldError("model", "is missing; name one with --model, or on the line")
    document: dict[str, Any] = {"task_class": "llm", "model": model, "endpoint": endpoint, "request": request}
    if fields:
        document |= {name: fields[name] for name in (*CONTENT_FIELDS, *_SCHEDULING) if name in fields}
    return document


def _openai_document(record: Mapping[str, Any], options: ReadOptions) -> dict[str, Any]:
    for name in record:
        if name not in _OPENAI_FIELDS and name not in FIELD_NAMES:
            raise FieldError(name, f"unknown field of a batch line{did_you_mean(name, _OPENAI_FIELDS)}")
    for name in ("request", "endpoint", "model", "options"):
        if name in record:
            raise FieldError(name, "belongs to plain lines; an OpenAI line sets this by its url and body")
    if record.get("images") is not None:
        raise FieldError("images", "belongs to plain lines; an OpenAI line holds images in its messages, as data: URIs")
    need_text(record.get("custom_id"), "custom_id")
    if record.get("method", "POST") != "POST":
        raise FieldError("method", f"must be POST, is {record['method']!r}")
    body = need_object(record.get("body"), "body")
    raw = options.system is None and options.raw_completions(str(options.model or body.get("model") or ""))
    mapped = map_body(need_text(record.get("url"), "url"), body, raw=raw)
    fields = task_fields(record, text_only=False)
    request = mapped.request
    if options.options and mapped.endpoint != "/api/embed":
        request["options"] = {**options.options, **request.get("options", {})}
    if options.schema is not None and mapped.endpoint != "/api/embed":
        request.setdefault("format", options.schema)
    _add_system(request, options.system)
    model = options.model or mapped.model
    if model is None:
        raise FieldError("body.model", "is missing; name one with --model, or in the body")
    if not _MODEL.search(model):
        raise FieldError("body.model", f"{model!r} is no model name; write it like llama3.2:3b")
    document = _document(fields, mapped.endpoint, request, model)
    document["metadata"] = {**fields.get("metadata", {}), "format": "openai", "url": record["url"], **mapped.notes}
    return document


def _add_system(request: dict[str, Any], system: str | None) -> None:
    if not system:
        return
    if "prompt" in request:
        request["system"] = system
    elif "messages" in request and request["messages"][0]["role"] != "system":
        request["messages"].insert(0, {"role": "system", "content": system})


def _images(paths: list[str], endpoint: str, options: ReadOptions) -> list[dict[str, str]]:
    if endpoint == "/api/embed":
        raise FieldError("images", "embeddings take no images")
    return image_refs(paths, options.images_dir or os.curdir)


def _name(record: Mapping[str, Any], column: str) -> str:
    if column not in record:
        raise FieldError(column, f"the name's column is not here{did_you_mean(column, record)}")
    match record[column]:
        case str() as text:
            return text
        case int() as number:
            return str(number)
        case other:
            raise FieldError(column, f"a name must be a text or a whole number, is {kind(other)}")


def _finish(item: InputItem, document: dict[str, Any], packed: Mapping[str, Any]) -> Built:
    """Add the echo, check the size, take the digest.

    The digest covers what is asked and what is echoed, in any order of columns; not when or how often it runs, so that
    a changed priority makes no new item.
    """
    metadata = document["metadata"]
    content = {name: value for name, value in document.items() if name not in _SCHEDULING}
    content["metadata"] = {**metadata, **packed, "columns": None}
    encoded = _encode(content)
    digest = hashlib.blake2b(encoded, digest_size=DIGEST_BYTES, person=b"swarm-item-1").digest()
    metadata |= packed
    if len(encoded) > MAX_TASK_BYTES // 2:
        size = len(_encode(document)) + _ENVELOPE_BYTES
        if size > MAX_TASK_BYTES:
            raise FieldError("", f"makes a task of {size:,} bytes; a task may have {MAX_TASK_BYTES:,} (1 MiB)")
    return Built(item.line_no, document, digest)


_ABSENT = object()


def pack(record: Mapping[str, Any], document: Mapping[str, Any], prompt_column: str | None) -> dict[str, Any]:
    """The metadata entries for ``record``: ``columns``, and as far as needed ``input`` and where the prompt came from."""
    kept = dict(record)
    packed: dict[str, Any] = {"columns": list(record)}
    if kept.get("custom_id", _ABSENT) == document.get("custom_id"):
        del kept["custom_id"]
    if prompt_column is not None:
        held = "prompt_column" if isinstance(record[prompt_column], str) else "messages_column"
        if _prompt(document, held) == record[prompt_column]:
            del kept[prompt_column]
            packed[held] = prompt_column
    if kept:
        packed["input"] = kept
    return packed


def unpack(document: Mapping[str, Any]) -> dict[str, Any]:
    """The input's columns of a task, in the input's order. Tasks that came from no file have at most a ``custom_id``."""
    metadata = document.get("metadata") or {}
    kept = metadata.get("input")
    kept = kept if isinstance(kept, dict) else {}
    columns = metadata.get("columns")
    if not isinstance(columns, list):
        custom_id = document.get("custom_id")
        return {**({} if custom_id is None else {"custom_id": custom_id}), **kept}
    return {name: kept[name] if name in kept else _held(document, metadata, name) for name in columns}


def _held(document: Mapping[str, Any], metadata: Mapping[str, Any], name: str) -> object:
    for held in ("prompt_column", "messages_column"):
        if metadata.get(held) == name:
            return _prompt(document, held)
    return document.get(name)


def _prompt(document: Mapping[str, Any], held: str) -> object:
    """The prompt in a request: as the text of its last message, or as the list it was given as."""
    request = document.get("request") or {}
    messages = request.get("messages")
    if messages is None:
        return request.get("prompt", request.get("input"))
    if held == "messages_column":
        return messages
    return messages[-1].get("content") if messages else None
