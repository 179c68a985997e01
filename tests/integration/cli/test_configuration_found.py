"""The configuration that lies in the current directory: named where it decides something, refused where others wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import user

MODEL = "llama3.2:3b"
PROGRAM = Path(sys.executable).with_name("swarm")


@pytest.fixture
def someone(tmp_path):
    with user(tmp_path) as person:
        (tmp_path / "config").mkdir()
        yield person


def configure(someone, text):
    path = someone.folder / "config" / "swarm.toml"
    path.write_text(text)
    return path


def test_a_configuration_of_somebody_else_starts_nothing(someone):
    evil = someone.folder / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {someone.folder}/ran\n")
    evil.chmod(0o755)
    path = configure(someone, f'[ollama]\nbinary = "{evil}"\n[[workers]]\nname = "worker-1"\n')
    path.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(path, 54321, 54321)
    someone.prompts(1)
    for words in (
        ("up",),
        ("up", "--detach"),
        ("run", "prompts.jsonl", "-o", "o.jsonl", "--model", MODEL),
        ("serve", "worker-1"),
        ("config", "show"),
        ("config", "check", "--config", str(path)),
    ):
        done = someone.run(*words)
        assert done.returncode == 2, words
        assert "swarm.toml: is refused" in done.stderr
        assert f"{path} " in done.stderr
        assert done.stdout == ""
    assert not (someone.folder / "ran").exists()
    assert not someone.root.exists()


def test_one_that_was_found_is_named_where_it_decides_what_is_started(someone):
    configure(someone, "[llm]\nnum_predict = 9\n")
    someone.prompts(1)
    words = ("run", "prompts.jsonl", "-o", "o.jsonl", "--model", MODEL, "--simulate", "1")
    assert someone.run(*words).stderr.startswith("configuration: config/swarm.toml\n")
    again = someone.run(*words, "--json")
    assert json.loads(again.stdout)
    assert again.stderr == ""
    assert someone.run(*words, "--config", "config/swarm.toml").stderr == "", "who names it knows it"
    assert "Configuration: config/swarm.toml" not in someone.log("supervisor"), "its whole path is told"
    assert f"Configuration: {someone.folder}/config/swarm.toml" in someone.log("supervisor")
    assert "configuration: config/swarm.toml" in someone.run("doctor", "--simulate", "1").stdout
    assert someone.json("config", "show")["file"] == "config/swarm.toml"


@pytest.mark.skipif(not PROGRAM.exists(), reason="swarm is not installed")
def test_modules_in_the_current_directory_are_not_loaded(someone):
    for name in ("msgspec", "json", "swarm", "filelock"):
        (someone.folder / f"{name}.py").write_text(f"open({str(someone.folder / 'ran')!r}, 'w')\n")
    someone.prompts(1)
    argv = [str(PROGRAM), "run", "prompts.jsonl", "-o", "o.jsonl", "--model", MODEL, "--simulate", "1"]
    done = subprocess.run(argv, cwd=someone.folder, env=someone.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (someone.folder / "ran").exists()
    for name in ("msgspec", "json", "swarm", "filelock"):
        (someone.folder / f"{name}.py").unlink()
