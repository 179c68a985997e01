"""The HTTP server, as `swarm status` and the page show it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from swarm.config.settings import Settings
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.supervisor.state import HTTP, NAME, ChildState, load_status


class HttpLine(msgspec.Struct, frozen=True, kw_only=True):
    """One that runs, or that the supervisor would have run."""

    alive: bool
    url: str
    """Where it listens, or did; empty where it has never said so."""
    trouble: str
    """Why it does not serve, in the supervisor's words; empty while it does, or begins or ends as asked."""


def http_line(settings: Settings) -> HttpLine | None:
    """None where there is none and is to be none. Raises ``StorageFault``."""
    layout = Layout(settings.queue.root)
    alive = is_held(layout, HTTP)
    status = load_status(Path(layout.workers)) if is_held(layout, NAME) else None
    child = status.child(HTTP) if status is not None else None
    if not alive and child is None:
        return None
    row = registry.read_row(layout, HTTP)
    waits = child is not None and child.state is ChildState.BACKOFF and child.last_exit is not None
    trouble = child.reason if child is not None and waits and not alive else ""
    return HttpLine(alive=alive, url=(row.url or "") if row is not None else "", trouble=trouble)
