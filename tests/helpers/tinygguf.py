"""A complete language model of about 230 KB, with random weights: what a real model server needs to be tested.

GGUF version 3, little-endian: a header (magic, version, counts), metadata as key, type and value, a description of each
tensor, then the tensors' data, each aligned. Its text is noise and may end early, so tests look at protocol and counts.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
"""Types of metadata values."""
TENSOR_F32, TENSOR_F16 = 0, 1
TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_BYTE = 1, 2, 3, 6
MOSTLY_F16 = 1
"""The value of ``general.file_type``."""

CONTEXT = 2048
LAYERS, DIM, HEADS, KV_HEADS, FEED_FORWARD = 2, 64, 4, 2, 128
PIECES = ("▁", "e", "t", "a", "o", "n", "▁the", "▁a", "ing", "er", "▁is", "▁and")
SPREAD = 0.05
"""Standard deviation of the weights."""


def write_tiny_gguf(path: Path, *, seed: int = 7) -> Path:
    """Write the model; the same seed gives the same bytes. Takes about 0.1 s."""
    path.write_bytes(tiny_gguf(seed=seed))
    return path


def tiny_gguf(*, seed: int = 7) -> bytes:
    """The model's bytes."""
    tokens = _vocabulary()
    metadata = _metadata(tokens)
    tensors = _tensors(random.Random(seed), len(tokens))
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata)), *metadata]
    body: list[bytes] = []
    offset = 0
    for name, shape, kind, data in tensors:
        head.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        padded = data + _padding(len(data))
        body.append(padded)
        offset += len(padded)
    front = b"".join(head)
    return front + _padding(len(front)) + b"".join(body)


def _vocabulary() -> list[tuple[str, float, int]]:
    """Each token's text, score and type: three special ones, one per byte so that any text can be said, a few pieces."""
    special = [("<unk>", 0.0, TOKEN_UNKNOWN), ("<s>", 0.0, TOKEN_CONTROL), ("</s>", 0.0, TOKEN_CONTROL)]
    single = [(f"<0x{byte:02X}>", 0.0, TOKEN_BYTE) for byte in range(256)]
    return special + single + [(piece, -float(rank), TOKEN_NORMAL) for rank, piece in enumerate(PIECES)]


def _metadata(tokens: list[tuple[str, float, int]]) -> list[bytes]:
    texts = [text for text, _, _ in tokens]
    return [
        _text("general.architecture", "llama"),
        _text("general.name", "tiny"),
        _number("general.file_type", MOSTLY_F16),
        _number("llama.context_length", CONTEXT),
        _number("llama.embedding_length", DIM),
        _number("llama.block_count", LAYERS),
        _number("llama.feed_forward_length", FEED_FORWARD),
        _number("llama.attention.head_count", HEADS),
        _number("llama.attention.head_count_kv", KV_HEADS),
        _number("llama.rope.dimension_count", DIM // HEADS),
        _number("llama.vocab_size", len(tokens)),
        _string("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", F32, 1e-5),
        _text("tokenizer.ggml.model", "llama"),
        _array("tokenizer.ggml.tokens", STRING, [_string(text) for text in texts]),
        _array("tokenizer.ggml.scores", F32, [struct.pack("<f", score) for _, score, _ in tokens]),
        _array("tokenizer.ggml.token_type", I32, [struct.pack("<i", kind) for _, _, kind in tokens]),
        _number("tokenizer.ggml.unknown_token_id", 0),
        _number("tokenizer.ggml.bos_token_id", 1),
        _number("tokenizer.ggml.eos_token_id", 2),
    ]


def _tensors(pick: random.Random, vocabulary: int) -> list[tuple[str, tuple[int, ...], int, bytes]]:
    """Name, shape (innermost dimension first), type and data of each tensor."""

    def matrix(name: str, inner: int, outer: int) -> tuple[str, tuple[int, ...], int, bytes]:
        count = inner * outer
        data = struct.pack(f"<{count}e", *(pick.gauss(0.0, SPREAD) for _ in range(count)))
        return f"{name}.weight", (inner, outer), TENSOR_F16, data

    def norm(name: str) -> tuple[str, tuple[int, ...], int, bytes]:
        return f"{name}.weight", (DIM,), TENSOR_F32, struct.pack(f"<{DIM}f", *[1.0] * DIM)

    kv_dim = DIM // HEADS * KV_HEADS
    tensors = [matrix("token_embd", DIM, vocabulary), norm("output_norm"), matrix("output", DIM, vocabulary)]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        tensors += [
            norm(block + "attn_norm"),
            matrix(block + "attn_q", DIM, DIM),
            matrix(block + "attn_k", DIM, kv_dim),
            matrix(block + "attn_v", DIM, kv_dim),
            matrix(block + "attn_output", DIM, DIM),
            norm(block + "ffn_norm"),
            matrix(block + "ffn_gate", DIM, FEED_FORWARD),
            matrix(block + "ffn_up", DIM, FEED_FORWARD),
            matrix(block + "ffn_down", FEED_FORWARD, DIM),
        ]
    return tensors


def _padding(length: int) -> bytes:
    return b"\0" * (-length % ALIGNMENT)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _text(key: str, value: str) -> bytes:
    return _string(key) + struct.pack("<I", STRING) + _string(value)


def _number(key: str, value: int) -> bytes:
    return _string(key) + struct.pack("<II", U32, value)


def _array(key: str, kind: int, items: list[bytes]) -> bytes:
    return _string(key) + struct.pack("<IIQ", ARRAY, kind, len(items)) + b"".join(items)
