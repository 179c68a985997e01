"""The cache of answers, put together: its files, and the server's word on which model a name means."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.task import canonical_model
from swarm.ollama.client import OllamaClient
from swarm.queue.layout import Layout
from swarm.queue.stores.response_cache import AnswerFiles
from swarm.runtime.ports import Executor
from swarm.worker.executors.response_cache import Digests, WithAnswers

TIMEOUT_S = 5.0


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...


def with_answers(
    inner: Executor, layout: Layout, settings: Settings, client: OllamaClient, *, simulated: bool, log: logging.Logger
) -> Executor:
    """An executor of llm tasks that uses the cache for the tasks that want it."""

    def installed(model: str) -> str | None:
        return _digest(model, client.tags)

    def loaded(model: str) -> str | None:
        return _digest(model, client.ps)

    return WithAnswers(
        inner,
        AnswerFiles(layout, max_bytes=settings.llm.cache_mib << 20),
        Digests(installed, loaded),
        settings.llm,
        models=settings.models,
        simulated=simulated,
        log=log,
    )


def _digest(model: str, listing: Callable[[float], Sequence[_Named]]) -> str | None:
    wanted = canonical_model(model)
    try:
        found = next((one.digest for one in listing(TIMEOUT_S) if one.name == wanted), None)
    except TaskFault:  # the request itself will meet it, and is judged by it
        return None
    return found or None
