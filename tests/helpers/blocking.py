"""What runs on an event loop, called from plain test code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from typing import Any, TypeVar

from swarm.core.faults import CancelToken
from swarm.core.models.model_server import Limits, LoadAnswer, LoadOrder, OnPiece, Reply
from swarm.engines.ollama.client import OllamaClient
from swarm.runtime.event_loop import EventLoop

T = TypeVar("T")


@cache
def event_loop() -> EventLoop:
    """The one of this test process."""
    return EventLoop("tests")


def wait_for(work: Coroutine[Any, Any, T], cancel: CancelToken | None = None) -> T:
    return event_loop().call(work, cancel)


class BlockingClient(OllamaClient):
    """The client whose ``run`` waits for the answer; ``run_async`` is the client's own."""

    run_async = OllamaClient.run

    def run(  # type: ignore[override]
        self,
        endpoint: str,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        cancel: CancelToken | None = None,
        progress: Callable[[int], None] | None = None,
        marker: str | None = None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        asked = super().run(endpoint, body, limits=limits, progress=progress, marker=marker, on_piece=on_piece)
        return wait_for(asked, cancel)

    def load(  # type: ignore[override]
        self, model: str, *, timeout_s: float = 600.0, cancel: CancelToken | None = None, **order: Any
    ) -> LoadAnswer:
        return super().load(LoadOrder(model=model, **order), timeout_s=timeout_s, cancel=cancel)

    def close(self) -> None:
        super().close()
        wait_for(self.close_work())


class AsyncServer:
    """A blocking client as the port sees it."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client
        self.run = client.run_async
        self.load = super(BlockingClient, client).load

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
