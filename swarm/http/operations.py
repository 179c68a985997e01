"""The operations of the API: what each takes, answers and needs. Routes and the OpenAPI document are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import EnumType
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from swarm.errors import name_hint
from swarm.http.answers import ApiError
from swarm.http.parts import Scope

Handler = Callable[[Request], Awaitable[Response]]
Asked = TypeVar("Asked", bound=msgspec.Struct)


class NoQuery(msgspec.Struct, frozen=True, kw_only=True):
    """An operation without query parameters."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """As Starlette writes it: ``/swarm/tasks/{task_id}``, ``/swarm/explain/{target:path}``."""
    name: str
    """Unique."""
    group: str
    summary: str
    scope: Scope
    query: type[msgspec.Struct] = NoQuery
    """Its query parameters are the fields of this."""
    body: Any = None
    """Type of the JSON body that it takes; None: none."""
    body_media_type: str = "application/json"
    body_required: bool = True
    answer: Any = None
    """Type of the JSON answer; None: see ``media_types``."""
    media_types: tuple[str, ...] = ("application/json",)
    status: int = 200
    errors: tuple[int, ...] = ()
    """Statuses of refusals beyond those that every operation has."""


def route(operation: Operation, handler: Handler) -> Route:
    """Refuses query parameters that the operation does not have."""

    async def endpoint(request: Request) -> Response:
        _check_names(request, operation.query)
        return await handler(request)

    return Route(operation.path, endpoint, methods=[operation.method], name=operation.name)


def query_of(request: Request, kind: type[Asked]) -> Asked:
    """The query parameters as ``kind``. Raises ``ApiError`` that names the one at fault."""
    _check_names(request, kind)
    types = {field.encode_name: _plain(field.type) for field in msgspec.structs.fields(kind)}
    raw: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        value: object = "true" if types[name] is bool and not text else text  # `?follow` alone
        if get_origin(types[name]) is tuple:
            raw.setdefault(name, []).append(value)
        elif text.lower() == "null" and types[name] is not str:  # msgspec would take it for an absent one
            raise ApiError(400, f"query parameter {name}: null is no value", param=name, hint="leave it out")
        elif name in raw:
            raise ApiError(400, f"query parameter {name!r} is given twice", param=name)
        else:
            raw[name] = value
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as problem:
        raise _invalid(problem, "query parameter", types) from problem


async def body_of(request: Request, kind: type[Asked], *, otherwise: Asked | None = None) -> Asked:
    """The JSON body as ``kind``; ``otherwise`` where it is empty. Raises ``ApiError`` that names the field at fault."""
    data = await request.body()
    if not data and otherwise is not None:
        return otherwise
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as problem:
        raise _invalid(problem, "body") from problem
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ApiError(400, f"the body is no JSON document: {problem}") from problem


def _check_names(request: Request, kind: type[msgspec.Struct]) -> None:
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    for name in request.query_params:
        if name not in known:
            hint = name_hint(name, known, "there are:") if known else "this path takes none"
            raise ApiError(400, f"there is no query parameter {name!r} here", param=name, hint=hint)


def _plain(kind: Any) -> Any:  # noqa: ANN401 - types
    """A type without its constraints, and what an optional one is if it is given."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return _plain(next(part for part in get_args(kind) if part is not type(None)))
    return kind


def _invalid(problem: msgspec.ValidationError, place: str, types: Mapping[str, Any] | None = None) -> ApiError:
    """``Expected `int`, got `str` - at `$.limit` ``: the field is the parameter."""
    text, _, path = str(problem).partition(" - at `")
    field = path.rstrip("`").removeprefix("$").lstrip(".").partition("[")[0] or None
    if field is None and (named := text.rpartition("field `")[2]) != text:
        field = named.rstrip("`")
    kind = (types or {}).get(field or "")
    choices = list(kind) if isinstance(kind, EnumType) else get_args(kind) if get_origin(kind) is Literal else ()
    given = text.rpartition("value '")[2].rstrip("'")
    hint = name_hint(given, map(str, choices), "one of:") if choices else None
    return ApiError(400, f"{place}{f' {field}' if field else ''}: {text}", param=field, hint=hint)
