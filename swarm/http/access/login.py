"""Signing in on the page with a token, and out again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from swarm.http.access.session import SESSION_S, cookie_name, session_value
from swarm.http.answers import ApiError
from swarm.http.page.rendering import render_page
from swarm.http.parts import HttpParts
from swarm.queue.stores.tokens import TokenBook

_FORM_BYTES = 8192


def routes(parts: HttpParts) -> Sequence[BaseRoute]:
    """See ``swarm.http.app``."""
    tokens, cookie = TokenBook(parts.queue.layout), cookie_name(parts.settings)

    async def ask(request: Request) -> Response:
        return render_page(request, "login.html", message="", next=_place(request.query_params.get("next", "/")))

    async def sign_in(request: Request) -> Response:
        form = await _form(request)
        place = _place(form.get("next", "/"))
        record = await asyncio.to_thread(tokens.find, form.get("token", "").strip())
        if record is None:
            return render_page(request, "login.html", status=401, message="This token is not valid.", next=place)
        answer = RedirectResponse(place, 303)
        answer.set_cookie(
            cookie,
            session_value(record, time.time()),
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def sign_out(_request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie, httponly=True, samesite="strict")
        return answer

    return (
        Route("/login", ask, methods=["GET"]),
        Route("/login", sign_in, methods=["POST"]),
        Route("/logout", sign_out, methods=["POST"]),
    )


async def _form(request: Request) -> dict[str, str]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _FORM_BYTES:
            raise ApiError(413, "this form is too large")
    fields = parse_qs(data.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}


def _place(text: str) -> str:
    """A path of this server to go on to; whatever else it may be, the page."""
    local = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if local else "/"
