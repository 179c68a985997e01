"""Where an engine that starts a process for each model finds its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarm.config.settings import EngineSettings, LlmSettings, ModelSettings, Settings
from swarm.core.faults import TaskFault
from swarm.core.models.engines import engine_named
from swarm.engines.gguf import read_gguf
from swarm.engines.processes import model_files
from swarm.engines.processes.model_files import ConfiguredFiles, SimulatedFiles
from tests.helpers.tinygguf import CONTEXT, tiny_gguf, write_tiny_gguf
from tests.unit.engines.test_ollama_store import store


def files(tmp_path: Path, engine: str = "llama-server", **models: ModelSettings) -> ConfiguredFiles:
    settings = Settings(
        llm=LlmSettings(engine=engine),
        models=models,
        engines={"vllm": EngineSettings(command=("vllm", "{model}", "{port}"))},
    )
    return ConfiguredFiles(engine_named(settings, engine), engine, settings, {"OLLAMA_MODELS": str(tmp_path / "store")})


def kind_of(call) -> str:
    with pytest.raises(TaskFault) as caught:
        call()
    return caught.value.kind


def test_the_configured_file_comes_first_then_ollamas_store(tmp_path):
    store(tmp_path / "store", "registry.ollama.ai/library/a/1b", model=tiny_gguf(), projector=b"clip")
    path = write_tiny_gguf(tmp_path / "own.gguf")
    found = files(tmp_path).find("A:1b")
    assert found.file.startswith(str(tmp_path / "store/blobs"))
    assert (found.details.name, found.details.context_length) == ("a:1b", CONTEXT)
    assert found.details.capabilities == ("completion", "vision")
    assert len(found.projectors) == 1
    named = files(tmp_path, **{"a:1b": ModelSettings(file=str(path))}).find("a:1b")
    assert (named.file, named.size_mib, named.projectors) == (str(path), 1, ())
    assert named.digest not in ("", found.digest)


def test_the_digest_changes_with_the_file(tmp_path):
    path = write_tiny_gguf(tmp_path / "own.gguf")
    one = files(tmp_path, a=ModelSettings(file=str(path)))
    before = one.find("a").digest
    assert one.find("a").digest == before
    os.utime(path, (1, 1))
    assert one.find("a").digest != before


def test_a_header_is_read_again_only_once_its_file_is_another(tmp_path, monkeypatch):
    path, read = write_tiny_gguf(tmp_path / "own.gguf"), []
    monkeypatch.setattr(model_files, "read_gguf", lambda path: read.append(path) or read_gguf(path))
    one = files(tmp_path, a=ModelSettings(file=str(path)))
    assert one.listed() == one.listed()
    assert read == [path]
    os.utime(path, (1, 1))
    one.listed()
    assert read == [path, path]


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "page.gguf").write_text("<html>")
    models = {"page": ModelSettings(file=f"{tmp_path}/page.gguf"), "gone": ModelSettings(file=f"{tmp_path}/gone.gguf")}
    one = files(tmp_path, **models)
    assert kind_of(lambda: one.find("page")) == "bad_model_file"
    assert kind_of(lambda: one.find("gone")) == "model_missing"
    assert kind_of(lambda: one.find("other")) == "model_missing"
    assert one.listed() == ()


def test_what_is_listed_is_what_this_engine_would_be_asked_for(tmp_path):
    path = write_tiny_gguf(tmp_path / "own.gguf")
    store(tmp_path / "store", "registry.ollama.ai/library/a/1b", model=tiny_gguf())
    store(tmp_path / "store", "hf.co/b/c/latest", model=tiny_gguf())
    models = {
        "own": ModelSettings(file=str(path)),
        "a:1b": ModelSettings(engine="vllm"),
        "Qwen/Q": ModelSettings(engine="vllm"),
    }
    assert [one.name for one in files(tmp_path, **models).listed()] == ["own:latest", "hf.co/b/c:latest"]
    assert [one.name for one in files(tmp_path, "vllm", **models).listed()] == ["own:latest", "a:1b", "qwen/q:latest"]


def test_the_simulated_disk(tmp_path):
    one = SimulatedFiles(Settings())
    assert one.find("Nomic-embed-text").details.capabilities == ("embedding",)
    assert one.find("llama3.2:3b").file == "llama3.2:3b"
    assert kind_of(lambda: one.find("other")) == "model_missing"
    assert len(one.listed()) == len(Settings().sim.models)
