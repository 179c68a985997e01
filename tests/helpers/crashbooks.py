"""The operations beside single tasks that crash tests put to the test: purge, feeds, pauses, batches, mapped tasks.

Each may be asked for again after a death, and then comes to its end: ``again`` in its scenario.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import Any

import msgspec

from swarm.cli.run.feed import Feeder, Offer
from swarm.core.lanes import Pause
from swarm.core.notification import Note
from swarm.core.task import TERMINAL, TaskState, Trail
from swarm.core.workflow.dag import Links
from swarm.core.workflow.feed import FeedLine, FeedState
from swarm.errors import QueueError
from swarm.formats.input.feed_sources import FileLines
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.tally import tally
from swarm.queue.brain.release_log import needs_log, still_needed
from swarm.queue.coordination import PauseBook, change_pauses
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.feeds import FeedBook, FeedPool, note_batch
from swarm.queue.stores.notifications import write_note
from tests.helpers.crashworld import DONE, WORKER, Scenario, World, alive, llm, spare_rule
from tests.helpers.queues import claim_one, finish_one

FEED = "feed-x-1"
LATER = {"not_before": "2999-01-01T00:00:00Z"}
LINES = 5


def _work(one: World, count: int, answer: Trail = DONE) -> None:
    def work(queue: FileQueue) -> None:
        worker = queue.worker_view(WORKER)
        for _ in range(count):
            claim = claim_one(worker)
            assert claim is not None
            assert finish_one(worker, claim, TaskState.COMPLETED, answer)

    alive(one, work)


# -- purge --------------------------------------------------------------------------------------------------------------


def ended_and_needed(one: World) -> None:
    """Two that nobody needs; one that a blocked task waits for, one that a released task asks, one a session's last."""
    queue = one.open()
    for name in ("a", "b", "free1", "free2"):
        queue.enqueue(llm(task_id=name))
    queue.enqueue(llm(task_id="last", session="chat"))
    _release(one, "last")
    _work(one, 5)
    queue.enqueue(llm("{results.a.text}", task_id="waits", depends_on=["a"], **LATER))
    queue.enqueue(llm("{results.b.text}", task_id="asks", depends_on=["b"]))
    _release(one, "asks")
    for name in ("a", "b", "last", "waits", "asks"):
        one.say("accepted", name)


def _release(one: World, task_id: str) -> None:
    brain = one.open().brain_view(spare_rule)
    brain.look()
    brain.release_blocked(task_id, 0)


def purge(one: World) -> None:
    one.open().purge(TERMINAL, older_than_s=-1.0)
    for name in ("free1", "free2"):
        one.say("gone", name)


def let_go(one: World) -> None:
    _release(one, "asks")


def about_to_go(one: World) -> None:
    queue = one.open()
    queue.enqueue(llm(task_id="b"))
    _work(one, 1)
    for name in ("before", "asks"):
        queue.enqueue(llm("{results.b.text}", task_id=name, depends_on=["b"], **({} if name == "asks" else LATER)))
        one.say("accepted", name)
    one.say("needed once let go", "asks", "b")
    needs_log(queue.layout, queue.storage).note({"before": ("other",)})
    one.say("accepted", "b")


def empty_batches(one: World) -> None:
    """One of which nothing is left, one that waits."""
    for name in ("gone", "stays"):
        _submit(one, name, 2)
        if name == "gone":
            _work(one, 2)
            queue = one.open()
            tally(queue.layout, queue.storage, name, queue.batches().task_ids(name))
    one.say("batch", "stays", 2)
    one.open().purge(TERMINAL, older_than_s=-1.0)


def purge_batches(one: World) -> None:
    one.open().purge_batches(older_than_s=-1.0)
    one.say("no batch", "gone")


def _submit(one: World, batch_id: str, count: int) -> None:
    manifest = Manifest(batch_id=batch_id, source="x", format="jsonl", created_at="now")
    for _ in one.open().batches().submit(manifest, [(f"k{n}", llm(f"{batch_id} {n}")) for n in range(count)]):
        pass


# -- batches ------------------------------------------------------------------------------------------------------------


def submit_linked(one: World) -> None:
    """Ids on record first, somebody to be told, tasks that name one another."""
    queue = one.open()
    manifest = Manifest(batch_id="linked", source="x", format="jsonl", created_at="now", max_fails=3)
    links = Links(keys=("k0", "k1"), names={"first": "k0"})
    items = [("k0", llm("say", name="first")), ("k1", llm("{results.first.text}", depends_on=["first"]))]
    write_note(queue.layout, queue.storage, Note(subject="batch", id="linked", targets=("x",)))
    for _ in queue.batches().submit(manifest, items, links):
        pass
    one.say("batch", "linked", 2)


# -- feeds --------------------------------------------------------------------------------------------------------------


def source(one: World) -> None:
    with open(f"{one.home}/lines.txt", "w", encoding="utf-8") as file:
        file.writelines(f"line {n}\n" for n in range(LINES))


def _offer(line: FeedLine) -> Offer | str:
    model = "llama3.2:3b" if line.number <= 2 else "m:2"
    return Offer(llm(line.raw.decode(), model=model), f"llm@{model}", waits=False)


