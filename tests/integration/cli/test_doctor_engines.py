"""``swarm doctor`` on engines: which are there, why one cannot start, and what is wrong with a model's file."""

from __future__ import annotations

import json
import socket

import pytest

from tests.helpers.cli import in_process
from tests.helpers.tinygguf import write_tiny_gguf


@pytest.fixture
def ask(tmp_path, monkeypatch):
    program = tmp_path / "bin/llama-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'version: 11434 (abc)' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)

    def asked(config: str) -> dict:
        (tmp_path / "swarm.toml").write_text(config)
        _, said = in_process("doctor", "--json", "--root", str(tmp_path / "q"), "--config", str(tmp_path / "swarm.toml"))
        return json.loads(said)

    return asked


def codes(document: dict) -> dict[str, dict]:
    return {finding["code"]: finding for finding in document["findings"]}


def test_which_engines_are_there_and_why_one_cannot_start(ask, tmp_path):
    config = """
        [[workers]]
        name = "a"
        engine = "llama-server"
        [[workers]]
        name = "b"
        engine = "vllm"
        [engines.vllm]
        command = ["/no/vllm", "serve", "{model}", "--port", "{port}"]
    """
    found = ask(config)
    engines = {one["name"]: one for one in found["engines"]}
    assert engines["llama-server"]["path"] == str(tmp_path / "bin/llama-server")
    assert engines["llama-server"]["version"] == "version: 11434 (abc)"
    assert engines["vllm"]["trouble"] == "does not exist"
    assert "no-ollama" not in codes(found), "nobody wants Ollama"
    assert "'vllm' of b" in codes(found)["no-engine"]["what"]


def test_what_is_wrong_with_the_file_of_a_model(ask, tmp_path):
    write_tiny_gguf(tmp_path / "good.gguf")
    (tmp_path / "page.gguf").write_text("<html>")
    config = f"""
        [[workers]]
        name = "a"
        engine = "llama-server"
        [models.good]
        file = "{tmp_path}/good.gguf"
        [models.page]
        file = "{tmp_path}/page.gguf"
    """
    found = ask(config)
    assert {one["model"]: bool(one["trouble"]) for one in found["model_files"]} == {"good": False, "page": True}
    assert "GGUF" in codes(found)["model-file"]["what"]


def test_a_port_that_is_taken_and_a_server_that_is_not_there(ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = f"""
            [[workers]]
            name = "a"
            engine = "llama-server"
            port = {port}
            [[workers]]
            name = "far"
            engine = "lab"
            [engines.lab]
            url = "http://127.0.0.1:9"
        """
        found = ask(config)
    assert codes(found)["port-taken"]["subject"] == "models-a"
