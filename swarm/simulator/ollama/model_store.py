"""Models on the simulated disk, and the answers to list, show, pull and delete.

The disk is in memory, or a directory that several servers share (``OLLAMA_MODELS``).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from swarm.core.models.sim_model import MIB, TRAINED_CONTEXT, SimModel, model_of
from swarm.core.task import canonical_model
from swarm.simulator.http import ApiError, Response
from swarm.simulator.knobs import Knobs

LAYERS = 16
PULL_STEPS = 5
MODIFIED_AT = "2026-01-01T00:00:00Z"

MARK = ".simulated-models"
"""A directory without this file was not made by us: real models may lie there, and pruning would delete them."""


class ModelStore:
    """What is on disk. With a directory, siblings see each other's pulls and deletions at once."""

    def __init__(self, specs: Iterable[str], directory: str | None, *, prune: bool) -> None:
        self._models = {model.name: model for model in map(model_of, specs)}
        self._directory = _usable(directory)
        if self._directory is None:
            return
        self._manifests = self._directory / "manifests"
        self._blobs = self._directory / "blobs"
        self._blobs.mkdir(exist_ok=True)
        if not self._manifests.exists():
            self._fill(self._directory)
        if prune:
            self._prune()

    def all(self) -> list[SimModel]:
        """Every model, newest first."""
        if self._directory is None:
            return list(reversed(self._models.values()))
        paths = sorted(self._manifests.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [msgspec.json.decode(path.read_bytes(), type=SimModel) for path in paths]

    def find(self, name: str) -> SimModel | None:
        """One model by any spelling of its name."""
        name = canonical_model(name)
        if self._directory is None:
            return self._models.get(name)
        try:
            return msgspec.json.decode(self._manifest(name).read_bytes(), type=SimModel)
        except FileNotFoundError:
            return None

    def get(self, name: str, *, embedding: bool = False) -> SimModel:
        """The same. Raises ``ApiError`` 404 in one of Ollama's two wordings."""
        if (model := self.find(name)) is None:
            text = f'model "{name}" not found, try pulling it first' if embedding else f"model '{name}' not found"
            raise ApiError(404, text)
        return model

    def add(self, model: SimModel) -> None:
        """Put a model on disk: its blob first, its manifest last, as a pull does."""
        self._models[model.name] = model
        if self._directory is not None:
            (self._blobs / f"sha256-{model.digest}").write_bytes(b"simulated weights\n")
            fresh = self._manifest(model.name).with_suffix(".tmp")
            fresh.write_bytes(msgspec.json.encode(model))
            fresh.replace(self._manifest(model.name))

    def remove(self, model: SimModel) -> None:
        """Delete a model."""
        self._models.pop(model.name, None)
        if self._directory is not None:
            self._manifest(model.name).unlink(missing_ok=True)
            (self._blobs / f"sha256-{model.digest}").unlink(missing_ok=True)

    def _fill(self, directory: Path) -> None:
        """Put the first models there, all at once: a sibling that starts meanwhile sees all of them or puts its own."""
        filled, self._manifests = self._manifests, directory / f"manifests.{os.getpid()}"
        self._manifests.mkdir(exist_ok=True)
        for model in tuple(self._models.values()):
            self.add(model)
        fresh, self._manifests = self._manifests, filled
        try:
            fresh.rename(filled)
        except OSError:  # a sibling was faster
            shutil.rmtree(fresh)

    def _manifest(self, name: str) -> Path:
        return self._manifests / f"{quote(name, safe='')}.json"

    def _prune(self) -> None:
        """Delete blobs that no manifest names, a sibling's half-done pull included: that is what the real one does."""
        kept = {f"sha256-{model.digest}" for model in self.all()}
        for blob in self._blobs.iterdir():
            if blob.name not in kept:
                blob.unlink(missing_ok=True)


def _usable(directory: str | None) -> Path | None:
    if not directory:
        return None
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    if not (path / MARK).exists():
        if any(path.iterdir()):
            sys.stderr.write(f"simulated: OLLAMA_MODELS={path} holds something else, left alone; models are in memory\n")
            return None
        (path / MARK).touch()
    return path


def tags_entry(model: SimModel) -> dict[str, Any]:
    """One line of ``/api/tags``."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": MODIFIED_AT,
        "size": model.size_mib * MIB,
        "digest": model.digest,
        "details": model.details,
        "capabilities": model.capabilities,
    }


def show(store: ModelStore, name: str) -> dict[str, Any]:
    """The answer of ``/api/show``. Raises ``ApiError`` 404."""
    model = store.get(name)
    head = round(model.context_mib(1 << 20) * MIB / (1 << 20) / LAYERS / 4)
    info = {
        "general.architecture": model.family,
        "general.parameter_count": int(model.parameters_b * 1e9),
        f"{model.family}.context_length": TRAINED_CONTEXT,
        f"{model.family}.block_count": LAYERS,
        # As much context per token as a runner takes.
        f"{model.family}.attention.head_count": 32,
        f"{model.family}.attention.head_count_kv": 1,
        f"{model.family}.attention.key_length": head,
        f"{model.family}.attention.value_length": head,
        f"{model.family}.embedding_length": 3072,
    }
    answer: dict[str, Any] = {"modelfile": "# simulated", "details": model.details, "model_info": info}
    return answer | {"capabilities": model.capabilities, "modified_at": MODIFIED_AT}


def delete(store: ModelStore, name: str) -> None:
    """Remove a model. Raises ``ApiError`` 404."""
    model = store.get(name)
    store.remove(model)


async def pull(store: ModelStore, knobs: Knobs, body: dict[str, Any], response: Response) -> None:
    """Answer ``/api/pull``: since the first line is out before anything is asked, failures come inside the 200."""
    name = canonical_model(str(body.get("model") or body.get("name") or ""))
    stream = body.get("stream", True)
    if stream:
        response.line({"status": "pulling manifest"})
    if knobs.pull_error:
        raise ApiError(500, knobs.pull_error)
    specs = {model_of(spec).name: spec for spec in knobs.registry}
    if specs and name not in specs:
        raise ApiError(500, "pull model manifest: file does not exist")
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
