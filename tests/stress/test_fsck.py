"""fsck finds what is wrong, says what it would do, does it, and never loses a task; moving tasks are no findings."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swarm.core.task import TaskState, Trail
from swarm.filesystem import temporary
from swarm.queue.coordination import ProcessLock
from swarm.queue.fsck import fsck
from swarm.queue.fsck import leftovers as fsckleft
from swarm.queue.fsck.rules import Action
from tests.helpers.queues import LANE, claim_one, finish_one, llm, open_queue, whereabouts

DONE = Trail(result={"message": {"content": "hi"}})
DEAD = 2**22 + 1
"""Above the kernel's highest pid."""


@pytest.fixture
def queue(tmp_path):
    queue = open_queue(tmp_path)
    for name in ("a", "b", "c"):
        queue.enqueue(llm(task_id=name))
    worker = queue.worker_view("w")
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, DONE)
    return queue


def kinds(queue):
    return {(f.kind, os.path.relpath(f.path, queue.layout.root)) for f in fsck.look(queue.layout, agree_s=0)}


def repaired(queue):
    """What was done; afterwards nothing repairable is left and no task is gone."""
    before = {task_id for task_id, _ in whereabouts(queue).items()}
    findings = fsck.look(queue.layout, agree_s=0)
    done = fsck.repair(queue.layout, queue.storage, findings)
    assert [f for f in fsck.look(queue.layout, agree_s=0) if f.action is not Action.NONE] == []
    after = {n.partition(".")[0] for _, _, names in os.walk(queue.layout.root) for n in names}
    assert before <= after, "a task is gone"
    return {f.kind for f in done}


def write(path, text="x", age_s=0.0):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text(text)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def copy(queue, task_id, target):
    return write(target, Path(queue.find(task_id).path).read_text())


def test_a_sound_queue_is_clean(queue):
    assert fsck.look(queue.layout) == ()


def test_of_a_task_in_several_states_the_one_that_counts_stays(queue):
    root = queue.layout.root
    copy(queue, "a", f"{root}/pending/{LANE}/4-0/a.1.json")
    copy(queue, "b", f"{root}/blocked/b.1.json")
    copy(queue, "c", f"{root}/processing/v/c.1.json")
    lock = ProcessLock(queue.layout, "v")
    lock.acquire()
    assert {k for k, _ in kinds(queue)} == {"several-states"}
    assert repaired(queue) == {"several-states"}
    lock.release()
    assert whereabouts(queue) == {"a": [TaskState.COMPLETED], "b": [TaskState.BLOCKED], "c": [TaskState.PROCESSING]}
    assert queue.stats().corrupt == 3
    reasons = [p.read_text() for p in Path(queue.layout.corrupt).glob("*.reason")]
    assert any("in completed too" in r for r in reasons)


def test_documents_must_parse_and_belong_to_their_place(queue):
    root = queue.layout.root
    write(f"{root}/blocked/x.0.json", "{")
    write(f"{root}/pending/{LANE}/4-0/y.0.json", json.dumps(llm(task_id="z")))
    write(f"{root}/pending/llm@other:1/4-0/q.0.json", json.dumps(llm(task_id="q")))
    write(f"{root}/pending/{LANE}/4-0/foreign.txt")
    write(f"{root}/failed/foreign")
    document = json.dumps(llm(task_id="s"), separators=(",", ":"))[:-1] + ',\n"status":"completed","result":{}}\n'
    write(f"{root}/completed/000000/s.json", document)
    write(f"{root}/completed/000000/s2.json", document)
    found = kinds(queue)
    assert ("unreadable", "blocked/x.0.json") in found
    assert ("wrong-name", f"pending/{LANE}/4-0/y.0.json") in found
    assert ("wrong-lane", "pending/llm@other:1/4-0/q.0.json") in found
    assert ("foreign", f"pending/{LANE}/4-0/foreign.txt") in found
    assert ("foreign", "failed/foreign") in found
    assert ("wrong-shard", "completed/000000/s.json") in found
    assert repaired(queue) >= {"unreadable", "wrong-name", "wrong-lane", "foreign", "wrong-shard"}
    assert queue.find("q").lane == LANE
    assert queue.read("s")["state"] == "completed"


