"""Models on the simulated disk, and the answers to list, show, pull and delete.

The disk is in memory, or a directory that several servers share (``OLLAMA_MODELS``).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from swarm.core.task import canonical_model
from swarm.simulator.http import ApiError, Response
from swarm.simulator.knobs import Knobs

MIB = 1 << 20
TRAINED_CONTEXT = 131072
PULL_STEPS = 5
MODIFIED_AT = "2026-01-01T00:00:00Z"

MARK = ".simulated-models"
"""A directory without this file was not made by us: real models may lie there, and pruning would delete them."""
_PARAMETERS_RE = re.compile(r"(\d+(?:\.\d+)?)b")
_EMBEDDING = ("embed", "minilm", "bge-")
_THINKING = ("qwen3", "deepseek-r1", "gpt-oss", "magistral")
_ONE_SLOT = ("mllama", "qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h")
WHOLE = 1024
"""MiB of a model without a size in its name."""


class SimModel(msgspec.Struct, frozen=True):
    """One model; all but name and size follows from the name."""

    name: str
    size_mib: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def parameters_b(self) -> float:
        found = _PARAMETERS_RE.search(self.name)
        return float(found.group(1)) if found else self.size_mib / 640

    @property
    def family(self) -> str:
        return self.name.rsplit("/", 1)[-1].partition(":")[0]

    @property
    def embedding(self) -> bool:
        return any(part in self.family for part in _EMBEDDING)

    @property
    def thinking(self) -> bool:
        return any(self.family.startswith(part) for part in _THINKING)

    @property
    def one_slot(self) -> bool:
        """Whether Ollama silently ignores ``OLLAMA_NUM_PARALLEL`` for it."""
        return self.embedding or any(self.family.startswith(part) for part in _ONE_SLOT)

    @property
    def capabilities(self) -> list[str]:
        if self.embedding:
            return ["embedding"]
        return ["completion", "tools", *(["thinking"] if self.thinking else [])]

    @property
    def details(self) -> dict[str, Any]:
        """As every answer of the API has them."""
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": f"{self.parameters_b:.1f}B",
            "quantization_level": "SIMULATED",
        }


def model_of(spec: str) -> SimModel:
    """A model from ``name`` or ``name=MiB``. Without a size: 640 MiB for each billion parameters in the name."""
    name, _, size = spec.partition("=")
    name = canonical_model(name.strip())
    found = _PARAMETERS_RE.search(name)
    guessed = round(float(found.group(1)) * 640) if found else WHOLE
    return SimModel(name, int(size) if size.strip().isdigit() else guessed)


class ModelStore:
    """What is on disk. With a directory, siblings see each other's pulls and deletions at once."""

    def __init__(self, specs: Iterable[str], directory: str | None, *, prune: bool) -> None:
        self._models = {model.name: model for model in map(model_of, specs)}
        self._directory = _usable(directory)
        if self._directory is None:
            return
        self._manifests = self._directory / "manifests"
        self._blobs = self._directory / "blobs"
        fresh = not self._manifests.exists()
        self._manifests.mkdir(exist_ok=True)
        self._blobs.mkdir(exist_ok=True)
        if fresh:
            for model in self._models.values():
                self.add(model)
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
    info = {
        "general.architecture": model.family,
        "general.parameter_count": int(model.parameters_b * 1e9),
        f"{model.family}.context_length": TRAINED_CONTEXT,
        f"{model.family}.block_count": 28,
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
