"""The pages: each gathers what it shows, beside the one look at the swarm that all share, and renders it in a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from swarm.config.settings import Settings
from swarm.core.nodes.relay_workers import THIS_NODE
from swarm.core.task import TERMINAL
from swarm.errors import QueueError, StorageFault
from swarm.http.cached import Cached
from swarm.http.look import SwarmLook
from swarm.http.page.batch_facts import failure_groups, offers
from swarm.http.page.card_places import common_name, place_groups
from swarm.http.page.rendering import render_page
from swarm.http.page.sources import Sources
from swarm.http.page.sparklines import RateHistory
from swarm.http.page.task_facts import attempt_rows, error_words, facts_of, texts_of
from swarm.views.live_rows import live_line

FAST_MS = 2000
SLOW_MS = 5000
NEVER_MS = 0
NEWEST = 20
"""Batches of the overview."""
MOST_BATCHES = 200
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

Seen = Cached[SwarmLook]
Look = Callable[[], Awaitable[Seen]]
Page = Callable[[Request, Seen], Response]
STALE_S = 10.0
"""A look at the swarm that is older than this says so."""


class Pages:
    """Made once for the process."""

    def __init__(self, settings: Settings, sources: Sources, history: RateHistory) -> None:
        self._settings = settings
        self._sources = sources
        self._history = history

    def overview(self, request: Request, seen: Seen) -> Response:
        """Alarms, cards, queue, batches."""
        view = seen.value.status
        batches, number = self._sources.batches(NEWEST)
        return _show(
            request,
            seen,
            "overview.html",
            FAST_MS,
            groups=place_groups(view.cards, view.workers),
            here=THIS_NODE,
            card_name=common_name(view.cards),
            history=self._history,
            together=self._history.together(),
            warn_c=self._settings.gpu.warn_c,
            live=live_line(view.live),
            batches=batches,
            more_batches=number if number > len(batches) else 0,
        )

    def batches(self, request: Request, seen: Seen) -> Response:
        """All batches, the newest first."""
        batches, number = self._sources.batches(MOST_BATCHES)
        more = number if number > len(batches) else 0
        return _show(request, seen, "batches.html", SLOW_MS, batches=batches, more_batches=more)

    def batch(self, request: Request, seen: Seen) -> Response:
        """One batch."""
        batch_id = request.path_params["batch_id"]
        view, of_client = self._sources.batch(batch_id)
        offered = offers(view.row if view is not None else None, of_client)
        if view is None:
            return _show(request, seen, "batch_unsubmitted.html", FAST_MS, of_client=of_client, offers=offered)
        failures = self._sources.failures(view.row)
        return _show(
            request,
            seen,
            "batch.html",
            FAST_MS if view.row.left else SLOW_MS,
            batch=view.row,
            of_client=of_client,
            models=view.manifest.models,
            errors=dict(sorted(view.tally.all.errors.items(), key=lambda pair: -pair[1])),
            gave=view.gave,
            failures=failure_groups(failures),
            looked_at=len(failures),
            offers=offered,
        )

    def task(self, request: Request, seen: Seen) -> Response:
        """One task."""
        task_id = request.path_params["task_id"]
        document, explanation = self._sources.task(task_id, seen.value.snapshot)
        state = str(document["state"])
        return _show(
            request,
            seen,
            "task.html",
            NEVER_MS if state in TERMINAL else FAST_MS,
            task_id=task_id,
            state=state,
            simulated=bool(document.get("simulated")),
            error=error_words(document),
            explanation=explanation,
            attempts=attempt_rows(document),
            facts=facts_of(document),
            texts=texts_of(document),
            log=self._sources.task_log(task_id, document),
        )

    def worker(self, request: Request, seen: Seen) -> Response:
        """One worker."""
        name = request.path_params["name"]
        explanation = self._sources.worker(name, seen.value)
        view = seen.value.status
        return _show(
            request,
            seen,
            "worker.html",
            FAST_MS,
            worker=next(worker for worker in view.workers if worker.name == name),
            explanation=explanation,
            spark=self._history.of(name),
            tasks=[task for task in view.active if task.worker == name],
            cards=[card for card in view.cards if card.worker == name],
            log=self._sources.worker_log(name),
        )

    def new(self, request: Request, seen: Seen) -> Response:
        """Start a batch, try a prompt."""
        view = seen.value.status
        known = [
            *(worker.model for worker in view.workers),
            *(lane.model for lane in view.lanes),
            *self._settings.models,
        ]
        models = list(dict.fromkeys(model for model in known if model))
        return _show(request, seen, "new.html", NEVER_MS, models=models, endpoints=ENDPOINTS)

    def find(self, request: Request, seen: Seen) -> Response:
        """To the page of the task, batch or worker of this name."""
        wanted = request.query_params.get("id", "").strip()
        if any(worker.name == wanted for worker in seen.value.status.workers):
            return RedirectResponse(f"/workers/{quote(wanted, safe='')}", 303)
        for place, read in (
            ("batches", lambda: self._sources.batch(wanted)),
            ("tasks", lambda: self._sources.task(wanted, seen.value.snapshot)),
        ):
            with suppress(QueueError):
                read()
                return RedirectResponse(f"/{place}/{quote(wanted, safe='')}", 303)
        shown = wanted if len(wanted) <= 120 else f"{wanted[:120]}…"
        return missing(request, f"There is no task, batch or worker {shown}")


def missing(request: Request, message: str, hint: str | None = None, *, status: int = 404) -> Response:
    """A page that says what is not there."""
    return render_page(request, "missing.html", status=status, message=message, hint=hint)


def served(page: Page, look: Look) -> Callable[[Request], Awaitable[Response]]:
    """A page as a handler: what the queue refuses is a page too, not a document."""

    async def shown(request: Request) -> Response:
        try:
            return await run_in_threadpool(page, request, await look())
        except StorageFault as problem:
            return missing(request, problem.message, problem.hint, status=503)
        except QueueError as problem:
            return missing(request, problem.message, problem.hint)

    return shown


def _show(request: Request, seen: Seen, template: str, refresh_ms: int, **values: Any) -> Response:  # noqa: ANN401
    view = seen.value.status
    stale_s = seen.age_s if seen.age_s > STALE_S else None
    return render_page(request, template, view=view, stale_s=stale_s, refresh_ms=refresh_ms, **values)
