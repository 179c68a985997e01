"""A simulated model: what its name says of its size, memory and abilities."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from swarm.core.task import canonical_model

MIB = 1 << 20
TRAINED_CONTEXT = 131072
COMPUTE_MIB = 256
"""Working buffers of a runner, beside weights and context."""
CTX_MIB_PER_B = 1 / 64
"""Memory of one token of context, per billion parameters."""

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

    def context_mib(self, tokens: int) -> int:
        """The memory of a context of so many tokens."""
        return round(tokens * self.parameters_b * CTX_MIB_PER_B)

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
