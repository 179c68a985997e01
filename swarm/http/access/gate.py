"""The middleware before everything else: who asks, may they, how much; one line of log for each request.

* Pure ASGI: a stream passes through it piece by piece, and the end of a connection reaches whoever waits for it.
* What it logs of a request is its method, path, status, time and client. No query, no header, no body, and of an unexpected
  exception the kind and the place, not the text, which may quote a prompt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swarm.http.access.limits import InFlight, LimitedBody, discard_rest, too_large
from swarm.http.access.policy import SAFE_METHODS, AccessPolicy, Asked, asked_of
from swarm.http.access.scopes import rule_for
from swarm.http.answers import ApiError, refusal
from swarm.http.parts import Client, HttpParts
from swarm.queue.stores.tokens import TokenBook
from swarm.runtime.logging import kind_and_place

_PATH_CHARS = 200
_FORM_BYTES = 1 << 20
"""Around an uploaded file: the other fields of its form."""
_QUIET = ("/v1/chat/", "/v1/completions", "/v1/embeddings", "/api/")
"""Requests that come by the thousand are logged at DEBUG, as reads are."""


class AccessGate:
    """Fits ``starlette.middleware.Middleware``."""

    def __init__(self, app: ASGIApp, parts: HttpParts) -> None:
        http = parts.settings.http
        self._app = app
        self._log = parts.log
        self._policy = AccessPolicy(parts.settings, TokenBook(parts.queue.layout))
        self._in_flight = InFlight(http.client_requests)
        self._most_bytes = {"body": http.max_body_mib << 20, "upload": (http.max_upload_mib << 20) + _FORM_BYTES}
        self._timeout_s = http.read_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, by the application or with a refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, receive, send)
        try:
            await self._pass_on(call)
        except asyncio.CancelledError:
            error = ApiError(503, "the server ends", kind="server_error", code="ending", headers={"retry-after": "5"})
            await self._refuse(call, error)
            raise
        except Exception as error:  # noqa: BLE001  (uvicorn would log all of it, a prompt in its text included)
            await self._refuse(call, self._judged(call, error))
        finally:
            self._report(call)

    async def _pass_on(self, call: _Call) -> None:
        """Raises ``ApiError`` for what is refused, and whatever the application raises."""
        rule = rule_for(call.method, call.path)
        asked = call.asked = asked_of(call.scope)
        client = self._policy.admit(asked, rule)
        if client is not None:
            call.admitted(client, self._policy.is_valid)
        most_bytes = self._most_bytes[rule.size]
        if asked.length is not None and asked.length > most_bytes:
            raise too_large(most_bytes)
        body = call.body = LimitedBody(call.receive, most_bytes, self._timeout_s)
        with self._in_flight.one(client):
            await self._app(call.scope, body, call.send)
        if body.refused is not None:
            raise body.refused  # the application has made an answer of it, which was dropped: more is to be done here

    def _judged(self, call: _Call, error: BaseException) -> ApiError:
        """The refusal that an exception stands for; an unexpected one is logged."""
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, ApiError):
            return error
        self._log.error("%s %s failed: %s", call.method, call.path[:_PATH_CHARS], kind_and_place(error))
        return ApiError(500, "a fault in swarm itself; logs/http.log says where", kind="server_error")

    async def _refuse(self, call: _Call, error: ApiError) -> None:
        """The answer, if none has begun; else the connection ends with half an answer."""
        if call.status:
            return
        answer: Response = refusal(call.path, error)
        if error.status == 401 and call.asked is not None and call.asked.wants_page:
            answer = RedirectResponse(f"/login?next={quote(call.path)}", 303)
        await call.answer(answer, linger=error.status != 408)

    def _report(self, call: _Call) -> None:
        level = logging.INFO
        if call.status >= 500:
            level = logging.WARNING
        elif call.status < 400 and (call.method in SAFE_METHODS or call.path.startswith(_QUIET)):
            level = logging.DEBUG
        if self._log.isEnabledFor(level):
            took_ms = (time.perf_counter() - call.begun_s) * 1000
            who = call.client.name if call.client is not None else "nobody"
            status = call.status or "client gone"
            self._log.log(level, "%s %s: %s, %.1f ms, %s", call.method, call.path[:_PATH_CHARS], status, took_ms, who)


class _Call:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun_s = time.perf_counter()
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.receive = receive
        self.asked: Asked | None = None
        self.body: LimitedBody | None = None
        self.client: Client | None = None
        self.status = 0
        """Of the answer; 0 before it begins."""
        self._send = send
        self._is_valid: Callable[[Client], bool] = lambda _client: True
        self._endless = self._cut = False

    def admitted(self, client: Client, is_valid: Callable[[Client], bool]) -> None:
        """Somebody known asks; ``is_valid`` tells whether he still may."""
        self.client, self._is_valid = client, is_valid
        self.scope.setdefault("state", {})["client"] = client

    async def send(self, message: Message) -> None:
        """Stands for ``send``. A stream ends when the token of who reads it is revoked."""
        if self._cut or (self.body is not None and self.body.refused is not None and not self.status):
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._endless = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
        elif self._endless and self.client is not None and message.get("more_body") and not self._is_valid(self.client):
            self._cut = True
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def answer(self, answer: Response, *, linger: bool) -> None:
        """Send an answer before the application has. Where the request has not come whole, its connection ends with it."""
        self.status = answer.status_code
        headers = list(answer.raw_headers)
        rest = self.asked is not None and self.asked.has_body and not (self.body is not None and self.body.ended)
        if rest:
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": self.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body, "more_body": rest})
        if rest:
            if linger:
                await discard_rest(self.receive)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
