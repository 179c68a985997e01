"""The model server of one worker: one adapter for each of its engines, chosen by the model.

Fits ``ModelServer``. What any of them holds counts as loaded, so a load in one engine unloads the others' models first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.models.model_server import InstalledModel, Limits, LoadedModel, LoadOrder, ModelDetails, OnPiece, Reply
from swarm.core.task import Endpoint
from swarm.engines.ollama.client import OllamaClient
from swarm.engines.processes.process_server import ProcessServer, RequestClient


class EngineAdapter(RequestClient, Protocol):
    """One engine of one worker. ``close`` is for an orderly end of the worker: it ends what the engine owns."""

    def load(self, order: LoadOrder, *, timeout_s: float, cancel: CancelToken | None) -> object:
        """As the port's."""
        ...

    def unload(self, model: str, timeout_s: float) -> None:
        """As the port's."""
        ...

    def ps(self, timeout_s: float) -> Sequence[LoadedModel]:
        """As the port's."""
        ...

    def show(self, model: str, timeout_s: float) -> ModelDetails:
        """As the port's."""
        ...

    def tags(self, timeout_s: float) -> Sequence[InstalledModel]:
        """The models that it could load."""
        ...


class WorkerServer(EngineAdapter, Protocol):
    """All engines of one worker, here or in another machine."""

    def adopt(self) -> list[str]:
        """Take over what an earlier life left, or end it; lines for the log. Raises ``TaskFault``."""
        ...

    def release(self) -> None:
        """Leave what serves models to the worker's next life."""
        ...

    def version(self, timeout_s: float = 5.0) -> str:
        """Of the server that serves models that name no engine; empty: it does not say. Raises ``TaskFault``."""
        ...


class EngineDispatch:
    """Sends each call to the engine of its model."""

    def __init__(self, adapters: Mapping[str, EngineAdapter], engine_of: Callable[[str], str]) -> None:
        """``adapters`` by name of the engine; ``engine_of`` tells that of a model."""
        self._adapters = dict(adapters)
        self._engine_of = engine_of

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
        """One request, to the engine of its model."""
        adapter = self._of(str(body.get("model") or ""))
        return await adapter.run(endpoint, body, limits=limits, progress=progress, marker=marker, on_piece=on_piece)

    def load(self, order: LoadOrder, *, timeout_s: float = 600.0, cancel: CancelToken | None = None) -> object:
        """Preload it with its engine. The caller has unloaded what ``ps`` lists."""
        return self._of(order.model).load(order, timeout_s=timeout_s, cancel=cancel)

    def unload(self, model: str, timeout_s: float = 30.0) -> None:
        """Unload it from whichever engine holds it."""
        holders = [one for one in self._adapters.values() if any(held.name == model for held in one.ps(timeout_s))]
        for adapter in holders or self._adapters.values():
            adapter.unload(model, timeout_s)

    def ps(self, timeout_s: float = 5.0) -> Sequence[LoadedModel]:
        """What any of them holds; first those that are held by the engine that would be asked for them."""
        held = [(name, model) for name, adapter in self._adapters.items() for model in adapter.ps(timeout_s)]
        return tuple(model for _, model in sorted(held, key=lambda pair: self._engine_of(pair[1].name) != pair[0]))

    def show(self, model: str, timeout_s: float = 10.0) -> ModelDetails:
        """What its engine knows of it."""
        return self._of(model).show(model, timeout_s)

    def tags(self, timeout_s: float = 10.0) -> Sequence[InstalledModel]:
        """What could be loaded, each with the engine that is configured for it."""
        found = [(name, model) for name, adapter in self._adapters.items() for model in adapter.tags(timeout_s)]
        return tuple(model for name, model in found if self._engine_of(model.name) == name)

    def adopt(self) -> list[str]:
        """Take over the processes that an earlier life left, or end them; lines for the log. Raises ``TaskFault``."""
        return [line for one in self._processes() if (line := one.adopt()) is not None]

    def version(self, timeout_s: float = 5.0) -> str:
        """Ollama's, where that is the worker's first engine; others say theirs nowhere."""
        first = next(iter(self._adapters.values()), None)
        return first.version(timeout_s) if isinstance(first, OllamaClient) else ""

    def close(self) -> None:
        """For an orderly end of the worker: end what it owns, close connections. Raises ``TaskFault``: something stays."""
        for adapter in self._adapters.values():
            adapter.close()

    def release(self) -> None:
        """Leave its processes to the worker's next life."""
        for one in self._processes():
            one.release()

    async def close_work(self) -> None:
        """Close the connections of ``run``, on its event loop."""
        for adapter in self._adapters.values():
            await adapter.close_work()

    def _processes(self) -> list[ProcessServer]:
        return [one for one in self._adapters.values() if isinstance(one, ProcessServer)]

    def _of(self, model: str) -> EngineAdapter:
        name = self._engine_of(model)
        adapter = self._adapters.get(name)
        if adapter is None:
            mine = ", ".join(self._adapters)
            message = f"{model} is for the engine {name!r}, and this worker has {mine}; see `engine` in the configuration"
            raise TaskFault("deterministic", "model_missing", message)
        return adapter
