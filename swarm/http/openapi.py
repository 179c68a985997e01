"""``GET /openapi.json``: the OpenAPI 3.1 document, made from the tables of operations and the types they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from swarm import __version__
from swarm.core.access import Scope
from swarm.http.answers import OLLAMA_PATHS, json_answer
from swarm.http.operations import Operation, route

PATH = "/openapi.json"
OPERATION = Operation(
    method="GET", path=PATH, name="openapi", group="swarm", summary="This document.", scope=Scope.READ, answer=dict[str, Any]
)
_REF = "#/components/schemas/"
_TITLE = "swarm"
_ABOUT = """The OpenAI and Ollama APIs of a swarm, files and batches, and the swarm's own API below `/swarm/`.

Below `/swarm/` a query parameter that an operation does not name is refused. `Age` says how many seconds old a document is
that was made for several clients. Without tokens (`swarm token create`) a client on this machine may do everything;
`x-scope` is what an operation needs of a token."""
_REFUSALS: Mapping[int, str] = {
    400: "Something in the request is wrong; the message says what.",
    401: "A token is needed, or this one is not valid.",
    403: "The token's scope does not cover this, `Host` is none of this server's names, or another web page asks.",
    404: "Nothing of this name is there; the hint names what is like it.",
    405: "The path has no such method.",
    408: "The request did not come in time.",
    409: "The state of things does not allow it.",
    413: "The request is too large.",
    429: "Too many requests, or no place in time; `Retry-After` says when to try again.",
    431: "The head of the request is too large.",
    500: "A fault in swarm itself.",
    502: "The model server failed.",
    503: "The swarm, its disk or a model server cannot answer now.",
    504: "The model server did not answer in time.",
    507: "The disk is full.",
}
_ALWAYS = (400, 401, 403, 405, 408, 429, 431, 500, 503)
_WITH_BODY = (413,)


class RefusalBody(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was refused."""

    message: str
    type: str
    """``invalid_request_error``, ``rate_limit_error``, ``server_error`` …"""
    param: str | None
    """The field or query parameter at fault."""
    code: str | None
    hint: str | msgspec.UnsetType = msgspec.UNSET
    """What to try next."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal in OpenAI's form."""

    error: RefusalBody


class OllamaRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal in Ollama's form."""

    error: str


def openapi_route(operations: Iterable[Operation]) -> Route:
    """The route that answers with the document of these operations and itself."""
    every = (*operations, OPERATION)

    @cache
    def answer() -> Response:
        return json_answer(openapi_document(every))

    async def openapi(_request: Request) -> Response:
        return answer()

    return route(OPERATION, openapi)


def openapi_document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The document as JSON knows it."""
    every = tuple(operations)
    types = {kind for one in every for kind in (one.query, one.body, one.answer) if kind is not None} | {
        Refusal,
        OllamaRefusal,
    }
    ordered = sorted(types, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF + "{name}")
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in every:
        path = re.sub(r":\w+}", "}", one.path)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, schema_of, components)
    for query in {one.query for one in every}:
        components.pop(query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`swarm token create NAME` shows one."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(one: Operation, schema_of: Mapping[Any, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": one.name,
        "tags": [one.group],
        "summary": one.summary,
        "x-scope": str(one.scope),
        "security": [{}, {"token": []}, {"key": []}],
        "parameters": [*_path_parameters(one), *_query_parameters(schema_of[one.query], components)],
        "responses": _responses(one, schema_of),
    }
    if one.body is not None:
        found["requestBody"] = {
            "required": one.body_required,
            "content": {one.body_media_type: {"schema": schema_of[one.body]}},
        }
    return found


def _path_parameters(one: Operation) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)[:}]", one.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names]


def _query_parameters(schema: Mapping[str, Any], components: Mapping[str, Any]) -> list[dict[str, Any]]:
    query = components[schema["$ref"].removeprefix(_REF)]
    return [
        _query_parameter(name, _given(part), required=name in query.get("required", ()))
        for name, part in query["properties"].items()
    ]


def _query_parameter(name: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    about = {"description": schema.pop("description")} if "description" in schema else {}
    return {"name": name, "in": "query", "required": required, "schema": schema} | about


def _given(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's schema: one that is absent is not null."""
    choices = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    if len(choices) == 1:
        return dict(choices[0])
    return {name: value for name, value in schema.items() if name != "default" or value is not None}


def _responses(one: Operation, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    content = {
        media_type: {"schema": schema_of[one.answer] if media_type == "application/json" else {"type": "string"}}
        for media_type in one.media_types
    }
    good = {"description": one.summary, "content": content}
    refusal = schema_of[OllamaRefusal if one.path.startswith(OLLAMA_PATHS) else Refusal]
    bad = {"application/json": {"schema": refusal}}
    statuses = sorted({*_ALWAYS, *one.errors, *(_WITH_BODY if one.body is not None else ())})
    return {str(one.status): good} | {str(status): {"description": _REFUSALS[status], "content": bad} for status in statuses}
