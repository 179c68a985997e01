"""The routes of the page."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from swarm.http.page.pages import Look, Pages, served
from swarm.http.page.rendering import KINDS, STATIC, static_file
from swarm.http.page.sources import Sources
from swarm.http.page.sparklines import RateHistory, sampling
from swarm.http.parts import HttpParts


def routes(parts: HttpParts) -> Sequence[BaseRoute]:
    """See ``swarm.http.app``."""
    history = RateHistory()
    parts.background.append(lambda: sampling(history, parts))
    return page_routes(parts, parts.observer.look, Sources(parts), history)


def page_routes(parts: HttpParts, look: Look, sources: Sources, history: RateHistory) -> Sequence[BaseRoute]:
    """The pages of what ``look`` sees."""
    pages = Pages(parts.settings, sources, history)
    shown = {
        "/": pages.overview,
        "/batches": pages.batches,
        "/batches/{batch_id}": pages.batch,
        "/tasks/{task_id}": pages.task,
        "/workers/{name}": pages.worker,
        "/new": pages.new,
        "/find": pages.find,
    }
    return (*(Route(path, served(page, look)) for path, page in shown.items()), Route(f"{STATIC}{{name}}", static))


def static(request: Request) -> Response:
    """The style or the script."""
    name = request.path_params["name"]
    if name not in KINDS:
        raise HTTPException(404)
    data, mark = static_file(name)
    kept = "max-age=31536000, immutable" if request.query_params.get("v") == mark else "no-cache"
    return Response(data, 200, {"Cache-Control": f"public, {kept}", "X-Content-Type-Options": "nosniff"}, KINDS[name])
