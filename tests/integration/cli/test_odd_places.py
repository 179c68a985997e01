"""Roots, inputs and outputs with names that nobody expects, and locales that are not UTF-8: the main job is done there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.engines.ollama.server_spec import card_dir
from swarm.gpu.simulated import SimulatedReader
from tests.helpers.cli import user

MODEL = "llama3.2:3b"
NASTY = "a b:c%s{}#?*[x]'\"\n\\-😀" + os.fsdecode(b"\xff")
BARE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale in which Python can encode nothing but ASCII."""


@pytest.fixture
def someone(tmp_path):
    with user(tmp_path) as person:
        yield person


def run_words(output="o.jsonl", source="prompts.jsonl"):
    return ("run", source, "-o", output, "--model", MODEL, "--simulate", "2")


def statuses(path):
    return [json.loads(line)["status"] for line in Path(path).read_text().splitlines()]


def test_a_root_with_every_odd_character_and_no_utf8(someone):
    root = someone.folder / NASTY / "q"
    someone.root = root
    someone.prompts(6)
    before = {name.name for name in someone.folder.iterdir()}
    at = ("--root", str(root))
    (someone.folder / NASTY).mkdir()
    someone.ok("up", "--detach", "--simulate", "2", *at)
    someone.ok("submit", "prompts.jsonl", "--model", MODEL, "--wait", *at)
    used = SimulatedReader(2, 24576, [card_dir(root, f"SIM-GPU-{i}") for i in range(2)]).read()
    assert any(card.memory_used_mib for card in used), "the servers tell their memory where it is looked for"
    for words in (
        ("status",),
        ("doctor",),
        ("gpus",),
        ("queue", "stats"),
        ("queue", "list", "completed"),
        ("logs",),
        ("batches",),
    ):
        document = json.loads(someone.ok(*words, "--json", *at))
        assert document
    someone.ok("queue", "fsck", *at)
    someone.ok("down", *at)
    assert not someone.ours()
    assert {name.name for name in someone.folder.iterdir()} == before | {NASTY}, "no directory named by a part of it"


def test_in_a_locale_without_utf8(someone):
    someone.env |= BARE
    (someone.folder / "grüße.jsonl").write_text('{"prompt": "Füße", "spalte": "größer"}\n')
    done = someone.run(*run_words("ergebnis-ß.jsonl", "grüße.jsonl"), "--root", "wurzel-ü")
    assert done.returncode == 0, done.stderr
    assert "ergebnis-ß.jsonl" in done.stdout
    (line,) = [json.loads(text) for text in (someone.folder / "ergebnis-ß.jsonl").read_text("utf-8").splitlines()]
    assert (line["prompt"], line["spalte"]) == ("Füße", "größer")
    assert (someone.folder / "wurzel-ü" / "pending").is_dir()
    assert "😀" in someone.run("explain", "😀", "--root", "wurzel-ü").stderr


@pytest.mark.parametrize("env", [{}, BARE], ids=["utf-8", "C"])
def test_names_of_files_may_hold_any_bytes(someone, env):
    someone.env |= env
    name = os.fsdecode(b"in\xff.jsonl")
    someone.prompts(2, name)
    output = os.fsdecode(b"out\xfe.jsonl")
    document = json.loads(someone.ok(*run_words(output, name), "--json"))
    assert document["output"] == output, "escaped in JSON, and read back the same"
    assert statuses(someone.folder / output) == ["completed"] * 2
    assert json.loads(someone.ok("batches", "--json"))["batches"]


def test_other_words_must_be_utf8(someone):
    someone.env |= BARE
    done = someone.run("submit", "--prompt", os.fsdecode(b"a\xffb"), "--model", MODEL)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --prompt: a\\udcffb: is not UTF-8\n")
    someone.env["SWARM_NOTIFY__TARGETS"] = os.fsdecode(b"a\xffb")
    assert "$SWARM_NOTIFY__TARGETS" in someone.run("config", "show").stderr


def test_in_a_directory_that_has_gone(someone):
    gone = someone.folder / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && rmdir ../gone && exec "$@"'

    def run(*words):
        argv = ["sh", "-c", command, "sh", sys.executable, "-m", "swarm", *words]
        gone.mkdir(exist_ok=True)
        return subprocess.run(argv, env=someone.env, cwd=someone.folder, capture_output=True, text=True, check=False)

    someone.prompts(2)
    path = str(someone.folder / "prompts.jsonl")
    assert "current directory has been deleted" in run("queue", "stats").stderr
    done = run(*run_words(str(someone.folder / "o.jsonl"), path), "--root", str(someone.root))
    assert done.returncode == 0, done.stderr
    assert statuses(someone.folder / "o.jsonl") == ["completed"] * 2
    assert "current directory has been deleted" in run(*run_words("o.jsonl"), "--root", str(someone.root)).stderr


def test_results_on_standard_output_are_alone_there(someone):
    someone.prompts(3)
    for output in ("-", "/dev/stdout", "/dev/fd/1"):
        done = someone.run(*run_words(output))
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert [json.loads(line)["status"] for line in lines[:3]] == ["completed"] * 3
        assert output != "-" or len(lines) == 3, "words go to standard error"
    assert someone.run(*run_words("-"), "--json").returncode == 2
    long = "ü" * 120
    assert someone.run(*run_words(long)).returncode == 0
    assert statuses(someone.folder / long) == ["completed"] * 3
