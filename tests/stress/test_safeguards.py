"""Single safeguards, each shown at work: order of promises, kill before requeue, names, and what the mutants rely on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.config.settings import QueueSettings, Settings, SupervisorSettings, WorkerSpec
from swarm.errors import EngineError, StorageFault
from swarm.proc import identity
from swarm.queue.fsck import fsck
from swarm.queue.worker import claimer
from swarm.runtime.bootstrap import RunOptions
from swarm.supervisor import what_runs
from swarm.supervisor.keeper_factory import NEVER_READY_LIMIT, restart_policy
from swarm.worker import main as life
from tests.helpers.crashpoints import failing, recorded, watched
from tests.helpers.crashscenes import submit_batch
from tests.helpers.crashworld import WORKER, alive, llm, spare_rule, world
from tests.helpers.queues import claim_one, open_queue

REPO = Path(__file__).parents[2]


def test_a_batch_knows_its_tasks_before_they_appear():
    with world() as one:
        with recorded(one.root) as calls:
            submit_batch(one)
        known = [n for n, c in enumerate(calls) if c.name == "fsync" and c.path.endswith(".items")]
        shown = [n for n, c in enumerate(calls) if c.name == "rename" and "/pending/" in c.other]
        assert len(known) == len(shown) == 3
        assert all(k < s for k, s in zip(known, shown, strict=True))


def test_nothing_is_requeued_while_programs_of_the_dead_worker_run():
    with world() as one:
        one.open().enqueue(llm(task_id="a"))
        alive(one, lambda queue: claim_one(queue.worker_view(WORKER)))
        assert one.open().brain_view(spare_rule, lambda _worker: False).recover(WORKER) is None
        assert one.open().read("a")["state"] == "processing"
        assert one.open().brain_view(spare_rule, lambda _worker: True).recover(WORKER)
        assert one.open().read("a")["state"] == "pending"


def test_a_worker_does_not_start_while_programs_of_its_earlier_life_run(tmp_path, monkeypatch):
    queue = open_queue(tmp_path)
    queue.enqueue(llm(task_id="a"))
    assert claim_one(queue.worker_view(WORKER))
    settings = Settings(queue=QueueSettings(root=queue.layout.root), workers=(WorkerSpec(name=WORKER),))
    monkeypatch.setattr(what_runs, "kill_marked", lambda *_, **__: [identity.current()])
    monkeypatch.setattr(life, "install", lambda _wish: pytest.fail("it starts"))
    with pytest.raises(EngineError, match=f"cannot be killed: pid {os.getpid()} .*, state [A-Z]"):
        life.run_worker(RunOptions(settings=settings), WORKER)
    assert queue.brain_view(spare_rule, lambda _worker: True).recover(WORKER), "its process lock is free for the brain"
    assert queue.read("a")["state"] == "pending"


@pytest.mark.parametrize("fault", ["EMFILE", "EIO"])
def test_a_claim_that_fails_half_way_leaves_nothing_in_the_workers_hands(fault, monkeypatch):
    monkeypatch.setattr(claimer, "UNREADABLE_S", 0.0)
    for k in range(20):
        with world() as one:
            queue = one.open()
            for name in ("a", "b"):
                queue.enqueue(llm(task_id=name))
            worker = queue.worker_view(WORKER)
            failed = False
            try:
                with watched(one.root, failing(fault, k, lasting=True)):
                    claim_one(worker)
            except StorageFault:
                failed = True
            again = [claim_one(worker), claim_one(worker)]
            if not failed:
                assert k > 3, "the fault hit nothing"
                return
            assert sorted(c.task.task_id for c in again if c) == ["a", "b"], f"{fault} at call {k}"
            assert [c.attempt for c in again if c] == [1, 1], "a claim that never was counts no attempt"
    raise AssertionError("it never came through")


def test_a_name_of_many_bytes_is_set_aside_with_its_reason(tmp_path):
    queue = open_queue(tmp_path)
    path = f"{queue.layout.pending}/{'界' * 80}.json"
    Path(path).write_text("no task")
    name = queue.storage.quarantine(path, "no task")
    assert os.path.exists(f"{queue.layout.corrupt}/{name}.reason")
    assert fsck.look(queue.layout, agree_s=0) == ()


def test_a_refused_bulk_leaves_a_full_disk_no_fuller(tmp_path):
    queue = open_queue(tmp_path)

    def documents():
        yield llm()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(queue.enqueue_many(documents()))
    assert os.listdir(queue.layout.staging) == []


def test_restarts_follow_the_configuration():
    wanted = SupervisorSettings(restart_base_s=0.5, restart_cap_s=2.0, healthy_s=7.0)
    policy = restart_policy(Settings(supervisor=wanted))
    assert (policy.base_s, policy.cap_s, policy.healthy_s) == (0.5, 2.0, 7.0)
    assert policy.never_ready_limit is None
    assert restart_policy(Settings(), NEVER_READY_LIMIT).never_ready_limit


@pytest.mark.skipif(not (REPO / "scripts/mutants").exists(), reason="scripts are not here")
def test_every_mutant_still_applies():
    done = subprocess.run([sys.executable, REPO / "scripts/mutants", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
