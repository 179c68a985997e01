"""A model server as the runtime sees it: the port that ``swarm.ollama.client`` fits, and the limits it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from swarm.config.settings import ModelSettings
from swarm.core.model_options import LOAD_OPTIONS
from swarm.core.task import canonical_model
from swarm.runtime.ports import CancelToken, Progress


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one request."""

    total_s: float
    first_token_s: float
    token_gap_s: float
    max_reply_bytes: int


class Reply(Protocol):
    """A whole answer."""

    @property
    def final(self) -> dict[str, Any]:
        """Ollama's last object, with the whole text in it."""
        ...

    @property
    def tokens_in(self) -> int:
        """Tokens of the prompt."""
        ...

    @property
    def tokens_out(self) -> int:
        """Generated tokens, thinking included."""
        ...

    @property
    def first_token_s(self) -> float:
        """Until the first piece of the answer."""
        ...

    @property
    def total_s(self) -> float:
        """Until its end."""
        ...

    @property
    def simulated(self) -> bool:
        """A simulated server made it up."""
        ...


class Loaded(Protocol):
    """A model the server holds; sizes in MiB."""

    @property
    def name(self) -> str:
        """Canonical."""
        ...

    @property
    def digest(self) -> str:
        """Of its manifest."""
        ...

    @property
    def size_mib(self) -> int:
        """All it takes."""
        ...

    @property
    def size_vram_mib(self) -> int:
        """The part on cards."""
        ...

    @property
    def context_length(self) -> int:
        """Per slot as allocated; 0 where the release does not say."""
        ...


class Details(Protocol):
    """What the server knows of a model on its disk."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """``completion``, ``embedding`` …; empty where the release does not say."""
        ...


class ModelServer(Protocol):
    """One server. Every call is bounded and raises ``TaskFault``."""

    def run(
        self,
        endpoint: str,
        body: Mapping[str, Any],
        *,
        limits: Any,  # noqa: ANN401 - Limits by shape; a client has a class of its own for it
        cancel: CancelToken | None,
        progress: Progress | None,
        marker: str | None,
    ) -> Reply:
        """One request; ``marker`` tells the server's log which task it is."""
        ...

    def load(
        self,
        model: str,
        *,
        options: Mapping[str, Any],
        keep_alive: str | float | None,
        embedding: bool,
        timeout_s: float,
        cancel: CancelToken | None,
    ) -> object:
        """Preload; returns once the server says that it is ready."""
        ...

    def unload(self, model: str, timeout_s: float) -> None:
        """Order it out; it goes when its requests have ended."""
        ...

    def ps(self, timeout_s: float) -> Sequence[Loaded]:
        """Models it holds now."""
        ...

    def show(self, model: str, timeout_s: float) -> Details:
        """About a model on its disk. Kind ``model_missing`` if it is not there."""
        ...


class ModelTable:
    """The configured settings per model, found under every spelling of its name."""

    def __init__(self, models: Mapping[str, ModelSettings]) -> None:
        self._models = {canonical_model(name): settings for name, settings in models.items()}

    def of(self, model: str) -> ModelSettings:
        """The model's settings; the defaults where none are written."""
        return self._models.get(canonical_model(model)) or ModelSettings()

    def load_options(self, model: str) -> dict[str, Any]:
        """Its options that matter at load time."""
        return {name: value for name, value in self.of(model).options.items() if name in LOAD_OPTIONS}


def spilled_words(loaded: Loaded) -> str:
    """The numbers of a model that is not wholly on its card; empty if it is."""
    if loaded.size_vram_mib >= loaded.size_mib:
        return ""
    return f"size {loaded.size_mib} MiB, on GPU {loaded.size_vram_mib} MiB"
