"""Headers of GGUF files: what is read of them, what their context costs, and files that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.engines.gguf import read_gguf
from swarm.errors import ModelFileInvalid
from tests.helpers.tinygguf import CONTEXT, DIM, HEADS, KV_HEADS, LAYERS, tiny_gguf, write_tiny_gguf

U8, I32, F32, BOOL, STRING, ARRAY, U64, U32 = 0, 5, 6, 7, 8, 9, 10, 4
TINY = tiny_gguf()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name: str, value: object) -> bytes:
    match value:
        case bool():
            packed = struct.pack("<I?", BOOL, value)
        case int():
            packed = struct.pack("<II", U32, value)
        case str():
            packed = struct.pack("<I", STRING) + text(value)
        case [bool(), *_] as items:
            packed = struct.pack(f"<IIQ{len(items)}?", ARRAY, BOOL, len(items), *items)
        case [str(), *_] as items:
            packed = struct.pack("<IIQ", ARRAY, STRING, len(items)) + b"".join(map(text, items))
        case list() as items:
            packed = struct.pack(f"<IIQ{len(items)}i", ARRAY, I32, len(items), *items)
        case _:
            raise AssertionError(value)
    return text(name) + packed


def gguf(path: Path, values: dict[str, object], *, tensors: int = 0, version: int = 3, tail: bytes = b"") -> Path:
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, len(values))
    path.write_bytes(head + b"".join(entry(name, value) for name, value in values.items()) + tail)
    return path


def test_a_complete_model(tmp_path: Path) -> None:
    found = read_gguf(write_tiny_gguf(tmp_path / "tiny.gguf"))
    assert (found.architecture, found.name, found.quantisation, found.size_mib) == ("llama", "tiny", "F16", 1)
    assert (found.layers, found.kv_heads, found.context_length) == (LAYERS, (KV_HEADS,) * LAYERS, CONTEXT)
    assert (found.key_length, found.value_length) == (DIM // HEADS, DIM // HEADS)
    assert found.kv_bytes_per_token == LAYERS * KV_HEADS * 2 * (DIM // HEADS) * 2
    assert found.parameter_count > 50_000
    assert not (found.embedding or found.projector or found.has_chat_template or found.sliding_window)


def test_the_cost_of_context_counts_only_layers_that_keep_any(tmp_path: Path) -> None:
    values: dict[str, object] = {
        "general.architecture": "x",
        "tokenizer.ggml.tokens": ["a"] * 5000,
        "x.block_count": 4,
        "x.attention.head_count": 8,
        "x.attention.head_count_kv": [0, 2, 0, 2],
        "x.attention.key_length": 64,
        "x.attention.value_length": 32,
        "tokenizer.chat_template": "{{ x }}" * 1000,
    }
    found = read_gguf(gguf(tmp_path / "hybrid.gguf", values))
    assert found.kv_bytes_per_token == 2 * 2 * (64 + 32) * 2
    assert found.has_chat_template
    assert found.kv_bytes(100, element_bytes=1.0) == 100 * 2 * 2 * (64 + 32)
    every_fourth = values | {"x.attention.head_count_kv": 2, "x.full_attention_interval": 4}
    assert read_gguf(gguf(tmp_path / "interval.gguf", every_fourth)).kv_heads == (0, 0, 0, 2)
    shared = values | {"x.attention.head_count_kv": 2, "x.attention.shared_kv_layers": 3}
    assert read_gguf(gguf(tmp_path / "shared.gguf", shared)).kv_heads == (2, 0, 0, 0)


@pytest.mark.parametrize(("pattern", "window_layers"), [([True, False], (True, False)), (2, (True, False)), (None, ())])
def test_window_layers_cost_no_more_than_their_window(
    tmp_path: Path, pattern: object, window_layers: tuple[bool, ...]
) -> None:
    values: dict[str, object] = {
        "general.architecture": "x",
        "x.block_count": 2,
        "x.attention.head_count": 1,
        "x.embedding_length": 8,
        "x.attention.sliding_window": 100,
    } | ({} if pattern is None else {"x.attention.sliding_window_pattern": pattern})
    found = read_gguf(gguf(tmp_path / "windows.gguf", values))
    assert found.window_layers == window_layers
    per_layer = (8 + 8) * 2
    assert found.kv_bytes(1000) == per_layer * (1000 + (100 if window_layers else 1000))


@pytest.mark.parametrize(
    ("values", "embedding", "projector"),
    [
        (
            {"general.architecture": "nomic-bert", "nomic-bert.attention.causal": False, "nomic-bert.block_count": 2},
            True,
            False,
        ),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 3}, True, False),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 0}, False, False),
        ({"general.architecture": "clip"}, False, True),
        ({"general.architecture": "qwen2vl", "general.type": "mmproj"}, False, True),
        ({}, False, False),
    ],
)
def test_kinds_of_models(tmp_path: Path, values: dict[str, object], embedding: bool, projector: bool) -> None:
    found = read_gguf(gguf(tmp_path / "model.gguf", values))
    assert (found.embedding, found.projector, found.kv_bytes_per_token) == (embedding, projector, 0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it ends within its header"),
        (b"PK\x03\x04" + bytes(40), "it does not begin with the letters GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not known, only 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "claims to hold"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 99), "type 99"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 40), "it ends within its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 60), "it ends within"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", ARRAY, U64, 1 << 60), "it ends within"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<I", 1 << 30), "dimensions"),
    ],
)
def test_a_file_that_is_none_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileInvalid, match=why) as caught:
        read_gguf(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_the_size_is_that_of_all_files_of_a_model(tmp_path: Path) -> None:
    first = gguf(tmp_path / "m-00001-of-00003.gguf", {"general.architecture": "x", "split.no": 0, "split.count": 3})
    second = gguf(tmp_path / "m-00002-of-00003.gguf", {"split.no": 1, "split.count": 3}, tail=bytes(2 << 20))
    third = tmp_path / "m-00003-of-00003.gguf"
    with pytest.raises(ModelFileInvalid, match=f"{third} cannot be read"):
        read_gguf(first)
    third.write_bytes(bytes(3 << 20))
    assert read_gguf(first).size_mib == 6
    with pytest.raises(ModelFileInvalid, match="name the first of them"):
        read_gguf(second)


def test_what_is_no_file_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ModelFileInvalid, match=str(path)):
            read_gguf(path)


HEADER_BYTES = 10_000
"""The tiny model's header is about as long."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_cut_or_garbled_header_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(TINY[: data.draw(st.integers(0, HEADER_BYTES))])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path / "garbled.gguf"
    path.write_bytes(content)
    try:
        found = read_gguf(path)
    except ModelFileInvalid:
        return
    assert found.kv_bytes_per_token >= 0
    assert found.architecture.isprintable()


def test_a_header_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    words = [f"token{i}" for i in range(150_000)]
    values: dict[str, object] = {"general.architecture": "x", "a": words, "b": words, "x.context_length": 77}
    path = gguf(tmp_path / "large.gguf", values)
    assert path.stat().st_size > 4 << 20
    assert read_gguf(path).context_length == 77


def test_nothing_behind_the_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(TINY)
    with path.open("r+b") as file:
        file.truncate(1 << 42)
    assert read_gguf(path).size_mib == 1 << 22
