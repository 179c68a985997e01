"""`swarm queue clear-stuck` and `swarm queue purge` on a real queue, with workers that are dead, deaf or willing."""

import json
import os
import threading
import time

import pytest
from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.cli.run import clear_stuck as clearing
from swarm.core.task import Attempt, TaskState, Trail
from swarm.core.worker import Heartbeat, SlotView, WorkerRow, WorkerStatus
from swarm.proc import identity
from swarm.queue.coordination import ProcessLock
from swarm.queue.stores import registry
from tests.helpers.queues import claim_one, finish_one, llm, open_queue
from tests.helpers.wait import wait_until

LANE = "llm@llama3.2:3b"


class Box:
    """A queue, and a worker on it as far as files tell."""

    def __init__(self, path):
        self.queue = open_queue(path)
        self.view = self.queue.worker_view("w")
        self.lock = ProcessLock(self.queue.layout, "w")

    def live(self):
        self.lock.acquire()
        row = WorkerRow(name="w", process=identity.current(), started_at="", epoch=1)
        registry.register(self.queue.layout, self.queue.storage, row)

    def claim(self):
        self.queue.enqueue(llm())
        return claim_one(self.view)

    def beat(self, claim, *, quiet_s):
        slot = SlotView(task_id=claim.task.task_id, task_class="llm", attempt=claim.attempt, quiet_s=quiet_s)
        beat = Heartbeat(name="w", pid=1, epoch=1, seq=1, turn=1, written_at="", status=WorkerStatus.BUSY, slots=(slot,))
        self.queue.heartbeats().beat(beat)

    def run(self, *words):
        done = CliRunner().invoke(app, ["queue", *words, "--root", self.queue.layout.root, "--json"])
        return done.exit_code, json.loads(done.stdout) if done.stdout.startswith("{") else done.output


@pytest.fixture
def box(tmp_path):
    made = Box(tmp_path)
    yield made
    made.lock.release()


def obeying(box, claim):
    """A worker that does as it is asked."""

    def work():
        wait_until(lambda: box.view.requeue_requested(claim), what="the wish")
        assert box.view.release(claim)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_first_look_knows_what_is_stuck_from_the_workers_own_clock(box):
    box.live()
    claim = box.claim()
    box.beat(claim, quiet_s=10.0)
    assert box.run("stats")[1]["stuck"] == 0
    box.beat(claim, quiet_s=400.0)
    assert box.run("stats")[1]["stuck"] == 1


def test_what_is_stuck_is_stopped_and_put_back(box):
    box.live()
    claim = box.claim()
    box.beat(claim, quiet_s=400.0)
    thread = obeying(box, claim)
    code, found = box.run("clear-stuck")
    thread.join()
    assert code == 0
    assert found["cleared"][0]["outcome"] == "given back"
    located = box.queue.find(claim.task.task_id)
    assert (located.state, located.attempt) == (TaskState.PENDING, 0)
    assert not box.view.requeue_requested(claim), "its next attempt must not be stopped"
    assert box.run("clear-stuck") == (0, {"cleared": []})


def test_what_moves_is_left_alone_unless_its_worker_is_named(box):
    box.live()
    claim = box.claim()
    box.beat(claim, quiet_s=1.0)
    assert box.run("clear-stuck") == (0, {"cleared": []})
    thread = obeying(box, claim)
    code, found = box.run("clear-stuck", "--worker", "w")
    thread.join()
    assert (code, found["cleared"][0]["outcome"]) == (0, "given back")


def test_a_deaf_worker_is_named_and_the_wish_does_not_outlive_the_command(box, monkeypatch):
    monkeypatch.setattr(clearing, "PATIENCE_S", 0.2)
    box.live()
    claim = box.claim()
    box.beat(claim, quiet_s=400.0)
    code, found = box.run("clear-stuck")
    assert code == 1
    assert found["cleared"][0]["outcome"] == "no reaction"
    assert "swarm doctor w" in found["cleared"][0]["detail"]
    assert not box.view.requeue_requested(claim), "whoever gets the task next must not be asked"


