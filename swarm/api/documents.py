"""Turns what a caller passes (prompt, messages, dictionary) into task documents."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from swarm.core.models.model_options import KNOWN_OPTIONS, OF_OTHERS
from swarm.core.workflow.dag import Links, linked
from swarm.errors import InputError
from swarm.formats.input.problems import FieldError, did_you_mean
from swarm.formats.input.source import InputItem, ReadOptions
from swarm.formats.tasks.columns import FIELD_NAMES
from swarm.formats.tasks.links import check_references
from swarm.formats.tasks.scan import Draft
from swarm.formats.tasks.task_builder import DIGEST_BYTES, Built, builder

Work = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A prompt; chat messages; or a dictionary: a line as in a JSONL input, or a whole task (``request`` or ``command``)."""
_READING = ("system", "endpoint", "options", "prompt_field", "name_field", "images_dir")
_REQUEST = ("format", "think", "tools")
"""Keywords that go into Ollama's request as they are; ``format`` may be a JSON Schema."""
_WHOLE = ("command", "action", "request")
_AS_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
"""How findings about a line name an option of the command line; here it is a keyword."""
_encode = msgspec.json.Encoder(order="sorted").encode


class DocumentMaker:
    """Makes documents that share a model, a template and fields. Raises ``InputError`` for what cannot be meant."""

    def __init__(self, *, model: str | None, template: str | None = None, fields: Mapping[str, Any]) -> None:
        known = (*sorted(FIELD_NAMES), *_READING, *_REQUEST)
        for name, value in fields.items():
            if name in KNOWN_OPTIONS or name in OF_OTHERS:
                hint = f"it is a generation option: options={{{OF_OTHERS.get(name, name)!r}: {value!r}}}"
                raise InputError(f"unknown field {name!r}", hint=hint)
            if name not in known:
                raise InputError(f"unknown field {name!r}{did_you_mean(name, known)}")
        reading = {name: fields[name] for name in _READING if name in fields}
        self._given = (*reading, *(name for name in _REQUEST if name in fields))
        self._options = ReadOptions(format="jsonl", model=model, template=template, **reading)
        self._build = builder("jsonl", self._options)
        self._extra = {name: fields[name] for name in _REQUEST if name in fields}
        self._fields = {name: value for name, value in fields.items() if name in FIELD_NAMES and name != "options"}

    def make(self, work: Work, index: int = 0) -> Built:
        """The document for one piece of work. Raises ``InputError`` naming the item (from 0) and the field."""
        match work:
            case str():
                record: dict[str, Any] = {"prompt": work}
            case Mapping():
                record = dict(work)
            case _:
                record = {"messages": _messages(work, index)}
        record = plain(record)
        if self._is_task(record):
            document = self._whole(record, index)
            digest = hashlib.blake2b(_encode(document), digest_size=DIGEST_BYTES, person=b"swarm-item-2").digest()
            return Built(index, document, digest)
        record = {**self._fields, **record}
        if self._extra:
            record["request"] = {**self._extra, **(record.get("request") or {})}
        try:
            return self._build(InputItem(index, record))
        except FieldError as error:
            raise InputError(f"item {index}: {_AS_OPTION.sub(_as_keyword, str(error))}") from error

    def _whole(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """A whole task with what the keywords add to it."""
        document = {**self._fields, **record}
        asks = "request" in document and document.get("task_class", "llm") == "llm"
        without = [name for name in self._given if name not in {"options", *_REQUEST} or not asks]
        if without:
            raise InputError(
                f"item {index}: {', '.join(without)} has no meaning beside a whole task",
                hint="put it into the task's own fields, or pass a prompt",
            )
        if asks and self._options.model is not None:
            document.setdefault("model", self._options.model)
        request = document.get("request")
        if asks and isinstance(request, Mapping) and (self._extra or self._options.options):
            options = {**(self._options.options or {}), **(request.get("options") or {})}
            document["request"] = {**self._extra, **request, **({"options": options} if options else {})}
        return document

    def _is_task(self, record: Mapping[str, Any]) -> bool:
        if self._options.template is not None or self._options.prompt_field is not None:
            return False
        return not {"prompt", "messages"} & record.keys() and any(name in record for name in _WHOLE)


def _messages(work: object, index: int) -> list[dict[str, Any]]:
    if isinstance(work, Sequence) and all(isinstance(message, Mapping) for message in work):
        return [dict(message) for message in work]
    what = f"must be a prompt, a list of chat messages or a dictionary, is {type(work).__name__}"
    raise InputError(f"item {index}: {what}")


def _as_keyword(option: re.Match[str]) -> str:
    return f"{option[1].replace('-', '_')}="


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same with ids for handles in ``depends_on``, and texts for paths in ``images`` and ``images_dir``."""
    found = dict(fields)
    if isinstance(found.get("images"), str | os.PathLike):
        found["images"] = [found["images"]]
    for name in ("depends_on", "images"):
        if isinstance(found.get(name), list | tuple):
            found[name] = [_text(getattr(one, "id", one)) for one in found[name]]
    if found.get("images_dir") is not None:
        found["images_dir"] = _text(found["images_dir"])
    return found


def _text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class EarlierNames:
    """Names of tasks submitted one by one, so that later ones can wait for them by name; the last of a name counts."""

    def __init__(self, exists: Callable[[str], object]) -> None:
        self._exists = exists
        self._ids: dict[str, str] = {}

    def note(self, document: Mapping[str, Any], task_id: str) -> None:
        """Record that this task is in the queue."""
        for field in ("name", "custom_id"):
            if document.get(field):
                self._ids[document[field]] = task_id

    def linked(self, document: dict[str, Any]) -> Mapping[str, Any]:
        """The document with task ids for names. Raises ``InputError`` for one that is neither a name nor an id."""
        wants = document.get("depends_on")
        if not wants:
            return document
        if not isinstance(wants, list | tuple) or not all(isinstance(name, str) for name in wants):
            raise InputError("depends_on: must be a list of names, task ids or handles")
        for name in wants:
            if name not in self._ids and not self._exists(name):
                meant = did_you_mean(name, self._ids)
                raise InputError(f"depends_on: {name!r} is no name of an earlier task and no task of the queue{meant}")
        try:
            check_references(document)
        except FieldError as error:
            raise InputError(str(error)) from error
        used = {name: name for name in wants if name in self._ids}
        return linked(document, Links(keys=tuple(used), names=used), self._ids)


def is_linked(items: Sequence[Any], fields: Mapping[str, Any]) -> bool:
    """Whether any item depends on others; cheap where none does."""
    if fields.get("depends_on"):
        return bool(items)
    return any(isinstance(work, Mapping) and work.get("depends_on") for work in items)


def drafts_of(pairs: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Draft]:
    """(Item key, document) pairs as lines of a file, counted from 0. Raises ``InputError`` for no names to wait for."""
    for index, (key, document) in enumerate(pairs):
        wants = document.get("depends_on", ())
        if not isinstance(wants, list | tuple) or not all(isinstance(name, str) for name in wants):
            raise InputError(f"item {index}: depends_on: must be a list of names or task ids")
        yield Draft(key, index, document)
