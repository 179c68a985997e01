"""The routes of this package."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute

from swarm.http.parts import HttpParts


def routes(parts: HttpParts) -> Sequence[BaseRoute]:  # noqa: ARG001
    """See ``swarm.http.app``."""
    return ()
