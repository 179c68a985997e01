"""The routes of the page."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from swarm.http.page.rendering import KINDS, STATIC, static_file
from swarm.http.parts import HttpParts


def routes(parts: HttpParts) -> Sequence[BaseRoute]:  # noqa: ARG001
    """See ``swarm.http.app``."""
    return (Route(f"{STATIC}{{name}}", static),)


def static(request: Request) -> Response:
    """The style or the script."""
    name = request.path_params["name"]
    if name not in KINDS:
        raise HTTPException(404)
    data, mark = static_file(name)
    kept = "max-age=31536000, immutable" if request.query_params.get("v") == mark else "no-cache"
    return Response(data, 200, {"Cache-Control": f"public, {kept}", "X-Content-Type-Options": "nosniff"}, KINDS[name])
