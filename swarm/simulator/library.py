"""The simulated answers about models: list, show, pull, delete, and the lines of ``/api/ps``."""

from __future__ import annotations

import asyncio
from typing import Any

from swarm.core.task import canonical_model
from swarm.simulator.http import Response
from swarm.simulator.knobs import Knobs
from swarm.simulator.loaded_model import Loaded
from swarm.simulator.requests import ApiError, model_missing
from swarm.simulator.store import ModelStore, SimModel, model_of

MIB = 1 << 20
TRAINED_CONTEXT = 131072
LEAST_CONTEXT = 4
PULL_STEPS = 5
MODIFIED_AT = "2026-01-01T00:00:00Z"


def _details(model: SimModel) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": f"{model.parameters_b:.1f}B",
        "quantization_level": "SIMULATED",
    }


def tags_entry(model: SimModel) -> dict[str, Any]:
    """One line of ``/api/tags``."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": MODIFIED_AT,
        "size": model.size_mib * MIB,
        "digest": model.digest,
        "details": _details(model),
        "capabilities": model.capabilities,
    }


def ps_entry(loaded: Loaded) -> dict[str, Any]:
    """One line of ``/api/ps``; zeros are told, ``size_vram`` 0 above all."""
    return {
        "name": loaded.model.name,
        "model": loaded.model.name,
        "size": loaded.size_mib * MIB,
        "digest": loaded.model.digest,
        "details": _details(loaded.model),
        "expires_at": loaded.expires_at(),
        "size_vram": loaded.vram_mib * MIB,
        "context_length": max(min(loaded.options.num_ctx, TRAINED_CONTEXT), LEAST_CONTEXT),
    }


def show(store: ModelStore, name: str) -> dict[str, Any]:
    """The answer of ``/api/show``. Raises ``ApiError`` 404."""
    model = store.find(name)
    if model is None:
        raise model_missing(name)
    info = {
        "general.architecture": model.family,
        "general.parameter_count": int(model.parameters_b * 1e9),
        f"{model.family}.context_length": TRAINED_CONTEXT,
        f"{model.family}.block_count": 28,
        f"{model.family}.embedding_length": 3072,
    }
    answer: dict[str, Any] = {"modelfile": "# simulated", "details": _details(model), "model_info": info}
    return answer | {"capabilities": model.capabilities, "modified_at": MODIFIED_AT}


def delete(store: ModelStore, name: str) -> None:
    """Remove a model. Raises ``ApiError`` 404."""
    model = store.find(name)
    if model is None:
        raise model_missing(name)
    store.remove(model)


async def pull(store: ModelStore, knobs: Knobs, body: dict[str, Any], response: Response) -> None:
    """Answer ``/api/pull``: since the first line is out before anything is asked, failures come inside the 200."""
    name = canonical_model(str(body.get("model") or body.get("name") or ""))
    stream = body.get("stream", True)
    if stream:
        response.line({"status": "pulling manifest"})
    if knobs.pull_error:
        raise ApiError(500, knobs.pull_error)
    if knobs.registry and name not in {model_of(spec).name for spec in knobs.registry}:
        raise ApiError(500, "pull model manifest: file does not exist")
    specs = {model_of(spec).name: spec for spec in knobs.registry}
    model = model_of(specs.get(name, name))
    total = model.size_mib * MIB
    for step in range(1, PULL_STEPS + 1):
        await asyncio.sleep(knobs.pull_s / PULL_STEPS)
        if stream:
            done = {"total": total, "completed": total * step // PULL_STEPS}
            response.line({"status": f"pulling {model.digest[:12]}", "digest": f"sha256:{model.digest}", **done})
    store.add(model)
    if not stream:
        response.send_object({"status": "success"})
        return
    response.line({"status": "verifying sha256 digest"})
    response.line({"status": "writing manifest"})
    response.line({"status": "success"}, last=True)
