"""Command line and environment of a pinned model server, from a worker's plan.

Starts nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from swarm.config.settings import Settings
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.ollama import parallel
from swarm.errors import ConfigError
from swarm.filesystem.entries import folder_status, list_names
from swarm.proc.env_markers import MODEL_MARKER, PROCESS_MARKER, ROOT_MARKER, SERVER_MARKER

_CARDS = ".sim"
FIXED = frozenset({"OLLAMA_HOST", SERVER_MARKER, ROOT_MARKER})
"""Without these a server could not be found again; the configuration cannot change them."""
GUARDED = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "OLLAMA_VULKAN",
        "OLLAMA_NOPRUNE",
        "OLLAMA_NUM_PARALLEL",
        "OLLAMA_MAX_LOADED_MODELS",
    }
)
"""The configuration may change these, and is warned: pinning and slots rest on them."""
NOT_INHERITED = frozenset(
    {"OLLAMA_ORIGINS", "OLLAMA_DEBUG_LOG_REQUESTS", "OLLAMA_SCHED_SPREAD", PROCESS_MARKER, MODEL_MARKER, SERVER_MARKER}
)
"""From the caller's shell: an open CORS policy, prompts in files, layers spread over cards, another process's markers."""


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The specification of one model server."""

    worker: str
    argv: tuple[str, ...]
    env: dict[str, str]
    """The whole environment, markers not included."""
    markers: dict[str, str]
    host: str
    port: int
    url: str
    log_path: str
    note_path: str
    """Where it is written down who runs, for the next supervisor."""
    has_card: bool = True
    card_dirs: tuple[str, ...] = ()
    """Directories a simulated server needs."""
    slots: int = 0
    """Requests at once, as the configuration sets them; 0: what ``parallel_path`` says when it starts."""
    parallel_path: str = ""
    fingerprint: str
    """Changes with anything that would make a running server the wrong one."""
    start_timeout_s: float
    stop_grace_s: float
    simulated: bool = False


def card_dir(root: Path, uuid: str) -> Path:
    """Where the processes on a simulated card record the memory they use."""
    return root / _CARDS / uuid


def remove_cards(root: Path, *, among: Collection[str] | None = None, keep: Collection[str] = ()) -> None:
    """Remove the simulated cards of this root (``among`` these UUIDs, but for these), on which no server runs any more.

    What cannot be removed is left for the next time; what is no directory is not ours.
    """
    folder = root / _CARDS
    for name in list_names(str(folder)):
        if (among is None or name in among) and name not in keep and folder_status(str(folder / name)) is not None:
            shutil.rmtree(folder / name, ignore_errors=True)
    if folder_status(str(folder)) is not None:
        with suppress(OSError):  # not empty: some are kept
            folder.rmdir()


def server_spec(plan: WorkerPlan, settings: Settings, *, root: Path, base_env: Mapping[str, str]) -> ServerSpec:
    """The server of a worker that owns one. ``root`` is absolute; ``base_env`` is what a child would inherit.

    Raises ``ConfigError`` for a worker without an own server.
    """
    if plan.port is None or plan.url is None or plan.adopted:
        raise ConfigError(f"{plan.name} has no server of its own")
    overlay = server_overlay(plan, settings)
    argv: tuple[str, ...] = (settings.ollama.binary, "serve")
    card_dirs: tuple[str, ...] = ()
    if plan.simulated:
        argv = (sys.executable, "-P", "-m", "swarm.simulator")
        card_dirs = tuple(str(card_dir(root, uuid)) for uuid in plan.gpu_uuids)
        overlay |= sim_overlay(settings, card_dirs)
    overlay |= {k: v for k, v in settings.ollama.env.items() if k not in FIXED}
    inherited = {k: v for k, v in base_env.items() if k not in NOT_INHERITED}
    inherited.setdefault("HOME", os.path.expanduser("~"))
    markers = {SERVER_MARKER: plan.name, ROOT_MARKER: str(root)}
    return ServerSpec(
        worker=plan.name,
        argv=argv,
        env=inherited | overlay,
        markers=markers,
        host="127.0.0.1",
        port=plan.port,
        url=plan.url,
        log_path=str(root / "logs" / f"ollama-{plan.name}.log"),
        note_path=str(root / "workers" / f"{plan.name}.server.json"),
        has_card=bool(plan.gpu_uuids),
        card_dirs=card_dirs,
        slots=parallel.fixed_parallel(settings),
        parallel_path=str(parallel.note_path(root / "workers", plan.name)),
        fingerprint=_fingerprint(argv, overlay),
        start_timeout_s=settings.ollama.start_timeout_s,
        stop_grace_s=settings.ollama.stop_grace_s,
        simulated=plan.simulated,
    )


