"""The operations of a worker that has a journal, put to the same tests: what a power cut takes comes back from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swarm.core.claim import Finish
from swarm.core.task import TaskError, TaskState, Trail
from swarm.taskqueue import journal
from swarm.taskqueue.filequeue import FileQueue
from tests.helpers import crashscenes
from tests.helpers.crashworld import DONE, LANE, LONG, WORKER, Scenario, World, alive, llm


class _Done:
    """What was to be done aside, and is done."""

    def join(self) -> None: ...


@contextmanager
def journalled(segment_bytes: int = 64 << 10) -> Iterator[None]:
    """Journals are made with the first exchange, small, and what is done aside is done at once."""
    kept = journal.BEGIN_AFTER, journal.SEGMENT_BYTES, journal._aside

    def at_once(act: Callable[[], None], after_s: float = 0.0) -> _Done:
        if not after_s:
            act()
        return _Done()

    journal.BEGIN_AFTER, journal.SEGMENT_BYTES, journal._aside = 1, segment_bytes, at_once
    try:
        yield
    finally:
        journal.BEGIN_AFTER, journal.SEGMENT_BYTES, journal._aside = kept


def with_journal(act: Callable[[World], None], segment_bytes: int = 64 << 10) -> Callable[[World], None]:
    """The same, by a worker with a journal."""

    def acted(one: World) -> None:
        with journalled(segment_bytes):
            act(one)

    return acted


def twelve_waiting(one: World) -> None:
    """Enough to fill a small journal several times."""
    for number in range(12):
        one.say("accepted", one.open().enqueue(llm(task_id=f"t{number:02}")))


def one_by_one(one: World) -> None:
    """Finish one and claim the next, to the end of the lane, and put the journal away."""

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        held = worker.exchange((), lambda taken: () if taken else [LANE]).claims
        while held:
            finishes = [Finish(claim, TaskState.COMPLETED, DONE) for claim in held]
            got = worker.exchange(finishes, lambda taken: () if taken else [LANE])
            assert all(got.done)
            for claim in held:
                one.say("ended", claim.task.task_id, "completed", DONE.result)
            for claim in got.claims:
                one.say("claimed", claim.task.task_id, claim.attempt)
            if got.fault is not None:
                raise got.fault
            held = got.claims
        worker.close()

    alive(one, work)


def failed_on_record(one: World) -> None:
    """One dead letter, and the journal of the worker that died after it still tells of its end."""
    one.say("accepted", one.open().enqueue(llm(task_id="a")))

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        failed = Trail(error=TaskError("bad", "y" * 300), attempts=(LONG,))
        assert worker.finish(worker.claim([LANE]), TaskState.FAILED, failed)

    with journalled():
        alive(one, work)


def retry_and_claim_again(one: World) -> None:
    """The same file name as in the attempt that failed; what the journal says about that must not come back."""
    crashscenes.retry_by_hand(one)

    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        claim = worker.claim([LANE])
        if claim is not None:
            one.say("claimed", claim.task.task_id, claim.attempt)
            assert worker.finish(claim, TaskState.COMPLETED, DONE)
            one.say("ended", claim.task.task_id, "completed", DONE.result)

    alive(one, work)


SMALL = 5 * 4096
_ACTS = {s.name: s for s in crashscenes.SCENARIOS}
JOURNALLED = (
    *(
        Scenario(f"journal-{name}", _ACTS[name].prepare, with_journal(_ACTS[name].act))
        for name in ("claim-all", "finish", "finish-after-history", "exchange", "retry", "release")
    ),
    Scenario("journal-turns", twelve_waiting, with_journal(one_by_one, SMALL)),
    Scenario("journal-take-back", with_journal(crashscenes.claimed_by_the_dead), crashscenes.take_back),
    Scenario("journal-retry-by-hand", failed_on_record, crashscenes.retry_by_hand),
    Scenario("journal-retry-and-again", failed_on_record, retry_and_claim_again),
)
