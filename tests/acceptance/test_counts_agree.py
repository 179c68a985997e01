"""Whatever counts tasks counts the same ones: people's, each by the way it ended."""

import json

import pytest

from tests.helpers.cli import user
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"


@pytest.fixture(scope="module")
def somebody(tmp_path_factory):
    with user(tmp_path_factory.mktemp("counts")) as person:
        person.ok("up", "--simulate", "1", "--detach")
        yield person


def test_loads_are_no_tasks_and_cancelled_ones_no_failures(somebody):
    somebody.prompts(4, "done.jsonl")
    done = somebody.json("run", "done.jsonl", "-o", "done.out", "--model", MODEL)
    assert (done["completed"], done["failed"], done["cancelled"]) == (4, 0, 0)
    somebody.ok("queue", "pause", "all")
    somebody.prompts(3, "stopped.jsonl")
    batch = somebody.json("submit", "stopped.jsonl", "--model", MODEL)["batch_id"]
    somebody.ok("batch", "cancel", batch)
    wait_until(lambda: somebody.queue.stats().cancelled == 3, timeout_s=60, what="all cancelled")
    told = somebody.run("results", batch, "-o", "stopped.out", "--json")
    assert told.returncode == 1, "not all of it was done"
    assert {name: json.loads(told.stdout)[name] for name in ("completed", "failed", "cancelled")} == {
        "completed": 0,
        "failed": 0,
        "cancelled": 3,
    }
    assert "0 completed, 0 failed, 3 cancelled" in somebody.run("results", batch, "-o", "stopped.out").stdout
    rows = {row["batch_id"]: row for row in somebody.json("batches")["batches"]}
    assert [(row["completed"], row["failed"], row["cancelled"]) for row in rows.values()] == [(4, 0, 0), (0, 0, 3)]
    somebody.ok("queue", "resume", "all")

    def workers_done():
        return sum(row["completed"] for row in somebody.json("workers")["workers"])

    wait_until(lambda: workers_done() == 4, timeout_s=60, what="its heartbeat tells of all four")
    assert any("load" in one.task_id for one in somebody.queue.list("completed")), "there was a load"
    status = somebody.json("status")
    assert status["throughput"]["completed"] == 4
    assert [row["completed"] for row in status["workers"]] == [4]
    for queue in (status["queue"], somebody.json("queue", "stats")):
        assert (queue["completed"], queue["failed"], queue["cancelled"]) == (4, 0, 3)
    assert [row["completed"] for row in somebody.json("models")["models"] if row["completed"]] == [4]
    metrics = somebody.ok("metrics")
    assert 'swarm_tasks{state="completed"} 4.0' in metrics
    assert 'swarm_worker_completed_total{worker="worker-1"} 4.0' in metrics
