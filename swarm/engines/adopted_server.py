"""A running server with OpenAI's API that swarm uses by its address and neither starts nor stops.

Fits ``ModelServer``. It serves what it serves: a load chooses one of its models, an unload chooses none.
"""

from __future__ import annotations

import logging
import time
from asyncio import to_thread
from collections.abc import Mapping, Sequence
from typing import Any

from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.models.model_server import (
    InstalledModel,
    Limits,
    LoadAnswer,
    LoadedModel,
    LoadOrder,
    ModelDetails,
    OnPiece,
    Reply,
)
from swarm.core.task import Endpoint, canonical_model
from swarm.engines.processes.process_server import LOOK_S, RequestClient
from swarm.engines.server_calls import ServedModel, ServerCalls


class AdoptedServer:
    """One server. Thread-safe."""

    def __init__(self, calls: ServerCalls, client: RequestClient, *, log: logging.Logger) -> None:
        self._calls = calls
        self._client = client
        self._log = log
        self._chosen: str | None = None
        """Canonical name; empty: none; None: the first that it serves."""
        self._spellings: dict[str, str] = {}
        """Its own, by canonical name, as it told last."""

    def load(self, order: LoadOrder, *, timeout_s: float = 600.0, cancel: CancelToken | None = None) -> LoadAnswer:
        """Choose a model that it serves; nothing is loaded. Raises ``TaskFault`` kind ``model_missing``."""
        del cancel  # nothing is waited for, and how it is loaded is whoever's who started the server
        began_s = time.monotonic()
        self._spelled(order.model, min(timeout_s, LOOK_S))
        model = canonical_model(order.model)
        if self._chosen != model:
            self._log.info("%s is served by %s, which swarm does not start: nothing is loaded", model, self._calls.base_url)
        self._chosen = model
        return LoadAnswer(done_reason="load", total_s=time.monotonic() - began_s)

    def unload(self, model: str, timeout_s: float = 30.0) -> None:
        """Choose it no longer; it stays where it is."""
        del timeout_s
        if self._chosen in (None, model):
            self._chosen = ""
            self._log.info(
                "%s stays loaded at %s, which swarm does not stop; no requests are sent", model, self._calls.base_url
            )

    def ps(self, timeout_s: float = LOOK_S) -> Sequence[LoadedModel]:
        """The model that is chosen, if it is still served; at first the first that is."""
        served = [(canonical_model(one.name), one.context_length) for one in self._served(timeout_s)]
        chosen = served[:1] if self._chosen is None else [one for one in served if one[0] == self._chosen]
        return tuple(LoadedModel(name=name, context_length=context, context_fixed=True) for name, context in chosen)

    def show(self, model: str, timeout_s: float = LOOK_S) -> ModelDetails:
        """No more than that it is served. Raises ``TaskFault`` kind ``model_missing``."""
        self._spelled(model, timeout_s)
        return ModelDetails(name=canonical_model(model))

    def tags(self, timeout_s: float = LOOK_S) -> Sequence[InstalledModel]:
        """What it serves."""
        return tuple(InstalledModel(name=canonical_model(one.name)) for one in self._served(timeout_s))

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Progress | None = None,
        marker: str | None = None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """One request."""
        model = str(body.get("model") or "")
        spelled = self._spellings.get(canonical_model(model)) or await to_thread(self._spelled, model, LOOK_S)
        body = {**body, "model": spelled}
        return await self._client.run(endpoint, body, limits=limits, progress=progress, marker=marker, on_piece=on_piece)

    def close(self) -> None:
        """Close idle connections."""
        self._calls.close()
        self._client.close()  # the server goes on

    async def close_work(self) -> None:
        """Close the connections of ``run``, on its event loop."""
        await self._client.close_work()

    def _served(self, timeout_s: float) -> tuple[ServedModel, ...]:
        served = self._calls.models(timeout_s)
        self._spellings = {canonical_model(one.name): one.name for one in served}
        return served

    def _spelled(self, model: str, timeout_s: float) -> str:
        """Its own spelling of the name. Raises ``TaskFault`` kind ``model_missing``."""
        names = [one.name for one in self._served(timeout_s)]
        wanted = canonical_model(model)
        found = next((name for name in names if canonical_model(name) == wanted), None)
        if found is None:
            there = ", ".join(names[:8]) or "none"
            raise TaskFault(
                "deterministic", "model_missing", f"{self._calls.base_url} does not serve {model} (it serves: {there})"
            )
        return found