def test_what_ends_while_it_is_asked_for_is_called_finished(box):
    box.live()
    claim = box.claim()
    box.beat(claim, quiet_s=400.0)

    def work():
        wait_until(lambda: box.view.requeue_requested(claim), what="the wish")
        finish_one(box.view, claim, TaskState.COMPLETED, Trail(result={}))

    thread = threading.Thread(target=work)
    thread.start()
    code, found = box.run("clear-stuck")
    thread.join()
    assert (code, found["cleared"][0]["outcome"]) == (0, "finished")
    assert not box.view.requeue_requested(claim)


def test_the_attempts_of_what_is_requeued_by_hand_are_forgiven_and_its_dependents_go_on_waiting(box):
    """It is in no terminal state meanwhile: the brain would fail what depends on it."""
    box.live()
    claim = box.claim()
    after = box.queue.enqueue(llm(depends_on=[claim.task.task_id]))
    failed = Attempt(attempt=1, worker="w", outcome="retried")
    assert box.view.retry(claim, (failed,), delay_s=0, counts=True)
    claim = claim_one(box.view)
    assert claim.attempt == 2
    box.beat(claim, quiet_s=400.0)
    ended = []

    def work():
        wait_until(lambda: box.view.requeue_requested(claim), what="the wish")
        ended.append(box.queue.find(claim.task.task_id).state)
        assert box.view.release(claim)

    thread = threading.Thread(target=work)
    thread.start()
    assert box.run("clear-stuck")[0] == 0
    thread.join()
    assert ended == [TaskState.PROCESSING]
    document = box.queue.read(claim.task.task_id)
    assert (document["state"], [one["outcome"] for one in document["attempts"]]) == ("pending", ["forgiven", "forgiven"])
    assert box.queue.find(after).state is TaskState.BLOCKED


def test_a_dead_workers_tasks_are_taken_back_here_when_no_brain_runs(box):
    claim = box.claim()
    code, found = box.run("clear-stuck")
    assert (code, found["cleared"][0]["outcome"]) == (0, "taken back")
    document = box.queue.read(claim.task.task_id)
    assert document["state"] in ("pending", "blocked")
    assert document["attempts"][0]["outcome"] == "crashed"


def test_with_a_brain_it_is_the_brains_work(box):
    claim = box.claim()
    brain = ProcessLock(box.queue.layout, "brain")
    brain.acquire()
    code, found = box.run("clear-stuck")
    brain.release()
    assert (code, found["cleared"][0]["outcome"]) == (0, "left to the brain")
    assert box.queue.find(claim.task.task_id).state is TaskState.PROCESSING


def test_a_worker_that_is_not_there_is_refused(box):
    box.live()
    done = CliRunner().invoke(app, ["queue", "clear-stuck", "--worker", "x", "--root", box.queue.layout.root])
    assert done.exit_code == 2


def test_purge_tells_first_and_does_then(box):
    claim = box.claim()
    finish_one(box.view, claim, TaskState.FAILED, Trail())
    path = box.queue.layout.terminal(TaskState.FAILED, claim.task.task_id)
    os.utime(path, (time.time() - 90000, time.time() - 90000))
    code, found = box.run("purge", "--older-than", "1d", "--dry-run")
    assert (code, found["removed"]["failed"]["documents"], found["dry_run"]) == (0, 1, True)
    assert os.path.exists(path)
    assert box.run("purge", "--older-than", "2d")[1]["removed"]["failed"]["documents"] == 0
    assert box.run("purge", "--older-than", "1d", "--state", "completed")[1]["removed"] == {
        "completed": {"documents": 0, "size_bytes": 0}
    }
    assert box.run("purge", "--older-than", "1d")[1]["removed"]["failed"]["documents"] == 1
    assert not os.path.exists(path)


@pytest.mark.parametrize("words", [("--older-than", "soon"), ("--older-than", "1d", "--state", "pending"), ()])
def test_bad_wishes_are_refused(box, words):
    box.claim()
    done = CliRunner().invoke(app, ["queue", "purge", *words, "--root", box.queue.layout.root])
    assert done.exit_code == 2
    assert box.queue.stats().processing == {"w": 1}
