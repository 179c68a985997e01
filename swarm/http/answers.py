"""JSON answers by msgspec, and refusals in the form that the client's API has for them.

OpenAI's clients want ``{"error": {"message", "type", "param", "code"}}``, Ollama's ``{"error": "..."}``; the swarm's own API
answers as OpenAI's does, with ``hint`` beside ``message``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from swarm.errors import (
    DuplicateTask,
    EngineError,
    LockHeld,
    ModelServerError,
    NotRunning,
    OddEntry,
    StorageFault,
    SwarmError,
    UnknownBatch,
    UnknownName,
    UnknownTask,
)
from swarm.views.json_text import to_json_line

OLLAMA_PATHS = "/api/"
CLIENT_GONE = 499
"""nginx's number for it; it is never sent, for nobody is there."""


class ApiError(Exception):
    """A refusal. ``kind`` is OpenAI's ``type``, such as ``invalid_request_error``; ``param`` names the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.hint = hint
        self.headers = headers


def json_answer(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A document as the whole answer."""
    return Response(encoded(document), status, headers, "application/json")


def encoded(document: object) -> bytes:
    """A document as JSON, whatever is in it."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:  # bytes of a file name that are no UTF-8
        return to_json_line(document).encode()


def refusal(path: str, error: ApiError) -> Response:
    """The answer to a request on ``path`` that is refused."""
    document: dict[str, Any]
    if path.startswith(OLLAMA_PATHS):
        document = {"error": f"{error.message}; {error.hint}" if error.hint else error.message}
    else:
        said = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
        document = {"error": said | ({"hint": error.hint} if error.hint else {})}
    return json_answer(document, error.status, error.headers)


def refuse(request: Request, error: Exception) -> Response:
    """An exception handler for ``ApiError``."""
    assert isinstance(error, ApiError)
    return refusal(request.url.path, error)


def nobody_waits(_request: Request, _error: Exception) -> Response:
    """One for a client that has gone in the midst of its request."""
    return Response(status_code=CLIENT_GONE)


def refuse_http(request: Request, error: Exception) -> Response:
    """One for what the framework refuses: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    return refusal(request.url.path, ApiError(error.status_code, error.detail, headers=error.headers))


_STATUSES: tuple[tuple[type[SwarmError], int, str], ...] = (
    (UnknownTask, 404, "not_found"),
    (UnknownBatch, 404, "not_found"),
    (UnknownName, 404, "not_found"),
    (LockHeld, 409, "conflict"),
    (DuplicateTask, 409, "conflict"),
    (StorageFault, 503, "storage_fault"),
    (OddEntry, 503, "storage_fault"),
    (NotRunning, 503, "not_running"),
    (ModelServerError, 503, "model_server_error"),
    (EngineError, 503, "engine_error"),
)
"""Statuses and codes of what is refused; all else is a 400."""


def refuse_swarm_error(request: Request, error: Exception) -> Response:
    """One for what the queue or the configuration refuses: mostly the client's mistake, as the commands see it too."""
    assert isinstance(error, SwarmError)
    return refusal(request.url.path, api_error(error))


def api_error(error: SwarmError) -> ApiError:
    """The same as a refusal."""
    status, code = next(((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)), (400, None))
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return ApiError(status, error.message, kind=kind, code=code, hint=error.hint)
