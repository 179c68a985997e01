"""Which cards a relay serves, under which names and behind which ports of this machine's loopback."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import msgspec

from swarm.config.settings import Settings, WorkerSpec
from swarm.core.gpu_reading import GpuReading
from swarm.core.models.engines import OLLAMA, engine_named
from swarm.core.placement.worker_plan import HOST, WorkerPlan, plan_workers, simulated_cards
from swarm.engines.ollama.server import find_binary, running_server
from swarm.engines.ollama.server_spec import server_spec
from swarm.engines.processes.model_process import running_note
from swarm.engines.processes.model_spec import note_path
from swarm.engines.processes.programs import check_engines
from swarm.errors import ConfigError, InputError, name_hint
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER, SERVER_MARKER
from swarm.proc.ports import free_port
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.cards import visible_reader

SIM_MODELS = ".sim-models"
"""Under the relay's root: the disk that its simulated servers share."""
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}").fullmatch
_PORTS = 2
"""Of one card: its Ollama server and the processes that serve one model each."""


def node_name(given: str | None) -> str:
    """What this machine is called: as it was told, else by its host name. Raises ``InputError``."""
    if given is None:
        own = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().partition(".")[0])[:63].lstrip("._-")
        return own or "node"
    if _NODE(given) is None:
        hint = "up to 63 letters, digits, '.', '_' and '-', the first a letter or digit"
        raise InputError(f"--node {given!r} is no name of a machine", hint=hint)
    return given


def relay_settings(settings: Settings, root: Path, *, simulated: bool) -> Settings:
    """This machine's configuration as its relay uses it; simulated servers share one disk, as real ones do."""
    queue = msgspec.structs.replace(settings.queue, root=str(root))
    ollama = settings.ollama
    if simulated:
        ollama = msgspec.structs.replace(ollama, env={"OLLAMA_MODELS": str(root / SIM_MODELS), **ollama.env})
    return msgspec.structs.replace(settings, queue=queue, ollama=ollama, workers=())


def plan_cards(options: RunOptions, only: str | None) -> tuple[WorkerPlan, ...]:
    """One plan per card, named after it: ``gpu0``; ``only`` that one.

    Raises ``ConfigError``: no card, none of that name, no program to serve models.
    """
    settings, found = options.settings, _cards(options)
    names = [f"gpu{card.index}" for card in found]
    if only is not None and only not in names:
        raise ConfigError(f"--card {only}: there is no such card on this machine", hint=name_hint(only, names))
    wanted = [card for card in found if only in (None, f"gpu{card.index}")]
    engine = engine_named(settings, settings.llm.engine)
    if engine.url is not None and len(wanted) > 1:
        what = f"the engine {engine.name!r} is one running server ({engine.url}): a relay lends it as one card"
        raise ConfigError(what, hint=f"name the card: --card {names[0]}")
    specs = tuple(WorkerSpec(name=f"gpu{card.index}", gpus=(card.index,)) for card in wanted)
    planned = plan_workers(
        msgspec.structs.replace(settings, workers=specs),
        found if options.simulate is None else (),
        simulate=options.simulate,
    )
    first = free_port(HOST, _PORTS * len(planned))
    plans = tuple(_with_ports(plan, options.root, first + _PORTS * i) for i, plan in enumerate(planned))
    for plan in plans:
        if plan.owns_server:
            _check_ollama(plan, options)
        check_engines(plan, settings, os.environ)
    return plans


def _check_ollama(plan: WorkerPlan, options: RunOptions) -> None:
    try:
        find_binary(server_spec(plan, options.settings, root=options.root, base_env=os.environ))
    except ConfigError as error:
        hint = "install Ollama here (https://ollama.com/download), set [ollama] binary to its path; or try --simulate 2"
        raise ConfigError(error.message, hint=hint) from error


def _cards(options: RunOptions) -> tuple[GpuReading, ...]:
    if options.simulate is not None:
        return simulated_cards(options.simulate, options.settings.sim.vram_mib)
    reader = visible_reader(options.settings)
    found = reader.read()
    if not found:
        why = reader.unavailable or reader.visibility.note or "the driver shows none"
        raise ConfigError(
            f"there is no GPU on this machine that a relay could serve: {why}",
            hint="`nvidia-smi -L` shows what the driver sees; or try --simulate 2",
        )
    return found


def _with_ports(plan: WorkerPlan, root: Path, fresh: int) -> WorkerPlan:
    """Nobody else has to know them, so they are any free ones; what an earlier life left running keeps its own."""
    if plan.port is None:
        return plan
    marker = {ROOT_MARKER: str(root)}
    server = running_server(root / "workers" / f"{plan.name}.server.json", marker | {SERVER_MARKER: plan.name})
    model = running_note(note_path(plan.name, root), marker | {MODEL_MARKER: plan.name})
    model_port = fresh + 1 if model is None else model.port
    port = fresh if server is None else server.port
    if plan.engines[0] != OLLAMA and OLLAMA not in plan.engines:
        port = model_port
    return msgspec.structs.replace(
        plan, port=port, url=f"http://{HOST}:{port}", model_port=model_port if plan.model_port is not None else None
    )
