"""Puts together the model server of a worker: the one place that names the adapter of each engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path

from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.models.engines import OLLAMA, EngineKind, engine_named, engine_of_model
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.adopted_server import AdoptedServer
from swarm.engines.control_http import OnConnect
from swarm.engines.engine_dispatch import EngineAdapter, EngineDispatch
from swarm.engines.ollama.server import client_of
from swarm.engines.openai.client import OpenAIClient
from swarm.engines.processes.model_files import ConfiguredFiles, SimulatedFiles
from swarm.engines.processes.model_spec import ModelSpecMaker
from swarm.engines.processes.process_server import ProcessServer
from swarm.engines.processes.programs import api_key
from swarm.engines.server_calls import ServerCalls
from swarm.errors import EngineError

REMEMBERED = 4096
"""Names of models whose engine is not looked up again for each request."""


def model_server(
    plan: WorkerPlan,
    settings: Settings,
    *,
    root: Path,
    env: Mapping[str, str],
    log: logging.Logger,
    vram_mib: Callable[[frozenset[int]], int] = lambda _pids: 0,
) -> EngineDispatch:
    """The server of a worker that has one; starts nothing. ``env`` is what a child would inherit.

    ``vram_mib``: what these processes hold on the worker's cards, by the driver's word; 0: it does not say. Raises
    ``ConfigError``: no HTTP address, a variable with a key that is not set.
    """
    own = plan.engines[0]

    def adapter(name: str) -> EngineAdapter:
        engine = engine_named(settings, name)
        if name == OLLAMA:
            assert plan.url is not None
            return client_of(plan.name, plan.url, root=root, adopted=plan.adopted)
        key = api_key(engine, env)
        if plan.adopted:
            assert plan.url is not None
            calls = ServerCalls(plan.url, key=key)
            return AdoptedServer(calls, OpenAIClient(plan.url, kind=engine.kind, key=key), log=log)
        files = SimulatedFiles(settings) if plan.simulated else ConfiguredFiles(engine, own, settings, env)
        maker = ModelSpecMaker(engine, plan, settings, files, root=root, base_env=env)
        return ProcessServer(maker, files, partial(_client, engine.kind), log=log, vram_mib=vram_mib)

    adapters = {name: adapter(name) for name in plan.engines}
    return EngineDispatch(adapters, lru_cache(REMEMBERED)(lambda model: engine_of_model(settings, model, own)))


def adopt_left(adopt: Callable[[], Iterable[str]], name: str, log: logging.Logger) -> None:
    """Take over the processes that an earlier life left. Raises ``EngineError`` while one of them cannot be killed."""
    try:
        for line in adopt():
            log.info("%s", line)
    except TaskFault as fault:
        raise EngineError(f"{name}: {fault.message}", hint="start it again once that has ended") from fault


def _client(kind: EngineKind, url: str, key: str, on_connect: OnConnect) -> OpenAIClient:
    return OpenAIClient(url, kind=kind, key=key, on_connect=on_connect)
