"""What the command line says about how an input is to be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from swarm.cli.facade import RunRequest
from swarm.config.settings import Settings
from swarm.core.byte_order_mark import ForeignText, without_bom
from swarm.core.model_options import near_option, option_problem
from swarm.core.task import Endpoint, canonical_model
from swarm.errors import InputError
from swarm.formats import Format, ReadOptions
from swarm.formats.input.problems import did_you_mean
from swarm.worker.executors.llm import load_option_conflict
from swarm.worker.executors.structured_output import CHECKS_SCHEMAS, schema_problem

T = TypeVar("T")
FORMATS: dict[str, Format] = {"openai": "openai", "jsonl": "jsonl", "csv": "csv", "text": "text"}
_EXAMPLES = "--option num_predict=64 --option temperature=0"
ENDPOINTS: dict[str, Endpoint] = {"chat": "/api/chat", "generate": "/api/generate", "embed": "/api/embed"}


def read_options(request: RunRequest) -> ReadOptions:
    """The request's reading half, checked. Raises ``InputError``."""
    endpoint = _named("--endpoint", request.endpoint.removeprefix("/api/"), ENDPOINTS) if request.endpoint else "/api/chat"
    return ReadOptions(
        format=_named("--format", request.format, FORMATS) if request.format else None,
        prompt_field=request.prompt_field,
        template=request.template,
        system=request.system,
        model=request.model,
        endpoint=endpoint,
        options=generation_options(request.options),
        limit=request.limit,
        images_dir=request.images_dir,
        schema=None if request.schema is None else _schema(request.schema),
    )


def check_options(settings: Settings, request: RunRequest) -> None:
    """Whether ``--option`` can be meant: else each single item would fail of it. Raises ``InputError``."""
    asked = generation_options(request.options)
    if request.model is None:
        return
    fixed = {canonical_model(name): model.options for name, model in settings.models.items()}
    conflict = load_option_conflict(request.model, asked, fixed.get(canonical_model(request.model), {}))
    if conflict is not None:
        raise InputError(f"--option: {conflict.removeprefix('request.options.')}")


def _named(option: str, text: str, known: Mapping[str, T]) -> T:
    if text not in known:
        raise InputError(f"{option}: {text!r} is not known{did_you_mean(text, known)}")
    return known[text]


def generation_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``num_predict=64`` as a number, ``stop=END`` as a list of one text: a value that is JSON counts as such.

    Raises ``InputError`` for what no server would take and for a misspelt name.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.strip():
            raise InputError(f"--option {pair!r}: no NAME=VALUE", hint=_EXAMPLES)
        name = name.strip()
        meant = near_option(name)
        if meant is not None:
            raise InputError(f"--option {name}: there is no such option", hint=f"did you mean {meant}?")
        value = _value(text)
        found[name] = [value] if name == "stop" and isinstance(value, str) else value
        problem = option_problem(name, found[name])
        if problem is not None:
            raise InputError(f"--option {pair}: {name} {problem}", hint=_EXAMPLES)
    return found


def _value(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _schema(path: Path) -> dict[str, Any]:
    try:
        schema = msgspec.json.decode(without_bom(path.read_bytes()))
    except OSError as exc:
        raise InputError(f"--schema {path}: {exc.strerror}") from exc
    except ForeignText as exc:
        raise InputError(f"--schema {path}: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise InputError(f"--schema {path}: is no JSON: {exc}") from exc
    if not isinstance(schema, dict) or not schema:
        raise InputError(f"--schema {path}: is no JSON Schema", hint='it looks like {"type": "object", "properties": {…}}')
    if not CHECKS_SCHEMAS:
        raise InputError("--schema needs the package jsonschema", hint="pip install 'gpu-swarm[schema]'")
    problem = schema_problem(schema)
    if problem is not None:
        raise InputError(f"--schema {path}: is no valid JSON Schema: {problem}")
    return schema
