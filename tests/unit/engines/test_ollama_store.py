"""Models that Ollama has pulled: names, manifests and blobs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from swarm.engines.ollama_store import find_stored_model, model_directories, stored_names
from swarm.errors import ModelFileInvalid, ModelNotFound, ModelServerError

HEX = "a" * 64


def store(models: Path, path: str, **layers: bytes) -> bytes:
    """Put a model into a store: its layers by kind; returns its manifest."""
    (models / "blobs").mkdir(parents=True, exist_ok=True)
    made = []
    for kind, content in layers.items():
        digest = hashlib.sha256(content).hexdigest()
        (models / "blobs" / f"sha256-{digest}").write_bytes(content)
        media = f"application/vnd.ollama.image.{kind}"
        made.append({"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)})
    manifest = json.dumps({"schemaVersion": 2, "config": {}, "layers": made}).encode()
    file = models / "manifests" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(manifest)
    return manifest


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("registry.ollama.ai/library/llama3.2/3b", ["llama3.2:3b", "LLAMA3.2:3B", "library/llama3.2:3b"]),
        ("registry.ollama.ai/library/nomic-embed-text/latest", ["nomic-embed-text", "nomic-embed-text:latest"]),
        ("registry.ollama.ai/someone/model/latest", ["someone/model", "registry.ollama.ai/someone/model"]),
        ("hf.co/Someone/Model-GGUF/Q4_K_M", ["hf.co/Someone/Model-GGUF:Q4_K_M", "hf.co/someone/model-gguf:q4_k_m"]),
    ],
)
def test_a_model_is_found_by_any_spelling_of_its_name(tmp_path: Path, path: str, names: list[str]) -> None:
    manifest = store(tmp_path, path, template=b"t", model=b"GGUF", projector=b"clip", adapter=b"lora")
    for name in names:
        found = find_stored_model(name, [tmp_path / "elsewhere", tmp_path])
        assert found.file.read_bytes() == b"GGUF"
        assert [one.read_bytes() for one in (*found.projectors, *found.adapters)] == [b"clip", b"lora"]
        assert found.digest == hashlib.sha256(manifest).hexdigest()
        assert [find_stored_model(one, [tmp_path]).file for one in stored_names([tmp_path, tmp_path / "none"])] == [
            found.file
        ]


@pytest.mark.parametrize("name", ["other", "llama3.2:1b", "a/b/c/d:e", "../x", "a/../b", "hf.co/x/.."])
def test_a_model_that_is_not_there(tmp_path: Path, name: str) -> None:
    store(tmp_path, "registry.ollama.ai/library/llama3.2/3b", model=b"GGUF")
    with pytest.raises(ModelNotFound) as caught:
        find_stored_model(name, [tmp_path])
    assert caught.value.hint


def test_what_is_broken_in_a_store_is_named(tmp_path: Path) -> None:
    def refused(why: str) -> None:
        with pytest.raises(ModelFileInvalid, match=why):
            find_stored_model("m", [tmp_path])

    path = "registry.ollama.ai/library/m/latest"
    store(tmp_path, path, tensor=b"safetensors")
    refused("a format that only Ollama itself runs")
    store(tmp_path, path, model=b"GGUF")
    (tmp_path / "blobs" / f"sha256-{hashlib.sha256(b'GGUF').hexdigest()}").unlink()
    refused("is missing")
    manifest = tmp_path / "manifests" / path
    for content in (b"", b"{", b"[]", b'{"layers": [1]}', b"\xff"):
        manifest.write_bytes(content)
        refused("no manifest")
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../etc/passwd"}
    manifest.write_text(json.dumps({"layers": [layer]}))
    refused("is missing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_store_that_may_not_be_read(tmp_path: Path) -> None:
    store(tmp_path, "registry.ollama.ai/library/m/latest", model=b"GGUF")
    (tmp_path / "manifests").chmod(0)
    try:
        with pytest.raises(ModelServerError, match="cannot be read"):
            find_stored_model("m", [tmp_path])
    finally:
        (tmp_path / "manifests").chmod(0o700)


def test_the_variable_alone_says_where_models_are(tmp_path: Path) -> None:
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    assert model_directories({"HOME": str(tmp_path)})[0] == tmp_path / ".ollama" / "models"
    assert model_directories({"HOME": str(tmp_path), "OLLAMA_MODELS": "/m"}) == (Path("/m"),)
