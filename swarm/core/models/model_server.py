"""Requests to a model server and its replies, as data.

Sizes are in MiB, durations in seconds, model names canonical.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

MIB = 1 << 20
OnPiece = Callable[[dict[str, Any]], None]
"""Called with each piece of an answer before the last one, in Ollama's form, as it comes."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one request. Seconds are monotonic."""

    total_s: float = 600.0
    first_token_s: float = 300.0
    """Until the first line of the answer; covers a model load and the wait for a slot."""
    token_gap_s: float = 120.0
    max_reply_bytes: int = 16 * MIB


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. ``final`` is Ollama's last object with the text, thinking and tool calls of all lines merged in."""

    final: dict[str, Any]
    last: dict[str, Any] = {}
    """``final`` less what the pieces before it have brought: the last piece, for who was given those (``OnPiece``)."""
    tokens_in: int = 0
    tokens_out: int = 0
    """Includes thinking tokens."""
    first_token_s: float = 0.0
    total_s: float = 0.0
    simulated: bool = False


class LoadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be loaded, and how."""

    model: str
    options: Mapping[str, Any] = {}
    """Exactly those that its tasks will use, else their first request loads it again."""
    keep_alive: str | float | None = -1
    embedding: bool = False
    slots: int = 0
    """For how many requests at once; 0: as the engine likes."""


class LoadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The server says that the model is ready; whether it is on the card is for ``ps`` and the driver to say."""

    done_reason: str
    total_s: float


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``/api/ps``."""

    name: str
    digest: str = ""
    size_mib: int = 0
    size_vram_mib: int = 0
    """The part on GPUs; less than ``size_mib`` means that the rest runs on the CPU."""
    context_length: int = 0
    """Per slot, as allocated; 0 where the release does not say."""
    context_fixed: bool = False
    """No request changes it: whatever ``num_ctx`` says, the model is not loaded anew for one."""
    expires_at: str = ""
    slots: int = 0
    """Requests at once that it was loaded for; 0: the engine does not say."""

    @property
    def spilled(self) -> str:
        """The sizes of a model that is not wholly on its GPU; empty if it is."""
        if self.size_vram_mib >= self.size_mib:
            return ""
        return f"size {self.size_mib} MiB, on GPU {self.size_vram_mib} MiB"


class InstalledModel(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``/api/tags``."""

    name: str
    digest: str = ""
    size_mib: int = 0
    capabilities: tuple[str, ...] = ()
    """``completion``, ``embedding``, ``vision``, ``thinking``, ``tools`` …; empty where the release does not say."""


class ModelDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What ``/api/show`` says of one model."""

    name: str
    capabilities: tuple[str, ...] = ()
    architecture: str = ""
    context_length: int = 0
    """The trained limit; 0 if unknown."""
    parameters: str = ""
    """The model's own options, one per line."""
    families: tuple[str, ...] = ()
    """As the engine sorts it, besides its architecture."""
    kv_bytes_per_token: int = 0
    """Memory for one token of context of one request; 0 where it cannot be told."""


class PullStep(msgspec.Struct, frozen=True):
    """One line of a download's progress."""

    status: str = ""
    digest: str = ""
    total: int = 0
    """Bytes of this layer."""
    completed: int = 0
    """Bytes of this layer that are here."""
