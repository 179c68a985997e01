"""Checks a configuration: unknown keys, wrong types, keys that contradict one another.

Pure: documents in, one line per finding out.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from swarm.config.settings import Settings, WorkerSpec, script_entry
from swarm.core.models.engines import engine_problems, placeholder_problem
from swarm.core.models.model_options import option_problems
from swarm.core.nodes.relay_workers import relay_problems
from swarm.core.placement.worker_plan import RESERVED_NAMES
from swarm.core.policy.script_entries import script_faults
from swarm.errors import nearest

KeyPath = tuple[str | int, ...]
_MAY_BE_PATHS = frozenset({("queue", "root"), ("ollama", "binary")})
_NEVER_EMPTY = frozenset({("queue", "root"), ("ollama", "binary")})
Place = Callable[[KeyPath], str]
"""Tells where a key stands, as the start of a message: ``swarm.toml, line 3: ``."""


def dotted(key: KeyPath) -> str:
    """A key path as it is written: ``brain.tick_s``, ``workers[0].port``, ``models."llama3.2:3b".keep_alive``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"')
    return text


def check(value: object, place: Place, kind: object = Settings, key: KeyPath = ()) -> Iterator[str]:
    """Every finding in a raw document, one line each: unknown keys with the nearest known name, wrong types, bad values."""
    if is_section(kind):
        yield from _check_section(value, place, kind, key)
        return
    inner = get_args(kind)
    if table := table_form(kind):
        short = next(form for form in inner if form is not table)
        yield from check(value, place, table if isinstance(value, dict) else short, key)
    elif get_origin(kind) is dict and isinstance(value, dict) and inner[1] is not Any:
        for name, item in value.items():
            if bad_name := _plain_problem(name, inner[0], ()):
                yield f"{place((*key, name))}{dotted((*key, name))}: {bad_name}"
            yield from check(item, place, inner[1], (*key, name))
    elif get_origin(kind) is dict and isinstance(value, dict) and key[:1] == ("models",):
        for name, problem in option_problems(value):
            yield f"{place((*key, name))}{dotted((*key, name))}: {problem}"
    elif get_origin(kind) is tuple and isinstance(value, list):
        for index, item in enumerate(value):
            yield from check(item, place, inner[0], (*key, index))
    elif found := _plain_problem(value, kind, key):
        yield f"{place(key)}{dotted(key)}: {found}"


def _plain_problem(value: object, kind: object, key: KeyPath) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no usable number"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character, which no file name, argument or variable can"
    if isinstance(value, str) and key not in _MAY_BE_PATHS and re.search("[\ud800-\udfff]", value):
        return "is not UTF-8"
    if key in _NEVER_EMPTY and value == "":
        return "is empty; leave it out for the default"
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        return words(problem, kind)
    in_command = key[:1] == ("engines",) and key[2:3] == ("command",)
    return placeholder_problem(value) if in_command and isinstance(value, str) else None


def _check_section(value: object, place: Place, kind: type[msgspec.Struct], key: KeyPath) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place(key)}{dotted(key)}: expected a table, got {value!r}"
        return
    types, known = types_of(kind), kind.__struct_fields__
    for name, item in value.items():
        if name in known:
            yield from check(item, place, types[name], (*key, name))
        else:
            what = "section" if not key and isinstance(item, dict) else "key"
            meant = nearest(name, known)
            hint = f", did you mean {meant[0]!r}?" if meant else f"; known are: {', '.join(known)}"
            yield f"{place((*key, name))}unknown {what} {dotted((*key, name))!r}{hint}"
    for name in _required(kind):
        if name not in value:
            yield f"{place(key)}{dotted(key)}: {name!r} is missing"


