"""The pages: each gathers what it shows and renders it. They block, so Starlette runs them in threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from swarm.core.task import TERMINAL
from swarm.errors import QueueError, SwarmError
from swarm.http.page.card_places import common_name, places
from swarm.http.page.rendering import render_page
from swarm.http.page.sources import Sources
from swarm.http.page.sparklines import RateHistory
from swarm.http.page.task_facts import attempt_rows, error_words, facts_of, texts_of
from swarm.http.parts import HttpParts
from swarm.views.logs.task_history import entries as life_of

FAST_MS = 2000
SLOW_MS = 5000
NEVER_MS = 0
NEWEST = 20
"""Batches of the overview."""
MOST_BATCHES = 200
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

Page = Callable[[Request], Response]


class Pages:
    """Made once for the process."""

    def __init__(self, parts: HttpParts, sources: Sources, history: RateHistory) -> None:
        self._parts = parts
        self._sources = sources
        self._history = history

    def _show(self, request: Request, template: str, refresh_ms: int, **values: Any) -> Response:  # noqa: ANN401  (whatever the template shows)
        return render_page(request, template, view=self._sources.look().view, refresh_ms=refresh_ms, **values)

    def overview(self, request: Request) -> Response:
        """Alarms, cards, queue, batches."""
        view = self._sources.look().view
        batches, number = self._sources.batches(NEWEST)
        return self._show(
            request,
            "overview.html",
            FAST_MS,
            places=places(view.cards, view.workers),
            card_name=common_name(view.cards),
            history=self._history,
            together=self._history.together(),
            warn_c=self._parts.settings.gpu.warn_c,
            batches=batches,
            more_batches=number if number > len(batches) else 0,
        )

    def batches(self, request: Request) -> Response:
        """All batches, the newest first."""
        batches, number = self._sources.batches(MOST_BATCHES)
        more = number if number > len(batches) else 0
        return self._show(request, "batches.html", SLOW_MS, batches=batches, more_batches=more)

    def batch(self, request: Request) -> Response:
        """One batch."""
        batch_id = request.path_params["batch_id"]
        found = self._sources.batch(batch_id)
        return self._show(
            request,
            "batch.html",
            SLOW_MS if found.row.state == "finished" else FAST_MS,
            batch=found.row,
            models=found.manifest.models,
            errors=found.errors,
            gave=found.gave,
            failures=self._sources.failures(found),
            verbs=f"/swarm/batches/{quote(batch_id, safe='')}",
            downloads={"output": None, "errors": None},
        )

    def task(self, request: Request) -> Response:
        """One task."""
        task_id = request.path_params["task_id"]
        document, explanation = self._sources.task(task_id)
        state = str(document["state"])
        return self._show(
            request,
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
            life=list(life_of(document)),
            log=self._sources.task_log(task_id),
        )

    def worker(self, request: Request) -> Response:
        """One worker."""
        name = request.path_params["name"]
        explanation = self._sources.worker(name)
        view = self._sources.look().view
        return self._show(
            request,
            "worker.html",
            FAST_MS,
            worker=next(worker for worker in view.workers if worker.name == name),
            explanation=explanation,
            spark=self._history.of(name),
            tasks=[task for task in view.active if task.worker == name],
            cards=[card for card in view.cards if card.worker == name],
            log=self._sources.worker_log(name),
        )

    def new(self, request: Request) -> Response:
        """Start a batch, try a prompt."""
        view = self._sources.look().view
        known = [
            *(worker.model for worker in view.workers),
            *(lane.model for lane in view.lanes),
            *self._parts.settings.models,
        ]
        models = list(dict.fromkeys(model for model in known if model))
        return self._show(request, "new.html", NEVER_MS, models=models, endpoints=ENDPOINTS)

    def find(self, request: Request) -> Response:
        """To the page of the task, batch or worker of this name."""
        wanted = request.query_params.get("id", "").strip()
        if any(worker.name == wanted for worker in self._sources.look().view.workers):
            return RedirectResponse(f"/workers/{quote(wanted, safe='')}", 303)
        for read, place in ((self._sources.batch, "batches"), (self._sources.task, "tasks")):
            try:
                read(wanted)
            except SwarmError:
                continue
            return RedirectResponse(f"/{place}/{quote(wanted, safe='')}", 303)
        shown = wanted if len(wanted) <= 120 else f"{wanted[:120]}…"
        return missing(request, f"There is no task, batch or worker {shown}")


def missing(request: Request, message: str, hint: str | None = None) -> Response:
    """A page that says what is not there."""
    return render_page(request, "missing.html", status=404, message=message, hint=hint)


def readable(page: Page) -> Page:
    """A page that answers what the queue refuses with a page, not with a document."""

    def shown(request: Request) -> Response:
        try:
            return page(request)
        except QueueError as problem:
            return missing(request, problem.message, problem.hint)

    return shown
