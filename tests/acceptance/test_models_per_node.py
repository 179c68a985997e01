"""Two machines with different models on their disks, as a user sees them: here, and a relay called ``box2``."""

from __future__ import annotations

import json
import os

import pytest

from swarm.core.worker import Heartbeat, WorkerStatus
from swarm.queue.stores import registry
from tests.helpers.cli import user
from tests.helpers.relay import RunningRelay
from tests.helpers.wait import wait_until

SHARED, BIG, GLM = "llama3.2:3b", "big:7b", "glm:1b"
HERE = f'[sim]\nmodels = ["{SHARED}"]\nrequest_s = 0.02\n[[workers]]\nname = "mine"\ngpus = [0]\n'
THERE = f'[sim]\nmodels = ["{SHARED}", "{BIG}"]\nrequest_s = 0.02\nload_s = 0.1\n'
BOX2 = '[[workers]]\nname = "box2-gpu0"\nurl = "{url}/cards/gpu0"\ntoken_env = "BOX2_TOKEN"\nnode = "box2"\n'


@pytest.fixture(scope="module")
def me(tmp_path_factory):
    """Both run; on ``box2`` nothing but ``glm:1b`` can be pulled."""
    folder = tmp_path_factory.mktemp("models")
    relay = RunningRelay(folder / "relay", "--node", "box2", config=THERE, env={"SWARM_SIM_REGISTRY": GLM})
    try:
        (folder / "swarm.toml").write_text(HERE + BOX2.format(url=relay.ready.url))
        with user(folder, SWARM_CONFIG=str(folder / "swarm.toml"), BOX2_TOKEN=relay.token) as person:
            person.ok("up", "--simulate", "1", "--detach")
            wait_until(lambda: BIG in beat(person, "box2-gpu0").servable, what="what box2 has is known", timeout_s=60)
            yield person
    finally:
        relay.destroy()


def beat(person, worker):
    found = registry.read_heartbeat(person.queue.layout, worker)
    return found or Heartbeat(name=worker, pid=0, epoch=0, seq=0, turn=0, written_at="", status=WorkerStatus.STARTING)


def on_nodes(person, model):
    rows = person.json("models")["models"]
    return next((row["installed_nodes"] for row in rows if row["model"] == model), None)


def test_tasks_for_a_model_run_where_it_lies_and_nowhere_is_a_load_refused(me):
    """The card here is idle all the time, and comes first by name."""
    wait_until(lambda: (on_nodes(me, SHARED), on_nodes(me, BIG)) == (["", "box2"], ["box2"]), what="what lies where")
    me.ok("run", str(me.prompts(12)), "--model", BIG, "-o", "out.jsonl")
    assert len((me.folder / "out.jsonl").read_text().splitlines()) == 12
    assert BIG not in beat(me, "mine").models, "no load of it was even tried here"
    wait_until(lambda: beat(me, "box2-gpu0").models[BIG].completed == 12, what="all of them were done there")


def test_what_only_this_machine_is_to_have_is_refused_there_and_the_pull_here_goes_on(me):
    done = me.run("models", "pull", "odd:1b", "--json")
    assert done.returncode == 3
    here, there = json.loads(done.stdout)["nodes"]
    assert (here["node"], here["through"], here["error"]) == ("", "mine", "")
    assert (there["node"], there["mib"]) == ("box2", 0)
    assert "file does not exist" in there["error"]
    assert "on 1 of 2 machines: box2" in done.stderr
    assert "local: odd:1b: success" in done.stderr
    wait_until(lambda: on_nodes(me, "odd:1b") == [""], what="it is listed here alone")


def test_a_model_is_pulled_to_the_machine_that_is_named_and_used_there(me):
    done = me.ok("models", "pull", GLM, "--node", "box2")
    assert done.startswith(f"{GLM}: pulled through box2-gpu0 in ")
    wait_until(lambda: on_nodes(me, GLM) == ["box2"], what="it is listed there alone")
    me.ok("run", str(me.prompts(3, "few.jsonl")), "--model", GLM, "-o", "glm.jsonl")
    wait_until(lambda: beat(me, "box2-gpu0").models[GLM].completed == 3, what="all of them were done there")
    assert not os.path.exists(me.root / ".pull.json")
    unknown = me.run("models", "pull", GLM, "--node", "bix2")
    assert unknown.returncode == 2
    assert "did you mean box2?" in unknown.stderr
