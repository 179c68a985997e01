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

from swarm.errors import SwarmError

OLLAMA_PATHS = "/api/"


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
    return Response(msgspec.json.encode(document), status, headers, "application/json")


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


def refuse_http(request: Request, error: Exception) -> Response:
    """One for what the framework refuses: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    return refusal(request.url.path, ApiError(error.status_code, error.detail, headers=error.headers))


def refuse_swarm_error(request: Request, error: Exception) -> Response:
    """One for what the queue or the configuration refuses: the client's mistake, as the commands see it too."""
    assert isinstance(error, SwarmError)
    return refusal(request.url.path, ApiError(400, error.message, hint=error.hint))
