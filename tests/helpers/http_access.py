"""The HTTP server's application in the test's own process, before a queue in a folder."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from swarm.config.settings import HttpSettings, QueueSettings, Settings
from swarm.core.access import Scope
from swarm.http.access.gate import AccessGate
from swarm.http.answers import json_answer
from swarm.http.parts import HttpParts
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.tokens import create_token

HOST = "127.0.0.1:8080"


def http_parts(root: Path, **http: object) -> HttpParts:
    """Of a server on ``HOST``, with a fresh queue; ``http`` are settings of that section."""
    wanted = msgspec.convert({"port": 8080, **http}, HttpSettings)
    settings = Settings(queue=QueueSettings(root=str(root), durability="fast"), http=wanted)
    queue = FileQueue(str(root), "fast").prepare()
    return HttpParts(settings=settings, queue=queue, log=logging.getLogger("swarm.http"))


def new_token(parts: HttpParts, name: str, scope: str | Scope = Scope.SUBMIT) -> str:
    """A token of that name."""
    return create_token(parts.queue.layout, parts.queue.storage, name, Scope(scope))


async def who(scope, receive, send) -> None:
    """An application that answers who asks and what it has got of the body."""
    request = Request(scope, receive)
    body = await request.body()
    client = getattr(request.state, "client", None)
    said = {"name": client and client.name, "scope": client and client.scope, "bytes": len(body)}
    answer: Response = json_answer(said)
    await answer(scope, receive, send)


def gated(parts: HttpParts, app: ASGIApp = who) -> TestClient:
    """A client of this application behind the gate; it follows no redirection."""
    gate = AccessGate(app, parts)
    return TestClient(gate, base_url=f"http://{HOST}", follow_redirects=False, raise_server_exceptions=True)
