"""CUDA_VISIBLE_DEVICES, and drivers that tell next to nothing, as a user meets them: over a stand-in for the library."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from swarm.gpu.visible import cuda_order
from swarm.proc.ports import free_port
from tests.helpers.cli import user
from tests.helpers.fake_nvml import FakeDriver, build, build_cuda, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: the NVML binding is not tested")
NOTE = "1 of 4 cards: CUDA_VISIBLE_DEVICES=1"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def box(tmp_path, library):
    """The environment of a user with four cards and a program that serves models, which notes the cards it is given."""
    FakeDriver(tmp_path / "state")
    path = tmp_path / "ollama"
    path.write_text(
        f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/starts\n'
        f"export PYTHONPATH={Path(__file__).parents[2]}\nexec {sys.executable} -m swarm.simulator\n"
    )
    path.chmod(0o755)
    return {
        "LD_LIBRARY_PATH": str(library),
        "FAKE_NVML_STATE": str(tmp_path / "state"),
        "SWARM_OLLAMA__BINARY": str(path),
        "SWARM_OLLAMA__BASE_PORT": str(free_port()),
    }


def test_only_the_visible_card_is_used_and_everybody_is_told(tmp_path, box):
    with user(tmp_path, **box, CUDA_VISIBLE_DEVICES="1") as me:
        started = me.run("up", "--detach")
        assert started.returncode == 0, started.stderr
        assert started.stdout.startswith("swarm is up: 1 of 1 workers")
        assert started.stderr.strip() == NOTE
        assert NOTE in me.log("supervisor")
        assert (tmp_path / "starts").read_text().split() == ["GPU-00000001"]
        # Who looks from another shell sees the cards of the swarm, not those of that shell.
        for elsewhere in ({}, {"CUDA_VISIBLE_DEVICES": "0,2"}):
            me.env = {k: v for k, v in me.env.items() if k != "CUDA_VISIBLE_DEVICES"} | elsewhere
            assert [g["index"] for g in me.json("gpus")["gpus"]] == [1]
            assert NOTE in me.ok("gpus")
            assert NOTE in me.ok("status")
            assert me.json("status")["cards_note"] == NOTE
            assert json.loads(me.run("doctor", "--json").stdout)["cards_note"] == NOTE
            assert 'uuid="GPU-00000000"' not in me.ok("metrics")


def test_before_a_start_the_commands_show_what_a_start_would_use(tmp_path, box):
    with user(tmp_path, **box, CUDA_VISIBLE_DEVICES="GPU-00000003,GPU-00000000,nonsense,GPU-00000001") as me:
        shown = me.json("gpus")
        assert [g["index"] for g in shown["gpus"]] == [3, 0]
        assert shown["cards_note"].startswith("2 of 4 cards: CUDA_VISIBLE_DEVICES=GPU-00000003")
        assert "read up to 'nonsense'" in shown["cards_note"]
        assert "2 of 4 cards" in me.run("doctor").stdout
        me.env["SWARM_GPU__IGNORE_VISIBLE"] = "true"
        assert len(me.json("gpus")["gpus"]) == 4


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", ("up",)),
        ("NoDevFiles", ("up", "--detach")),
        ("-1", ("run", "{input}", "--model", "m", "-o", "out.jsonl")),
    ],
)
def test_no_card_left_is_said_and_ends_with_2(tmp_path, box, value, words):
    with user(tmp_path, **box, CUDA_VISIBLE_DEVICES=value) as me:
        done = me.run(*(word.format(input=me.prompts(2)) for word in words))
        assert done.returncode == 2, done.stderr
        assert "no card is left to work on: 0 of 4 cards: CUDA_VISIBLE_DEVICES=" in done.stderr
        assert "ignore_visible" in done.stderr
        assert not (tmp_path / "starts").exists()


def test_a_worker_on_a_hidden_card_is_refused_by_name_however_it_is_started(tmp_path, box):
    workers = json.dumps([{"name": "one", "gpus": [1]}, {"name": "two", "gpus": [2]}])
    with user(tmp_path, **box, CUDA_VISIBLE_DEVICES="1", SWARM_WORKERS=workers) as me:
        for words in (("up",), ("worker", "two"), ("worker", "one")):
            done = me.run(*words)
            assert done.returncode == 2, done.stderr
            assert f"[[workers]] two: GPU 2 is hidden from this process: {NOTE}" in done.stderr


def test_ignored_on_demand_every_card_is_used(tmp_path, box):
    with user(tmp_path, **box, CUDA_VISIBLE_DEVICES="", SWARM_GPU__IGNORE_VISIBLE="true") as me:
        started = me.run("up", "--detach")
        assert started.returncode == 0, started.stderr
        assert "4 of 4 workers" in started.stdout
        assert "CUDA_VISIBLE_DEVICES is ignored" in started.stderr
        assert sorted((tmp_path / "starts").read_text().split()) == [f"GPU-{i:08d}" for i in range(4)]


def test_simulated_cards_are_not_hidden(tmp_path, box):
    with user(tmp_path, **box, CUDA_VISIBLE_DEVICES="") as me:
        started = me.run("up", "--simulate", "2", "--detach")
        assert (started.returncode, started.stderr) == (0, "")
        assert len(me.json("gpus")["gpus"]) == 2


def test_a_driver_that_only_counts_its_cards_stops_nothing(tmp_path, box):
    box["LD_LIBRARY_PATH"] = str(build(tmp_path / "bare", "BARE"))
    with user(tmp_path, **box) as me:
        assert [(g["index"], g["uuid"], g["fault"], g["memory_total_mib"]) for g in me.json("gpus")["gpus"]] == [
            (i, str(i), None, None) for i in range(4)
        ]
        started = me.run("up", "--detach")
        assert started.returncode == 0, started.stderr
        assert sorted((tmp_path / "starts").read_text().split()) == ["0", "1", "2", "3"]
        done = me.run("run", str(me.prompts(8)), "--model", "llama3.2:3b", "-o", "out.jsonl")
        assert done.returncode == 0, done.stderr
        for words in (("gpus",), ("status",), ("metrics",), ("explain", "worker-1")):
            shown = me.run(*words)
            assert shown.returncode == 0, shown.stderr
            assert "Traceback" not in shown.stderr
        codes = {f["code"] for f in json.loads(me.run("doctor", "--json").stdout)["findings"]}
        assert not codes & {"card-lost", "no-nvml", "no-plan"}
        assert not [n for n in os.listdir(me.root / "logs") if "Traceback" in (me.root / "logs" / n).read_text()]


def test_cuda_is_asked_for_its_order_in_a_process_of_its_own(tmp_path):
    env = {"LD_LIBRARY_PATH": str(build_cuda(tmp_path)), "CUDA_VISIBLE_DEVICES": "0"}
    assert cuda_order(env) == ("GPU-03000000-0000-0000-0000-000000000000", "GPU-01000000-0000-0000-0000-000000000000")


def test_without_cuda_there_is_no_order(tmp_path):
    assert cuda_order({"LD_LIBRARY_PATH": str(tmp_path), "PATH": ""}) is None or Path("/dev/nvidiactl").exists()