@functools.cache
def types_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each key of a section. Worked out once: it takes longer than all else about a configuration."""
    return get_type_hints(kind, include_extras=True)


@functools.cache
def _required(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.required)


def cross_checks(settings: Settings, place: Place) -> Iterator[str]:
    """Findings about several keys that contradict one another; ``place`` is told the key that they stand at."""
    everywhere = place(())
    yield from (f"{everywhere}{line}" for line in _contradictions(settings))
    for key, text in (*engine_problems(settings), *relay_problems(settings)):
        yield f"{place(key)}{dotted(key)}: {text}"
    for name, entry in settings.engines.items():
        if entry.url is not None and not _is_address(entry.url):
            key = ("engines", name, "url")
            yield f"{place(key)}{dotted(key)}: {entry.url!r} is no http:// or https:// address"


def _contradictions(settings: Settings) -> Iterator[str]:
    if settings.feed.min > settings.feed.target:
        yield f"feed.min ({settings.feed.min}) must not be above feed.target ({settings.feed.target})"
    if settings.retry.backoff_base_s > settings.retry.backoff_cap_s:
        yield "retry.backoff_base_s must not be above retry.backoff_cap_s"
    if settings.gpu.resume_c >= settings.gpu.warn_c:
        yield f"gpu.resume_c ({settings.gpu.resume_c:g}) must be below gpu.warn_c ({settings.gpu.warn_c:g})"
    if settings.repair.quarantine_s > settings.repair.quarantine_cap_s:
        yield "repair.quarantine_s must not be above repair.quarantine_cap_s"
    if settings.worker.heartbeat_stale_s <= 2 * settings.worker.heartbeat_s:
        yield "worker.heartbeat_stale_s must be more than twice worker.heartbeat_s, or healthy workers are taken for hung"
    last = settings.ollama.base_port + max(16, len(settings.workers)) - 1
    if settings.ollama.base_port < 1024 or last > 65535:
        yield f"ollama.base_port = {settings.ollama.base_port}: its last port would be {last}; choose from 1024 to 65520"
    for name, entry in settings.scripts.items():
        yield from script_faults(dotted(("scripts", name)), script_entry(entry))
    yield from _worker_checks(settings.workers)


def _worker_checks(workers: tuple[WorkerSpec, ...]) -> Iterator[str]:
    names: dict[str, int] = {}
    ports: dict[int, str] = {}
    for index, worker in enumerate(workers):
        where = f"workers[{index}]"
        if worker.name in names:
            yield f"{where}.name: {worker.name!r} is taken by workers[{names[worker.name]}]"
        if worker.name in RESERVED_NAMES or worker.name.startswith(("ollama-", "models-")):
            yield f"{where}.name: {worker.name!r} is reserved for swarm's own processes and logs"
        if worker.port is not None and worker.port < 1024:
            yield f"{where}.port: {worker.port} is reserved for root; choose from 1024 to 65535"
        if worker.port is not None and worker.port in ports:
            yield f"{where}.port: {worker.port} is taken by worker {ports[worker.port]!r}"
        if worker.port is not None and worker.ollama_url is not None:
            yield f"{where}: give port (swarm starts a server) or ollama_url (yours runs already), not both"
        if worker.ollama_url is not None and not _is_address(worker.ollama_url):
            yield f"{where}.ollama_url: {worker.ollama_url!r} is no http:// or https:// address"
        if len(set(worker.gpus)) < len(worker.gpus) or any(card < 0 for card in worker.gpus):
            yield f"{where}.gpus: each card index once, from 0"
        names.setdefault(worker.name, index)
        if worker.port is not None:
            ports.setdefault(worker.port, worker.name)


def _is_address(url: str) -> bool:
    """Whether it is an address of HTTP whose host and port can be looked up."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and not re.search(r"\s", url)


def is_section(kind: object) -> TypeGuard[type[msgspec.Struct]]:
    """Whether a type is a table with fixed keys."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def table_form(kind: object) -> type[msgspec.Struct] | None:
    """Of a key with a short form and a table (``[scripts]``): the table's type; None for any other key."""
    return next(filter(is_section, get_args(kind)), None) if isinstance(kind, UnionType) else None


def _plain(kind: object) -> object:
    """A type without its constraints."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def words(problem: Exception, kind: object = None) -> str:
    """A msgspec finding in plain words, with the choices where there are few."""
    text = str(problem).replace("`", "").removesuffix(" - at $")
    choices = next((one for one in (kind, *get_args(kind)) if get_origin(one) is Literal), None)
    if choices is not None and choices is not kind and int in map(_plain, get_args(kind)):
        number = "int" if "enum" in text else text.removeprefix("Expected ").replace("int | str", "int")
        return f"expected {number}, or one of: {', '.join(get_args(choices))}"
    if choices is not None:
        return f"{text}; one of: {', '.join(get_args(choices))}"
    if "matching regex" in text and "._-]" in text:
        return "expected letters, digits, ., - and _ (the first a letter or digit)"
    if "matching regex" in text and "A-Za-z_][" not in text:
        return "expected letters, digits, - and _ (at most 32, the first a letter or digit)"
    if "A-Za-z_" in text:
        return "expected the name of a variable: letters, digits and _, the first no digit"
    if re.search(r"> 0(\.0)?$", text):
        text = f"{text} (it cannot be switched off)"
    return text.replace("Expected", "expected", 1)
