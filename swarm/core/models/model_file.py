"""What a model file says of itself, and what its context costs in memory. Pure."""

from __future__ import annotations

import msgspec

F16_BYTES = 2.0
"""Per element of the KV cache, unless the server is told to keep it in another type."""


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a GGUF file; counts that it does not give are 0, texts empty."""

    architecture: str
    name: str = ""
    size_mib: int = 0
    """Of the file, which is about what its weights take on a card."""
    parameter_count: int = 0
    quantisation: str = ""
    """``Q4_K_M``, ``F16`` …"""
    context_length: int = 0
    """The trained limit in tokens."""
    embedding_length: int = 0
    kv_heads: tuple[int, ...] = ()
    """Per layer; 0: a layer that keeps no keys and values (recurrent, or it shares those of another)."""
    key_length: int = 0
    """Elements per head and token; the same for values below."""
    value_length: int = 0
    sliding_window: int = 0
    """Tokens that a window layer looks back at; 0: none."""
    window_layers: tuple[bool, ...] = ()
    """Per layer, where the file says which; empty: it does not, so all count as looking back at everything."""
    has_chat_template: bool = False
    embedding: bool = False
    """It gives vectors, not text."""
    projector: bool = False
    """It is the part of another model that reads images."""

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.kv_heads)

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory for one more token of context, while it is within every layer's window; 0 where the file does not tell.

        Servers round up and add to it: where one says what it has allocated, that is the truth.
        """
        return self.kv_bytes(1)

    def kv_bytes(self, tokens: int, element_bytes: float = F16_BYTES) -> int:
        """Memory for the context of one request of so many tokens."""
        per_head = (self.key_length + self.value_length) * element_bytes
        total = 0.0
        for layer, heads in enumerate(self.kv_heads):
            windowed = self.sliding_window > 0 and layer < len(self.window_layers) and self.window_layers[layer]
            total += heads * per_head * (min(tokens, self.sliding_window) if windowed else tokens)
        return int(total)
