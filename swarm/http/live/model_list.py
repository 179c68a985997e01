"""The lists of models: OpenAI's ``/v1/models``, Ollama's ``/api/tags``, ``/api/ps``, ``/api/show``, ``/api/version``.

What may be asked for is what some worker holds or could load, by its heartbeat. Digest and size of the files are asked of
Ollama's servers and of relays, at most every ``FRESH_S``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from swarm import __version__
from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.live.routing import models_of
from swarm.core.models.model_server import MIB, InstalledModel, ModelDetails
from swarm.core.task import canonical_model
from swarm.core.worker import ModelTally, WorkerRow
from swarm.http.answers import json_answer
from swarm.http.cached import Cache
from swarm.http.live.live_ask import model_in, read_object
from swarm.http.live.refusals import unknown_model
from swarm.http.live.worker_watch import WorkersSeen, WorkerWatch
from swarm.http.parts import HttpParts
from swarm.views.row_servers import is_asked, server_of

FRESH_S = 5.0
ASK_S = 2.0
_NO_DATE = 0
"""OpenAI's form wants to know when a model was made; nobody here does."""


def model_routes(parts: HttpParts, watch: WorkerWatch) -> Sequence[BaseRoute]:
    """All of them; each only reads."""
    lists = ModelLists(watch, parts.settings)
    return (
        Route("/v1/models", lists.openai_list),
        Route("/v1/models/{model:path}", lists.openai_model),
        Route("/api/tags", lists.tags),
        Route("/api/ps", lists.loaded),
        Route("/api/show", lists.show, methods=["POST"]),
        Route("/api/version", lists.version),
    )


class ModelLists:
    """The handlers."""

    def __init__(self, watch: WorkerWatch, settings: Settings) -> None:
        self._watch = watch
        self._settings = settings
        self._on_disk = Cache(self._ask_disks, FRESH_S)

    async def openai_list(self, _request: Request) -> Response:
        """What may be asked for."""
        models = models_of(self._watch.seen.workers)
        return json_answer({"object": "list", "data": [_openai_model(model) for model in models]})

    async def openai_model(self, request: Request) -> Response:
        """One of them."""
        return json_answer(_openai_model(self._known(request.path_params["model"])))

    async def tags(self, _request: Request) -> Response:
        """The same in Ollama's form."""
        files = (await self._on_disk.get()).value
        return json_answer({"models": [_tag(model, files.get(model)) for model in models_of(self._watch.seen.workers)]})

    async def loaded(self, _request: Request) -> Response:
        """What the workers hold, each model once."""
        held = {
            beat.model: beat.models.get(beat.model, ModelTally())
            for beat in self._watch.seen.beats.values()
            if beat.model is not None
        }
        return json_answer({"models": [_loaded(model, tally) for model, tally in sorted(held.items())]})

    async def show(self, request: Request) -> Response:
        """What is known of one model."""
        body = read_object(await request.body())
        model = self._known(model_in({"model": body.get("model") or body.get("name")}))
        details = await run_in_threadpool(self._details, model, self._watch.seen)
        return json_answer(_shown(details))

    async def version(self, _request: Request) -> Response:
        """Of swarm: it answers, whichever engine serves."""
        return json_answer({"version": __version__})

    def _known(self, name: str) -> str:
        model, models = canonical_model(name), models_of(self._watch.seen.workers)
        if model not in models:
            raise unknown_model(model, models)
        return model

    def _ask_disks(self) -> dict[str, InstalledModel]:
        rows = [row for row in self._watch.seen.rows.values() if is_asked(row)]
        if not rows:
            return {}
        with ThreadPoolExecutor(max_workers=min(16, len(rows))) as pool:
            return {model.name: model for found in pool.map(self._tags_of, rows) for model in found}

    def _tags_of(self, row: WorkerRow) -> Sequence[InstalledModel]:
        try:
            with server_of(row, self._settings) as server:
                return server.tags(ASK_S)
        except TaskFault:  # it says so itself, in its worker's heartbeat
            return ()

    def _details(self, model: str, seen: WorkersSeen) -> ModelDetails:
        """Of the first server that knows it; else no more than its name."""
        for row in seen.rows.values():
            beat = seen.beats.get(row.name)
            if not is_asked(row) or beat is None or (model not in beat.servable and beat.model != model):
                continue
            try:
                with server_of(row, self._settings) as server:
                    return server.show(model, ASK_S)
            except TaskFault:
                continue
        return ModelDetails(name=model)


def _openai_model(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": _NO_DATE, "owned_by": "swarm"}


def _tag(model: str, file: InstalledModel | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": model, "model": model, "details": {}}
    if file is not None:
        found |= {"digest": file.digest, "size": file.size_mib * MIB}
        found |= {"capabilities": file.capabilities} if file.capabilities else {}
    return found


def _loaded(model: str, tally: ModelTally) -> dict[str, Any]:
    return {
        "name": model,
        "model": model,
        "digest": tally.digest,
        "size": tally.size_mib * MIB,
        "size_vram": tally.size_vram_mib * MIB,
        "context_length": tally.context_length,
        "details": {},
    }


def _shown(details: ModelDetails) -> dict[str, Any]:
    family = details.families[0] if details.families else details.architecture
    info = {"general.architecture": details.architecture, f"{details.architecture}.context_length": details.context_length}
    return {
        "parameters": details.parameters,
        "details": {"family": family, "families": details.families},
        "model_info": info if details.architecture else {},
        "capabilities": details.capabilities,
    }
