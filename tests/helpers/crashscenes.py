"""The operations that crash tests put to the test."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import swarm.queue.batches.batch_book as batches
import swarm.queue.submit.producer as producer
from swarm.core.task import Finish, TaskError, TaskState, Trail
from swarm.core.worker import Heartbeat, ProcessIdentity, WorkerRow, WorkerStatus
from swarm.errors import DuplicateTask
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry
from tests.helpers.crashworld import DONE, LONG, MANIFEST, WORKER, Scenario, World, alive, llm, spare_rule
from tests.helpers.queues import claim_one, exchange_some, finish_one

BULK = [
    llm("1", task_id="b1"),
    llm("2", task_id="b2", model="m:2"),
    llm("3", task_id="b3", depends_on=["b1"]),
    llm("4", task_id="b4"),
    llm("5", task_id="b5", priority=9),
]


def nothing(_one: World) -> None:
    """An empty queue."""


def enqueue(one: World) -> None:
    one.say("accepted", one.open().enqueue(llm(task_id="a")))


def enqueue_fresh(one: World) -> None:
    one.say("accepted", one.open().enqueue(llm()))


def enqueue_waiting(one: World) -> None:
    one.say("accepted", one.open().enqueue(llm(task_id="a", session="chat")))


def enqueue_many(one: World) -> None:
    size, producer.FLUSH_EVERY = producer.FLUSH_EVERY, 3
    try:
        fresh = [d for d in BULK if one.open().find(d["task_id"]) is None]
        done = 0
        for upto in one.open().enqueue_many(fresh):
            for document in fresh[done:upto]:
                one.say("accepted", document["task_id"])
            done = upto
    finally:
        producer.FLUSH_EVERY = size


def two_waiting(one: World) -> None:
    for name in ("a", "b"):
        one.say("accepted", one.open().enqueue(llm(task_id=name)))


def with_history(one: World) -> None:
    """One task whose trail is long, so that what replaces it is shorter."""
    two_waiting(one)

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        assert worker.retry(claim_one(worker), [LONG], delay_s=0, counts=True)

    alive(one, work)


def claimed_by_the_dead(one: World) -> None:
    with_history(one)
    alive(one, lambda queue: _say_claim(one, queue))


def crashed_twice(one: World) -> None:
    """The next death is the last that is forgiven."""
    one.say("accepted", one.open().enqueue(llm(task_id="a")))
    for _ in range(2):
        alive(one, lambda queue: claim_one(queue.worker_view(WORKER)))
        one.open().brain_view(spare_rule).recover(WORKER)
    alive(one, lambda queue: claim_one(queue.worker_view(WORKER)))


def dead_letter(one: World) -> None:
    two_waiting(one)
    failed = Trail(error=TaskError("bad", "y" * 300), attempts=(LONG,))

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        assert finish_one(worker, claim_one(worker), TaskState.FAILED, failed)

    alive(one, work)


def _say_claim(one: World, queue: FileQueue) -> Any:
    worker = queue.worker_view(WORKER)
    claim = claim_one(worker)
    if claim is not None:
        one.say("claimed", claim.task.task_id, claim.attempt)
    return worker, claim


def claim(one: World) -> None:
    alive(one, lambda queue: _say_claim(one, queue) and None)


def claim_all(one: World) -> None:
    """To the end of the lane: used-up buckets go away."""

    def work(queue: FileQueue) -> None:
        while _say_claim(one, queue)[1] is not None:
            pass

    alive(one, work)


def unmade(one: World) -> None:
    """A root with nothing in it yet."""
    shutil.rmtree(one.root)
    os.mkdir(one.root, 0o700)


def prepare(one: World) -> None:
    one.open().prepare()


def _with_claim(settle: Callable[[World, Any, Any], None]) -> Callable[[World], None]:
    """Claim and settle; what was claimed and could not be settled is settled again, as a worker does."""

    def act(one: World) -> None:
        def work(queue: FileQueue) -> None:
            worker, claimed = one.setup or _say_claim(one, queue)
            if claimed is not None:
                one.setup = (worker, claimed)
                settle(one, worker, claimed)
                one.setup = None

        alive(one, work)

    return act


def _finish(one: World, worker: Any, claimed: Any) -> None:
    assert finish_one(worker, claimed, TaskState.COMPLETED, DONE), "its own record is no fence"
    one.say("ended", claimed.task.task_id, "completed", DONE.result)


def exchange(one: World) -> None:
    """Claim two, record both and claim two more, record those: what could not be done is said again, as a worker does."""

    def work(queue: FileQueue) -> None:
        worker, held = one.setup or (queue.worker_view(WORKER), ())
        while True:
            one.setup = (worker, held)
            got = exchange_some(worker, [Finish(claim, TaskState.COMPLETED, DONE) for claim in held], 2)
            assert all(got.recorded), "its own records are no fences"
            for claim in held:
                one.say("ended", claim.task.task_id, "completed", DONE.result)
            for claim in got.claims:
                one.say("claimed", claim.task.task_id, claim.attempt)
            held = got.claims
            if got.fault is not None:
                one.setup = (worker, held)
                raise got.fault
            if not held:
                break
        one.setup = None

    alive(one, work)


def four_waiting(one: World) -> None:
    for name in "abcd":
        one.say("accepted", one.open().enqueue(llm(task_id=name)))


def _retry(one: World, worker: Any, claimed: Any) -> None:
    worker.retry(claimed, [LONG], delay_s=0, counts=True)
    one.say("claimed", claimed.task.task_id, claimed.attempt)


def _retry_later(one: World, worker: Any, claimed: Any) -> None:
    worker.retry(claimed, [LONG], delay_s=0.001, counts=True)


def _release(one: World, worker: Any, claimed: Any) -> None:
    worker.release(claimed)


def release(one: World) -> None:
    """Says nothing of the attempt: giving back uncounted takes its number back."""

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        claimed = claim_one(worker)
        if claimed is not None:
            worker.release(claimed)

    alive(one, work)


def cancel(one: World) -> None:
    one.open().cancel("a", "not wanted")
    one.say("ended", "a", "cancelled", None)


def cancel_running(one: World) -> None:
    one.open().cancel("a", "not wanted")


def retry_by_hand(one: World) -> None:
    one.open().retry("a")


def take_back(one: World) -> None:
    one.open().brain_view(spare_rule).recover(WORKER)


def take_back_later(one: World) -> None:
    one.open().brain_view(lambda _attempts: 0.001).recover(WORKER)


def dropped(one: World) -> None:
    for name, content in (("good.json", json.dumps(llm(), indent=2)), ("bad.json", "{oops")):
        path = f"{one.root}/pending/{name}"
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
        os.utime(path, (time.time() - 60,) * 2)
    one.say("accepted", "good")


def file_drop_ins(one: World) -> None:
    brain = one.open().brain_view(spare_rule)
    for entry in brain.look().drop_ins:
        brain.file_drop_in(entry.file_name)


def submit_batch(one: World) -> None:
    size, batches.CHUNK = batches.CHUNK, 2
    try:
        items = [(f"k{n}", llm(str(n))) for n in range(5)]
        totals = list(one.open().batches().submit(MANIFEST, items))
    finally:
        batches.CHUNK = size
    assert all(a.items < b.items for a, b in pairwise(totals))
    one.say("batch", MANIFEST.batch_id, 5)


def register(one: World) -> None:
    def work(queue: FileQueue) -> None:
        epoch = registry.next_epoch(queue.layout, WORKER)
        who = ProcessIdentity(pid=os.getpid(), start_ticks=1, boot_id="boot")
        registry.register(queue.layout, queue.storage, WorkerRow(name=WORKER, process=who, started_at="", epoch=epoch))
        one.say("registered", epoch)
        beat = Heartbeat(name=WORKER, pid=1, epoch=epoch, seq=1, turn=1, written_at="", status=WorkerStatus.IDLE)
        queue.heartbeats().beat(beat)

    alive(one, work)


def session_waiting(one: World) -> None:
    one.say("accepted", one.open().enqueue(llm(task_id="s", session="chat")))
    one.say("accepted", one.open().enqueue(llm(task_id="s2", session="chat")))
    one.say("accepted", one.open().enqueue(llm(task_id="t", depends_on=["a"])))


def release_and_fail_blocked(one: World) -> None:
    brain = one.open().brain_view(spare_rule)
    brain.release_blocked("s", 0)
    brain.fail_blocked("t", 0, "a failed")


def map_waiting(one: World) -> None:
    """A list that is there, and a task to be mapped over it."""
    one.say("accepted", one.open().enqueue(llm(task_id="src")))

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        answer = Trail(result={"message": {"content": '["x", "y", "z"]'}})
        assert finish_one(worker, claim_one(worker), TaskState.COMPLETED, answer)

    alive(one, work)
    one.say("accepted", one.open().enqueue(llm("{item}", task_id="m", depends_on=["src"], map={"over": "src"})))


def expand_map(one: World) -> None:
    brain = one.open().brain_view(spare_rule)
    if brain.expand_map("m", 0) is not None:
        for number in range(3):
            one.say("accepted", f"m-{number}")


def enqueue_twice(one: World) -> None:
    """The id is taken: refused, the first one untouched."""
    try:
        one.open().enqueue(llm("other", task_id="a"))
    except DuplicateTask:
        return


SCENARIOS = (
    Scenario("prepare", unmade, prepare),
    Scenario("enqueue", nothing, enqueue),
    Scenario("enqueue-fresh", two_waiting, enqueue_fresh),
    Scenario("enqueue-waiting", nothing, enqueue_waiting),
    Scenario("enqueue-twice", two_waiting, enqueue_twice),
    Scenario("enqueue-many", nothing, enqueue_many),
    Scenario("claim", two_waiting, claim),
    Scenario("claim-all", with_history, claim_all),
    Scenario("finish", two_waiting, _with_claim(_finish)),
    Scenario("finish-after-history", with_history, _with_claim(_finish)),
    Scenario("exchange", four_waiting, exchange),
    Scenario("retry", two_waiting, _with_claim(_retry)),
    Scenario("retry-later", with_history, _with_claim(_retry_later)),
    Scenario("release", with_history, release),
    Scenario("cancel", two_waiting, cancel),
    Scenario("cancel-running", claimed_by_the_dead, cancel_running),
    Scenario("retry-by-hand", dead_letter, retry_by_hand),
    Scenario("take-back", claimed_by_the_dead, take_back),
    Scenario("take-back-later", claimed_by_the_dead, take_back_later),
    Scenario("take-back-for-good", crashed_twice, take_back),
    Scenario("drop-ins", dropped, file_drop_ins),
    Scenario("batch", nothing, submit_batch),
    Scenario("register", nothing, register),
    Scenario("map", map_waiting, expand_map),
    Scenario("blocked", session_waiting, release_and_fail_blocked),
)
