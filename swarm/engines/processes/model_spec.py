"""Which process serves a model for a worker: its command line, environment, markers and files.

Starts nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.models.engines import Engine, EngineKind, filled_in
from swarm.core.models.model_options import ModelTable
from swarm.core.models.model_server import InstalledModel, ModelDetails
from swarm.core.placement.worker_plan import HOST, WorkerPlan
from swarm.engines.ollama.server_spec import NOT_INHERITED, card_dir, pinned_to, sim_overlay
from swarm.engines.processes import llama_server
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER

DEFAULT_CONTEXT = 8192
"""Tokens of one request where the configuration sets no ``num_ctx`` and the model was trained for no less."""
_FIXED = frozenset({MODEL_MARKER, ROOT_MARKER})


class FoundModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as an engine that starts processes finds it."""

    file: str = ""
    """Path; empty: the engine finds the model by its name."""
    projectors: tuple[str, ...] = ()
    """Files with the part that reads images."""
    adapters: tuple[str, ...] = ()
    digest: str = ""
    """Changes with the file; empty where nobody can say."""
    size_mib: int = 0
    details: ModelDetails


class ModelFiles(Protocol):
    """Finds the files of models."""

    def find(self, model: str) -> FoundModel:
        """Of this model. Raises ``TaskFault``: ``model_missing``, ``bad_model_file``."""
        ...

    def listed(self) -> Sequence[InstalledModel]:
        """All that could be served."""
        ...


class ModelServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The specification of one process that serves one model."""

    engine: str
    model: str
    """Canonical name."""
    served_as: str
    """The name under which requests ask for it."""
    argv: tuple[str, ...]
    env: dict[str, str]
    """The whole environment, markers and key not included."""
    markers: dict[str, str]
    key_variable: str = ""
    """Variable that takes a random key, made for each start; empty: ``key`` is what the configuration says."""
    key: str = ""
    port: int
    health: str
    log_path: str
    note_path: str
    card_dirs: tuple[str, ...] = ()
    fingerprint: str
    """Changes with anything that would make a running process the wrong one."""
    slots: int
    context: int
    """Tokens of one request."""
    told: frozenset[str] = frozenset()
    """Of these two, what the command passes on to the server; it alone knows the others."""
    embedding: bool
    options: dict[str, Any]
    digest: str
    size_mib: int
    start_timeout_s: float
    stop_grace_s: float

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{HOST}:{self.port}"


class ModelSpecMaker:
    """Makes the specifications of one engine on one worker."""

    def __init__(
        self,
        engine: Engine,
        plan: WorkerPlan,
        settings: Settings,
        files: ModelFiles,
        *,
        root: Path,
        base_env: Mapping[str, str],
    ) -> None:
        """``root`` is absolute; ``base_env`` is what a child would inherit."""
        self._engine = engine
        self._plan = plan
        self._settings = settings
        self._models = ModelTable(settings.models)
        self._files = files
        self._root = root
        self._base_env = base_env

    @property
    def kind(self) -> EngineKind:
        """Of the engine."""
        return self._engine.kind

    @property
    def markers(self) -> dict[str, str]:
        """In the environment of each process of this worker, and of what it starts."""
        return markers_of(self._plan.name, self._root)

    @property
    def note_path(self) -> Path:
        """Where it is written down which process runs."""
        return note_path(self._plan.name, self._root)

    def spec(self, model: str, options: Mapping[str, Any], *, slots: int, embedding: bool) -> ModelServerSpec:
        """The process that serves ``model`` with these options. Raises ``TaskFault`` (see ``ModelFiles.find``)."""
        plan, wanted = self._plan, self._engine.settings
        assert plan.model_port is not None
        found = self._files.find(model)
        slots = max(1, slots)
        context = self._context(options, found.details)
        served_as = self._models.spelled(model)
        argv = self._argv(served_as, found, options, slots=slots, context=context, embedding=embedding)
        overlay = {"CUDA_VISIBLE_DEVICES": pinned_to(plan), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        card_dirs: tuple[str, ...] = ()
        if plan.simulated:
            card_dirs = tuple(str(card_dir(self._root, uuid)) for uuid in plan.gpu_uuids)
            overlay |= sim_overlay(self._settings, card_dirs)
        if self._engine.kind == "llama-server":
            overlay |= llama_server.own_variables(options)
        overlay |= {name: value for name, value in wanted.env.items() if name not in _FIXED}
        return ModelServerSpec(
            engine=self._engine.name,
            model=model,
            served_as=served_as,
            argv=argv,
            env=self._inherited() | overlay,
            markers=self.markers,
            key_variable="" if wanted.api_key_env or self._engine.kind != "llama-server" else llama_server.KEY_VARIABLE,
            key=self._base_env.get(wanted.api_key_env, "") if wanted.api_key_env else "",
            port=plan.model_port,
            health=wanted.health,
            log_path=str(self._root / "logs" / f"models-{plan.name}.log"),
            note_path=str(self.note_path),
            card_dirs=card_dirs,
            fingerprint=_fingerprint(argv, overlay, found.digest),
            slots=slots,
            context=context,
            told=self._told(),
            embedding=embedding,
            options=dict(options),
            digest=found.digest,
            size_mib=found.size_mib,
            start_timeout_s=wanted.start_timeout_s,
            stop_grace_s=wanted.stop_grace_s,
        )

    def _argv(
        self, served_as: str, found: FoundModel, options: Mapping[str, Any], *, slots: int, context: int, embedding: bool
    ) -> tuple[str, ...]:
        plan, command = self._plan, self._engine.settings.command
        port = plan.model_port or 0
        needs_file = self._engine.kind == "llama-server" or any("{file}" in word for word in command)
        if needs_file and not found.file:
            message = f'{self._engine.name} needs a file of {served_as}, and none is known; set [models."{served_as}"] file'
            raise TaskFault("deterministic", "model_missing", message)
        values = {
            "model": served_as,
            "file": found.file,
            "host": HOST,
            "port": str(port),
            "gpu": ",".join(map(str, plan.gpus)),
            "slots": str(slots),
            "context": str(context * slots),
        }
        if self._engine.kind == "llama-server":
            program = filled_in(command, values) or (llama_server.PROGRAM,)
            flags = llama_server.own_flags(
                model=served_as,
                file=found.file,
                projectors=found.projectors,
                adapters=found.adapters,
                host=HOST,
                port=port,
                slots=slots,
                context=context,
                embedding=embedding,
                options=options,
            )
            return (*(simulator("llama-server") if plan.simulated else program), *flags)
        if plan.simulated:
            words = ("serve", served_as, "--host", HOST, "--port", str(port), "--max-num-seqs", str(slots))
            longest = ("--max-model-len", values["context"]) if "context" in self._told() else ()
            return (*simulator("openai"), *words, *longest)
        return filled_in(command, values)

    def _told(self) -> frozenset[str]:
        if self._engine.kind == "llama-server":
            return frozenset({"slots", "context"})
        names = ("slots", "context")
        return frozenset(name for name in names if any(f"{{{name}}}" in word for word in self._engine.settings.command))

    def _context(self, options: Mapping[str, Any], details: ModelDetails) -> int:
        wanted = options.get("num_ctx")
        if isinstance(wanted, int) and wanted > 0:
            return wanted
        return min(details.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)

    def _inherited(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in self._base_env.items()
            if name not in NOT_INHERITED
            and name != llama_server.KEY_VARIABLE
            and not name.startswith(llama_server.ENV_PREFIX)
        }
        kept.setdefault("HOME", os.path.expanduser("~"))
        return kept


def simulator(engine: str) -> tuple[str, ...]:
    """The program of a simulated server with the face of this kind of engine."""
    return (sys.executable, "-P", "-m", "swarm.simulator", "--engine", engine)


def markers_of(worker: str, root: Path) -> dict[str, str]:
    """What the processes that serve models for a worker, and their descendants, carry in their environment."""
    return {MODEL_MARKER: worker, ROOT_MARKER: str(root)}


def note_path(worker: str, root: Path) -> Path:
    """Where a worker writes down which process serves its model. Two dots: never taken for a registration."""
    return root / "workers" / f"{worker}.models.json"


def _fingerprint(argv: tuple[str, ...], overlay: Mapping[str, str], digest: str) -> str:
    words = [*argv, json.dumps(overlay, sort_keys=True), digest]
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:16]
