"""A state machine of the queue against a model in memory, with workers that die at any moment between operations."""

import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from swarm.core.task import Attempt, TaskState, Trail
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from tests.helpers.crashworld import impatient
from tests.helpers.queues import claim_one, finish_one, llm, prepared, whereabouts

WORKERS = ("w1", "w2")
LARGE = bool(os.environ.get("SWARM_TORTURE"))


def crash_rule(attempts):
    return None if sum(a.outcome == "crashed" for a in attempts) >= 3 else 0.0


class QueueMachine(RuleBasedStateMachine):
    """The model: each task's state, attempt number and crashes; order within the lane is checked on claims."""

    claims = Bundle("claims")

    def __init__(self):
        super().__init__()
        self.home = tempfile.mkdtemp(prefix="swarm-machine-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.queue = prepared(f"{self.home}/queue")
        self.model = {}
        self.results = {}
        self.lives = {}
        self.views = {}
        for name in WORKERS:
            self._begin(name)

    def teardown(self):
        for lock in self.lives.values():
            lock.release()
        shutil.rmtree(self.home)

    def _begin(self, name):
        self.lives[name] = ProcessLock(self.queue.layout, name)
        self.lives[name].acquire()
        self.views[name] = self.queue.worker_view(name)

    def _waiting(self):
        return {i for i, m in self.model.items() if m["state"] == "pending"}

    @rule(priority=st.integers(0, 9))
    def enqueue(self, priority):
        task_id = self.queue.enqueue(llm(priority=priority))
        self.model[task_id] = {"state": "pending", "attempt": 0, "crashes": 0, "priority": priority}

    @rule(priorities=st.lists(st.integers(4, 6), min_size=1, max_size=5))
    def enqueue_many(self, priorities):
        ids = [self.queue.new_id() for _ in priorities]
        documents = [llm(task_id=i, priority=p) for i, p in zip(ids, priorities, strict=True)]
        assert list(self.queue.enqueue_many(documents)) == [len(ids)]
        for i, p in zip(ids, priorities, strict=True):
            self.model[i] = {"state": "pending", "attempt": 0, "crashes": 0, "priority": p}

    @rule(target=claims, name=st.sampled_from(WORKERS))
    def claim(self, name):
        claim = claim_one(self.views[name])
        waiting = self._waiting()
        if claim is None:
            assert not waiting, "an eligible task was not claimed"
            return multiple()
        entry = self.model[claim.task.task_id]
        assert claim.task.task_id in waiting
        assert entry["priority"] == max(self.model[i]["priority"] for i in waiting), "not the most urgent one"
        entry["attempt"] += 1
        assert claim.attempt == entry["attempt"]
        entry.update(state="processing", worker=name)
        return (name, self.lives[name], claim)

    def _mine(self, held):
        """Whether the claim still stands: its worker has not died since."""
        name, life, claim = held
        entry = self.model[claim.task.task_id]
        return self.lives[name] is life and entry["state"] == "processing" and entry["attempt"] == claim.attempt

    def _impossible(self, held):
        """A dead life whose task was put back by hand: numbers begin again then, and only the kernel's word fences it."""
        name, life, claim = held
        return self.lives[name] is not life and self.model[claim.task.task_id].get("again", False)

    @rule(held=consumes(claims), failed=st.booleans())
    def finish(self, held, failed):
        if self._impossible(held):
            return
        name, _, claim = held
        state = TaskState.FAILED if failed else TaskState.COMPLETED
        mine = self._mine(held)
        result = {"message": {"content": f"{claim.task.task_id} {claim.attempt} {name}"}}
        assert finish_one(self.queue.worker_view(name), claim, state, Trail(result=result)) is mine
        if mine:
            self.model[claim.task.task_id]["state"] = str(state)
            self.results[claim.task.task_id] = result

    @rule(held=consumes(claims), counts=st.booleans(), text=st.text(max_size=30))
    def retry(self, held, counts, text):
        if self._impossible(held):
            return
        name, _, claim = held
        mine = self._mine(held)
        tried = Attempt(attempt=claim.attempt, worker=name + text, outcome="retried", fault="transient")
        done = self.queue.worker_view(name).retry(claim, (*claim.attempts, tried), delay_s=0, counts=counts)
        assert done is mine
        if mine:
            entry = self.model[claim.task.task_id]
            entry.update(state="pending", attempt=claim.attempt if counts else claim.attempt - 1)

    @rule(held=consumes(claims))
    def release(self, held):
        if self._impossible(held):
            return
        mine = self._mine(held)
        assert self.queue.worker_view(held[0]).release(held[2]) is mine
        if mine:
            self.model[held[2].task.task_id].update(state="pending", attempt=held[2].attempt - 1)

    @rule(name=st.sampled_from(WORKERS))
    def die(self, name):
        """The kernel frees the lock; the brain takes back; a new life begins under the same name."""
        brain = self.queue.brain_view(crash_rule)
        assert brain.recover(name) is None, "taken from a living worker"
        self.lives[name].release()
        lines = brain.recover(name)
        held = [i for i, m in self.model.items() if m["state"] == "processing" and m["worker"] == name]
        assert len(lines) == len(held)
        for task_id in held:
            entry = self.model[task_id]
            entry["crashes"] += 1
            entry["state"] = "failed" if entry["crashes"] >= 3 else "pending"
        self._begin(name)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data):
        task_id = data.draw(st.sampled_from(sorted(self.model)))
        if self.model[task_id]["state"] == "pending":
            assert self.queue.cancel(task_id, "x") == "cancelled"
            self.model[task_id]["state"] = "cancelled"

    @precondition(lambda self: any(m["state"] in ("failed", "cancelled") for m in self.model.values()))
    @rule(data=st.data())
    def retry_by_hand(self, data):
        ended = sorted(i for i, m in self.model.items() if m["state"] in ("failed", "cancelled"))
        task_id = data.draw(st.sampled_from(ended))
        self.queue.retry(task_id)
        self.model[task_id].update(state="pending", attempt=0, crashes=0, again=True)
        self.results.pop(task_id, None)

    @rule()
    def restart_all(self):
        """Nothing lives in memory that matters."""
        self.queue = FileQueue(f"{self.home}/queue", "fast").prepare()
        self.views = {name: self.queue.worker_view(name) for name in WORKERS}

    @invariant()
    def disk_and_model_agree(self):
        assert {i: [str(s) for s in states] for i, states in whereabouts(self.queue).items()} == {
            i: [m["state"]] for i, m in self.model.items()
        }

    @invariant()
    def results_are_what_was_recorded(self):
        for task_id, result in self.results.items():
            assert self.queue.read(task_id)["result"] == result

    @invariant()
    def fsck_is_clean(self):
        with impatient():
            assert fsck.look(self.queue.layout, agree_s=0) == ()


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=400 if LARGE else 25,
    stateful_step_count=40 if LARGE else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
