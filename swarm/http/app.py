"""Puts the application together from the packages' routes. Each package gives ``routes(parts)``, served in this order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from swarm.errors import SwarmError
from swarm.http.access.gate import AccessGate
from swarm.http.access.login import routes as login_routes
from swarm.http.answers import ApiError, json_answer, nobody_waits, refuse, refuse_http, refuse_swarm_error
from swarm.http.batches.operations import OPERATIONS as BATCHES
from swarm.http.batches.routes import routes as batch_routes
from swarm.http.jobs.routes import OPERATIONS as JOBS
from swarm.http.jobs.routes import routes as job_routes
from swarm.http.live.operations import OPERATIONS as LIVE
from swarm.http.live.routes import routes as live_routes
from swarm.http.openapi import openapi_route
from swarm.http.page.routes import routes as page_routes
from swarm.http.parts import HttpParts

OPERATIONS = (*LIVE, *BATCHES, *JOBS)
"""What is described by the OpenAPI document; the page is not."""


async def health(_request: Request) -> Response:
    """Whether this process serves; it says nothing about the rest of the swarm."""
    return json_answer({"status": "ok"})


def make_app(parts: HttpParts) -> Starlette:
    """The whole application; it starts nothing before its lifespan begins."""
    every = (login_routes, live_routes, batch_routes, job_routes, page_routes)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for running in parts.background:
                await stack.enter_async_context(running())
            yield

    return Starlette(
        routes=[
            Route("/healthz", health),
            openapi_route(OPERATIONS),
            *(route for routes in every for route in routes(parts)),
        ],
        exception_handlers={
            ApiError: refuse,
            HTTPException: refuse_http,
            SwarmError: refuse_swarm_error,
            ClientDisconnect: nobody_waits,
        },
        middleware=_middleware(parts),
        lifespan=lifespan,
    )


def _middleware(parts: HttpParts) -> list[Middleware]:
    """The outermost first: pages of other servers may read refusals too."""
    every = [Middleware(AccessGate, parts=parts)]
    if parts.settings.http.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=parts.settings.http.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("retry-after",),
        )
        every.insert(0, cors)
    return every