def test_a_terminal_document_has_the_status_of_its_directory(queue):
    from swarm.queue.layout import shard_of

    root = queue.layout.root
    body = json.dumps(llm(task_id="n"), separators=(",", ":")) + "\n"
    write(f"{root}/failed/{shard_of('n')}/n.json", body)
    write(f"{root}/completed/{shard_of('m')}/m.json", body.replace('"n"', '"m"'))
    assert {k for k, _ in kinds(queue)} == {"no-status", "no-result"}
    assert repaired(queue) == {"no-status"}
    assert queue.read("n")["status"] == "failed"
    assert "died before" in queue.read("n")["error"]["message"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_and_the_young_stay(queue):
    layout = queue.layout
    gone = [
        write(f"{layout.staging}/{queue.new_id()}.{DEAD}", age_s=4000),
        write(f"{layout.heartbeats}/.0.new"),
        write(f"{layout.batches}/.12.new"),
        write(f"{layout.root}/feeds/.0.new", age_s=60),
        write(f"{layout.cancels}/nobody", ""),
        write(f"{layout.cancels}/a", ""),
    ]
    bulk = f"{layout.staging}/{queue.new_id()}.{DEAD}"
    write(f"{bulk}/{LANE}/4-x/t.0.json")
    os.utime(bulk, (time.time() - 4000,) * 2)
    fd, written = temporary.take(layout.workers)
    kept = [
        written,
        write(f"{layout.staging}/{queue.new_id()}.{DEAD}", age_s=3000),
        write(f"{layout.staging}/{queue.new_id()}.{os.getpid()}", age_s=4000),
        write(f"{layout.cancels}/b", ""),
    ]
    assert repaired(queue) == {"staging", "temporary", "cancel-mark"}
    assert not any(os.path.exists(p) for p in (*gone, bulk))
    assert all(os.path.exists(p) for p in kept)
    os.close(fd)


def test_what_belongs_to_nobody_is_told(queue):
    layout = queue.layout
    claim_one(queue.worker_view("dead"))
    write(f"{layout.heartbeats}/ghost.json", "{}")
    write(f"{layout.workers}/ghost2.json", "{}")
    write(f"{layout.corrupt}/x.json")
    assert {k for k, _ in kinds(queue)} == {"abandoned", "heartbeat", "row", "no-reason"}
    assert repaired(queue) == {"no-reason"}
    assert "without a reason" in Path(f"{layout.corrupt}/x.json.reason").read_text()


def test_recovery_at_start_clears_only_what_is_provably_dead(queue):
    layout = queue.layout
    write(f"{layout.workers}/.0.new")
    write(f"{layout.staging}/x.{DEAD}", age_s=4000)
    write(f"{layout.pending}/{LANE}/4-0/foreign.txt")
    assert len(fsck.recover_root(layout, queue.storage)) == 2
    assert fsck.recover_root(layout, queue.storage) == ()
    assert {k for k, _ in kinds(queue)} == {"foreign"}


def test_tasks_on_the_move_are_no_findings(tmp_path):
    queue = open_queue(tmp_path)
    list(queue.enqueue_many(llm() for _ in range(300)))
    lock = ProcessLock(queue.layout, "w")
    lock.acquire()
    stop = threading.Event()

    def work():
        worker = queue.worker_view("w")
        while not stop.is_set():
            for claim in [c for c in (claim_one(worker) for _ in range(20)) if c]:
                worker.release(claim)

    mover = threading.Thread(target=work)
    mover.start()
    try:
        for _ in range(8):
            assert fsck.look(queue.layout, agree_s=0.05) == ()
    finally:
        stop.set()
        mover.join()
        lock.release()


def test_what_is_gone_at_the_second_look_is_no_finding(queue, monkeypatch):
    path = write(f"{queue.layout.pending}/{LANE}/4-0/foreign.txt")
    assert len(list(fsck.scan(queue.layout))) == 1
    monkeypatch.setattr(time, "sleep", lambda _s: os.unlink(path))
    assert fsck.look(queue.layout) == ()


def test_two_names_of_one_file_are_two_places(queue):
    os.link(queue.find("b").path, f"{queue.layout.blocked}/b.0.json")
    assert {k for k, _ in kinds(queue)} == {"several-states"}
    assert repaired(queue) == {"several-states"}
    assert whereabouts(queue)["b"] == [TaskState.BLOCKED]


def test_old_enough_is_an_hour():
    assert fsckleft.STAGING_AGE_S >= 3600


def test_the_command_tells_repairs_and_ends_with_0_or_1(queue):
    def fsck_command(*words):
        argv = [sys.executable, "-m", "swarm", "queue", "fsck", "--root", queue.layout.root, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    clean = fsck_command("--json")
    assert (clean.returncode, json.loads(clean.stdout)) == (0, {"clean": True, "findings": [], "repaired": []})
    write(f"{queue.layout.pending}/{LANE}/4-0/foreign.txt")
    told = fsck_command()
    assert told.returncode == 1
    assert "foreign.txt" in told.stdout
    assert "--repair" in told.stdout
    repaired = fsck_command("--repair", "--json")
    assert repaired.returncode == 0, repaired.stderr
    assert [f["kind"] for f in json.loads(repaired.stdout)["repaired"]] == ["foreign"]
    claim_one(queue.worker_view("dead"))
    left = fsck_command("--repair")
    assert left.returncode == 1
    assert "the brain" in left.stdout
