"""The application of the HTTP server in the test's own process, and the files that a client uploads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.testclient import TestClient

from swarm.config.settings import Settings
from swarm.http.app import make_app
from swarm.http.parts import HttpParts
from swarm.queue.file_queue import FileQueue
from tests.helpers.http_access import HOST


@contextmanager
def http_client(queue: FileQueue, *, settings: Settings | None = None) -> Iterator[TestClient]:
    """For a client that needs no token. Nothing runs beside the requests: no batch driver, no gateway."""
    given = settings or Settings()
    given = msgspec.structs.replace(given, queue=msgspec.structs.replace(given.queue, root=queue.layout.root))
    parts = HttpParts(settings=given, queue=queue, log=logging.getLogger("tests.http"))
    app = make_app(parts)
    parts.background.clear()
    with TestClient(app, base_url=f"http://{HOST}") as client:
        yield client


def line(custom_id: str, text: str = "hello", **more: Any) -> dict[str, Any]:
    """One request of a batch file."""
    body = {"model": "llama3.2:3b", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **more}


def jsonl(*records: object) -> bytes:
    """A batch file."""
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)