def feed(one: World) -> None:
    """As `swarm feed` does: two lanes, so that the cursor is saved in between."""
    queue = one.open()
    book = FeedBook(queue.layout, queue.storage)
    with book.alone(FEED):
        fresh = FeedState(feed_id=FEED, source="lines", format="text", min=9, target=9, created_at="now")
        state = msgspec.structs.replace(book.find(FEED) or fresh, status="running")
        note_batch(queue.batches(), state, version="")
        with closing(FileLines(f"{one.home}/lines.txt", state, follow=False)) as lines:
            feeder = Feeder(lines, _offer, FeedPool(queue.layout, queue.storage), book.open(FEED), state)
            while not feeder.finished:
                feeder.step()
        note_batch(queue.batches(), feeder.state, version="")
    one.say("fed", LINES)


def fed(one: World) -> None:
    source(one)
    feed(one)


def wish(one: World) -> None:
    queue = one.open()
    FeedBook(queue.layout, queue.storage).set_wish(FEED, "pause")
    one.say("wished", "pause")


# -- pauses -------------------------------------------------------------------------------------------------------------


def one_paused(one: World) -> None:
    queue = one.open()
    change_pauses(queue.layout, queue.storage, lambda p: p.with_one(Pause("batch", "b")))
    one.say("paused", "batch", "b")


def pause(one: World) -> None:
    queue = one.open()
    change_pauses(queue.layout, queue.storage, lambda p: p.with_one(Pause("model", "m:2")))
    one.say("paused", "model", "m:2")


# -- mapped tasks -------------------------------------------------------------------------------------------------------


def mapped(one: World) -> None:
    """A mapped task with three children, one of which has its answer."""
    queue = one.open()
    queue.enqueue(llm(task_id="src"))
    _work(one, 1, Trail(result={"message": {"content": json.dumps(["x", "y", "z"])}}))
    one.say("accepted", queue.enqueue(llm("{item}", task_id="m", depends_on=["src"], map={"over": "src"})))
    brain = queue.brain_view(spare_rule)
    brain.look()
    assert brain.expand_map("m", 0) is not None
    for number in range(3):
        one.say("accepted", f"m-{number}")
    _work(one, 1)


def cancel_map(one: World) -> None:
    """The command, and the brain's next turn."""
    queue = one.open()
    try:
        queue.cancel("m", "not wanted")
    except QueueError as problem:
        if "already" not in problem.message:
            raise
    brain = queue.brain_view(spare_rule)
    for task_id in brain.look().orphaned:
        brain.cancel_children(task_id)
    for task_id in ("m", "m-1", "m-2"):
        one.say("ended", task_id, "cancelled", None)


def cancelled_map(one: World) -> None:
    mapped(one)
    queue = one.open()
    queue.cancel("m", "not wanted")


def retry_map(one: World) -> None:
    one.open().retry("m")
    for task_id in ("m", "m-1", "m-2"):
        one.say("waits", task_id)


def check(one: World, places: dict[str, list[TaskState]], what: str, facts: list[Any]) -> bool:
    """Judge one of the facts said above; False: it is none of them."""
    queue = one.open()
    names = sorted(os.listdir(queue.layout.batches))
    match what:
        case "gone":
            assert facts[0] not in places
        case "needed once let go":
            assert places[facts[0]] == [TaskState.BLOCKED] or facts[1] in still_needed(queue.layout)
        case "no batch":
            assert not [name for name in names if name.startswith(f"{facts[0]}.")]
        case "waits":
            assert places[facts[0]] in ([TaskState.PENDING], [TaskState.BLOCKED])
        case "paused":
            assert PauseBook(queue.layout).read().find(*facts) is not None
        case "wished":
            assert FeedBook(queue.layout, queue.storage).wish(FEED) == facts[0]
        case "fed":
            _check_feed(queue, places, facts[0])
        case _:
            return False
    return True


def check_after_cut(one: World, places: dict[str, list[TaskState]], what: str, facts: list[Any]) -> bool:
    """The same, but that what was removed may be there again: nobody is promised otherwise, and the next purge takes it."""
    return what in ("gone", "no batch") or check(one, places, what, facts)


def _check_feed(queue: FileQueue, places: dict[str, list[TaskState]], count: int) -> None:
    """Each line once: as a task, in the batch's order, and behind the cursor."""
    wanted = [f"{FEED}-{number:010d}" for number in range(1, count + 1)]
    assert sorted(i for i in places if i.startswith(FEED)) == wanted
    texts = [queue.read(i)["request"]["messages"][0]["content"] for i in wanted]
    assert texts == [f"line {n}" for n in range(count)]
    state = FeedBook(queue.layout, queue.storage).state(FEED)
    assert (state.status, state.number, state.accepted) == ("finished", count, count)
    assert list(queue.batches().task_ids(FEED)) == wanted
    assert queue.batches().manifest(FEED).submitted


MORE = (
    Scenario("purge", ended_and_needed, purge, again=True),
    Scenario("purge-batches", empty_batches, purge_batches, again=True),
    Scenario("let-go", about_to_go, let_go),
    Scenario("batch-linked", lambda _one: None, submit_linked, again=True),
    Scenario("feed", source, feed, again=True),
    Scenario("feed-wish", fed, wish, again=True),
    Scenario("pause", one_paused, pause, again=True),
    Scenario("cancel-map", mapped, cancel_map, again=True),
    Scenario("retry-map", cancelled_map, retry_map, again=True),
)
