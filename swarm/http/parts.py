"""What the HTTP server's packages share: settings, queue, client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property

from starlette.requests import HTTPConnection

from swarm.config.settings import Settings
from swarm.core.access import Scope
from swarm.http.look import SwarmObserver
from swarm.queue.file_queue import FileQueue

__all__ = ["Client", "HttpParts", "Scope", "client_of"]


@dataclass(frozen=True)
class Client:
    """Who asks."""

    name: str
    """Of its token; ``local`` for one that needs none."""
    scope: Scope


@dataclass(frozen=True, kw_only=True)
class HttpParts:
    """Made once by ``main``."""

    settings: Settings
    queue: FileQueue
    """Its calls wait for the disk: handlers make them in ``run_in_threadpool``."""
    log: logging.Logger

    background: list[Callable[[], AbstractAsyncContextManager[None]]] = field(default_factory=list)
    """What runs beside the requests: ``routes(parts)`` of a package adds its own. Entered in this order, on the event loop
    and before the first request; left in reverse order after the last one."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once this process was asked to end: what never ends by itself, as event streams do, ends now."""

    config_file: str | None = None
    """The configuration that was read."""
    config_sources: Mapping[str, str] = field(default_factory=dict)
    """Where each key that is no default came from."""

    @cached_property
    def observer(self) -> SwarmObserver:
        """Looks at the swarm once for all who ask: ``(await parts.observer.look()).value``."""
        return SwarmObserver(self.settings)


def client_of(request: HTTPConnection) -> Client:
    """Who asks, as the access middleware has found out."""
    client: Client = request.state.client
    return client
