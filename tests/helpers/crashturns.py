"""Whole lives of a worker's claims: turn after turn to the end of a lane, and a dead letter that is tried again."""

from __future__ import annotations

from swarm.core.task import Finish, TaskError, TaskState, Trail
from swarm.queue.file_queue import FileQueue
from tests.helpers import crashscenes
from tests.helpers.crashworld import DONE, LONG, WORKER, Scenario, World, alive, llm
from tests.helpers.queues import claim_one, exchange_some, finish_one


def twelve_waiting(one: World) -> None:
    """Enough for several turns."""
    for number in range(12):
        one.say("accepted", one.open().enqueue(llm(task_id=f"t{number:02}")))


def one_by_one(one: World) -> None:
    """Finish one and claim the next, to the end of the lane."""

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        held = exchange_some(worker, (), 1).claims
        while held:
            finishes = [Finish(claim, TaskState.COMPLETED, DONE) for claim in held]
            got = exchange_some(worker, finishes, 1)
            assert all(got.recorded)
            for claim in held:
                one.say("ended", claim.task.task_id, "completed", DONE.result)
            for claim in got.claims:
                one.say("claimed", claim.task.task_id, claim.attempt)
            if got.fault is not None:
                raise got.fault
            held = got.claims

    alive(one, work)


def failed_on_record(one: World) -> None:
    """One dead letter of a worker that died after it."""
    one.say("accepted", one.open().enqueue(llm(task_id="a")))

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        failed = Trail(error=TaskError("bad", "y" * 300), attempts=(LONG,))
        assert finish_one(worker, claim_one(worker), TaskState.FAILED, failed)

    alive(one, work)


def retry_and_claim_again(one: World) -> None:
    """The same file name as in the attempt that failed."""
    crashscenes.retry_by_hand(one)

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        claim = claim_one(worker)
        if claim is not None:
            one.say("claimed", claim.task.task_id, claim.attempt)
            assert finish_one(worker, claim, TaskState.COMPLETED, DONE)
            one.say("ended", claim.task.task_id, "completed", DONE.result)

    alive(one, work)


TURNS = (
    Scenario("turns", twelve_waiting, one_by_one),
    Scenario("retry-and-again", failed_on_record, retry_and_claim_again),
)
