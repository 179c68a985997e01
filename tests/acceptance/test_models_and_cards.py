"""Models pulled, servers that hang, cards that are lost and released: as a user sees it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from swarm.config.settings import RepairSettings
from swarm.engines.ollama import quarantine
from swarm.filesystem.temporary import write_note
from tests.helpers.cli import user
from tests.helpers.wait import wait_until

QUICK = {"SWARM_GPU__CHECK_S": "0.1"}


@pytest.fixture
def ollama(tmp_path):
    """A program that serves models, as far as the command line can tell."""
    path = tmp_path / "ollama"
    path.write_text(f"#!/bin/sh\nexport PYTHONPATH={Path(__file__).parents[2]}\nexec {sys.executable} -m swarm.simulator\n")
    path.chmod(0o755)
    return {"SWARM_OLLAMA__BINARY": str(path)}


def test_a_model_is_pulled_through_a_server_started_for_it(tmp_path, ollama):
    with user(tmp_path, **ollama) as me:
        done = me.run("models", "pull", "new:1b", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["through"] == "a server started for it"
        assert "success" in done.stderr
        assert not me.ours()


def test_a_pull_counts_only_with_success_and_only_one_runs_at_a_time(tmp_path, ollama):
    with user(tmp_path, **ollama, SWARM_SIM_PULL_ERROR="pull model manifest: file does not exist") as me:
        failed = me.run("models", "pull", "nosuch:1b")
        assert failed.returncode == 3
        assert "file does not exist" in failed.stderr
        from swarm.cli.run.model_pull import LOCK_FILE, NOTE_FILE, Pulling

        with FileLock(me.root / LOCK_FILE):
            write_note(me.root / NOTE_FILE, Pulling(pid=4711, model="big:70b"))
            second = me.run("models", "pull", "new:1b")
        assert second.returncode == 2
        assert "big:70b is being pulled by pid 4711" in second.stderr


def test_a_run_survives_a_lost_card_and_the_card_is_released(tmp_path):
    with user(tmp_path, **QUICK, SWARM_SIM__REQUEST_S="0.2", SWARM_LLM__SLOTS="1") as me:
        me.ok("up", "--simulate", "2", "--detach")
        (me.root / ".sim" / "SIM-GPU-1").mkdir(parents=True, exist_ok=True)
        state = me.root / ".sim" / "SIM-GPU-1" / "state.json"
        running = me.start("run", str(me.prompts(100)), "--model", "llama3.2:3b", "-o", "out.jsonl")
        wait_until(lambda: "Completed llm task" in me.log("worker-2"), what="worker-2 at work", timeout_s=60)
        state.write_text('{"fault": "Xid 79"}')
        _, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
        assert len((me.folder / "out.jsonl").read_text().splitlines()) == 100
        told = "Card quarantined: GPU 1 cannot be read: Xid 79"
        wait_until(lambda: told in me.log("worker-2"), what="the loss is seen, though the work may be done before")
        state.unlink()
        assert "worker-2: quarantine ended (GPU 1 cannot be read: Xid 79)" in me.ok("workers", "release", "worker-2")
        wait_until(lambda: me.json("workers")["workers"][1]["state"] == "idle", what="worker-2 back", timeout_s=60)
        assert me.run("workers", "release", "worker-9").returncode == 2


def test_a_hanging_server_is_repaired_and_nothing_is_lost(tmp_path):
    """A request hangs and so does the probe after it: cut. The next probe hangs: runner killed. Then all goes well."""
    faults = {"SWARM_SIM_FAULTS": "hang_first", "SWARM_SIM_FAULT_LIMIT": "3"}
    limits = {"SWARM_LLM__FIRST_TOKEN_S": "2", "SWARM_LLM__TOKEN_GAP_S": "2", "SWARM_LLM__SLOTS": "1"}
    with user(tmp_path, SWARM_OLLAMA__ENV=json.dumps(faults), **limits) as me:
        me.ok("run", str(me.prompts(10)), "--model", "llama3.2:3b", "--simulate", "1", "-o", "out.jsonl")
        assert len((me.folder / "out.jsonl").read_text().splitlines()) == 10
        log = me.log("worker-1")
        assert "Repair 1 of 4, request cut" in log
        assert "Repair 2 of 4, runner killed" in log
        assert "Server repaired" in log


def test_a_quarantine_outlives_the_swarm(tmp_path):
    with user(tmp_path) as me:
        (me.root / "workers").mkdir(parents=True, mode=0o700)
        quarantine.put(me.root / "workers", "worker-1", ("SIM-GPU-0",), "it hung too often", RepairSettings())
        me.ok("up", "--simulate", "2", "--detach")
        children = {
            c["name"]: c for c in json.loads((me.root / "workers" / "supervisor.status.json").read_text())["children"]
        }
        assert children["ollama-worker-1"]["state"] == "quarantined"
        assert "it hung too often" in children["worker-1"]["reason"]
        me.ok("workers", "release", "worker-1")
        wait_until(lambda: me.json("workers")["workers"][0]["state"] == "idle", what="worker-1 at work", timeout_s=60)
