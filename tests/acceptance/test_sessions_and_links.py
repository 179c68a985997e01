"""Work that has an order: sessions under kills, steps that use earlier answers, lists mapped and joined."""

import json
import os
import random
import signal
import time

import pytest

from swarm.core.task import TaskState, Trail
from swarm.queue.batches.batch_watch import BatchWatch
from tests.helpers.cli import user
from tests.helpers.queues import claim_one, finish_one
from tests.helpers.sessioncheck import check_sessions
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
SESSIONS = int(os.environ.get("SWARM_TEST_SESSIONS", "30"))
STEPS = int(os.environ.get("SWARM_TEST_STEPS", "6"))
WORKERS = int(os.environ.get("SWARM_TEST_WORKERS", "2"))


@pytest.fixture
def someone(tmp_path):
    quick = {"SWARM_LLM__NUM_PREDICT": "4", "SWARM_RETRY__CRASH_LIMIT": "50", "SWARM_SUPERVISOR__RESTART_BASE_S": "0.2"}
    with user(tmp_path, **quick) as person:
        yield person


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def left(queue):
    """Items of the one batch that have not ended."""
    (batch,) = queue.batches().names()
    return BatchWatch(queue.layout, queue.batches().task_ids(batch)).look().left


def kill_one(person, rng):
    """SIGKILL a worker or the brain."""
    name = rng.choice([*(f"worker-{i}" for i in range(1, WORKERS + 1)), "brain"])
    row = json.loads((person.root / "workers" / f"{name}.json").read_text())
    try:
        os.kill(row["process"]["pid"], signal.SIGKILL)
    except ProcessLookupError:
        return


def test_sessions_keep_their_order_under_workers_and_random_kills(someone):
    seed = int(os.environ.get("SWARM_TEST_SEED", "7"))
    rng = random.Random(seed)
    steps = [
        {"prompt": f"{step} of {session}", "session": f"s{session}", "metadata": {"step": step}}
        for step in range(STEPS)
        for session in range(SESSIONS)
    ]
    write(someone.folder / "a.jsonl", *steps)
    someone.env["SWARM_SIM__REQUEST_S"] = "0.02"
    someone.ok("up", "--simulate", str(WORKERS), "--detach")
    someone.ok("submit", "a.jsonl", "--model", MODEL)
    queue = someone.queue
    total = SESSIONS * STEPS
    kill_s = time.monotonic()
    kills = 0
    deadline_s = time.monotonic() + 120 + total / 10
    while left(queue):
        assert time.monotonic() < deadline_s, (seed, queue.stats())
        if time.monotonic() > kill_s and kills < max(4, total // 40):
            kill_one(someone, rng)
            kills += 1
            kill_s = time.monotonic() + rng.uniform(0.1, 0.6)
        time.sleep(0.05)
    assert kills
    assert check_sessions(queue, SESSIONS, STEPS) >= total
    assert queue.stats().blocked == 0


def test_steps_name_one_another_and_use_what_came_before(someone):
    write(
        someone.folder / "steps.jsonl",
        {"name": "join", "prompt": "Join: {results.second.text} {{results.first}}", "depends_on": ["second", "first"]},
        {"name": "second", "prompt": "Next: {results.first.text}", "depends_on": ["first"]},
        {"name": "first", "prompt": "Begin"},
    )
    command = ("run", "steps.jsonl", "-o", "out.jsonl", "--model", MODEL, "--simulate", "1")
    done = someone.json(*command)
    assert (done["completed"], done["failed"]) == (3, 0)
    out = {line["name"]: line for line in lines_of(someone.folder / "out.jsonl")}
    assert out["second"]["depends_on"] == ["first"], "the input's columns come back as they were"
    assert out["second"]["usage"]["prompt_tokens"] > 5, "the first answer is part of the second prompt"
    stored = someone.queue.read(out["join"]["task_id"])
    assert stored["results"] == {"second": out["second"]["task_id"]}
    assert sorted(stored["depends_on"]) == sorted([out["second"]["task_id"], out["first"]["task_id"]])
    assert someone.json(*command)["new"] == 0, "the same again resumes"


def test_what_cannot_be_is_refused_before_anything_is_accepted(someone):
    write(
        someone.folder / "bad.jsonl",
        {"name": "a", "prompt": "x", "depends_on": ["b"]},
        {"name": "b", "prompt": "x", "depends_on": ["a"]},
    )
    done = someone.run("submit", "bad.jsonl", "--model", MODEL)
    assert done.returncode == 2
    assert "bad.jsonl:1: depends_on: they wait for one another: a -> b -> a (lines 1, 2)" in done.stderr
    write(someone.folder / "bad.jsonl", {"name": "alpha", "prompt": "x"}, {"prompt": "x", "depends_on": ["alpa", "alpha"]})
    done = someone.run("submit", "bad.jsonl", "--model", MODEL)
    assert "bad.jsonl:2: depends_on: 'alpa' is no name" in done.stderr
    assert "did you mean 'alpha'?" in done.stderr
    assert someone.queue.stats().pending == {}


def test_a_list_is_mapped_and_joined_although_the_brain_is_killed(someone):
    """The list comes from a task that is there already; its parts and the join follow by themselves."""
    queue = someone.queue.prepare()
    words = ["red", "green", "blue", "{results.x} {item}"]
    queue.enqueue({"task_id": "chunks", "task_class": "cpu", "command": ["x"]})
    hand = queue.worker_view("hand")
    claim = claim_one(hand, ["cpu"])
    finish_one(hand, claim, TaskState.COMPLETED, Trail(result={"stdout": json.dumps({"parts": words})}))
    write(
        someone.folder / "m.jsonl",
        {"name": "each", "prompt": "Sum up: {item}", "map": {"over": "chunks", "path": "parts"}},
        {"name": "all", "prompt": "Join: {results.each.list}", "depends_on": ["each"]},
    )
    someone.ok("up", "--simulate", "2", "--detach")
    someone.ok("submit", "m.jsonl", "--model", MODEL)
    wait_until(
        lambda: any(d.task_id.endswith("-0") for d in queue.list(TaskState.COMPLETED)), timeout_s=60, what="a part done"
    )
    kill_one_brain = json.loads((someone.root / "workers" / "brain.json").read_text())["process"]["pid"]
    os.kill(kill_one_brain, signal.SIGKILL)
    wait_until(lambda: not left(queue), timeout_s=60, what="all done")
    documents = [queue.read(located.task_id) for located in queue.list(TaskState.COMPLETED)]
    each = next(d for d in documents if d.get("name") == "each")
    assert each["result"]["children"] == [f"{each['task_id']}-{k}" for k in range(len(words))]
    assert len(each["result"]["list"]) == len(words)
    parts = {d["name"]: d for d in documents if d.get("name", "").startswith("each[")}
    asked = [parts[f"each[{k}]"]["request"]["messages"][-1]["content"] for k in range(len(words))]
    assert asked == [f"Sum up: {word}" for word in words], "braces of an element are no reference"