def server_overlay(plan: WorkerPlan, settings: Settings) -> dict[str, str]:
    """What is set on top of the inherited environment, before the configuration's own ``[ollama] env``."""
    env = {
        **({parallel.VARIABLE: str(settings.llm.slots)} if isinstance(settings.llm.slots, int) else {}),
        "OLLAMA_HOST": f"127.0.0.1:{plan.port}",
        # By UUID: indices mean different cards to CUDA and to nvidia-smi. -1 shows no card: a server on the CPU.
        "CUDA_VISIBLE_DEVICES": pinned_to(plan),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # Vulkan sees the cards that are hidden from CUDA.
        "OLLAMA_VULKAN": "0",
        # A server that starts would otherwise delete what a sibling is downloading.
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NO_CLOUD": "1",
    }
    contexts = {m.options["num_ctx"] for m in settings.models.values() if isinstance(m.options.get("num_ctx"), int)}
    if len(contexts) == 1:
        # One context for all: a request that cannot say num_ctx (the /v1 routes) then causes no reload.
        env["OLLAMA_CONTEXT_LENGTH"] = str(contexts.pop())
    if len(plan.gpu_uuids) > 1:
        env["OLLAMA_SCHED_SPREAD"] = "1"
    return env


def pinned_to(plan: WorkerPlan) -> str:
    """The cards of a worker, for ``CUDA_VISIBLE_DEVICES``; -1 shows none.

    Where the driver gives no UUID for one of several cards, all go by index: CUDA takes no mixture.
    """
    by_index = any(uuid.isdecimal() for uuid in plan.gpu_uuids)
    return ",".join(map(str, plan.gpus) if by_index else plan.gpu_uuids) or "-1"


def sim_overlay(settings: Settings, card_dirs: tuple[str, ...]) -> dict[str, str]:
    """The knobs of a simulated server."""
    sim = settings.sim
    return {
        "SWARM_SIM_START_DELAY_S": str(sim.start_delay_s),
        "SWARM_SIM_LOAD_S": str(sim.load_s),
        "SWARM_SIM_TOKENS_PER_S": str(sim.tokens_per_s),
        "SWARM_SIM_REQUEST_S": str(sim.request_s),
        "SWARM_SIM_CURVE": ",".join(sim.curve),
        "SWARM_SIM_DRIFT": ",".join(sim.drift),
        "SWARM_SIM_NOISE": str(sim.noise),
        "SWARM_SIM_PROMPT_TOKENS_PER_S": str(sim.prompt_tokens_per_s),
        "SWARM_SIM_OVERFLOW": sim.overflow,
        "SWARM_SIM_OOM_TOKENS": str(sim.oom_tokens),
        "SWARM_SIM_VRAM_MIB": str(sim.vram_mib),
        "SWARM_SIM_MODELS": ",".join(sim.models),
        "SWARM_SIM_CARD_DIR": json.dumps(card_dirs),  # a path may hold any character
    }


def env_warnings(settings: Settings) -> tuple[str, ...]:
    """What ``[ollama] env`` sets at its own risk, one line each."""
    lines = []
    for name in sorted(settings.ollama.env):
        if name in FIXED:
            lines.append(f"[ollama] env {name} is ignored: swarm sets it for each server")
        elif name in GUARDED:
            lines.append(f"[ollama] env {name} overrides what swarm sets for each server; pinning and slots depend on it")
    return tuple(lines)


def _fingerprint(argv: tuple[str, ...], overlay: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for word in (*argv, *(f"{k}={overlay[k]}" for k in sorted(overlay))):
        digest.update(os.fsencode(word) + b"\0")
    return digest.hexdigest()[:16]
