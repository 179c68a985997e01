"""What waits in ``blocked``: who may go when, at the cost of what changed, and never twice."""

import errno
import gc
import json
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.core.lanes import Pause, Pauses
from swarm.core.task import TaskError, TaskState, Trail
from swarm.core.workflow.dag import Links
from swarm.errors import QueueError, StorageFault, TaskInvalid
from swarm.queue import codec, coordination
from swarm.queue.batches.batch_book import BatchBook, Manifest
from swarm.queue.brain import blocked_files
from swarm.queue.brain.completions import Completions
from swarm.queue.brain.release_log import turns_path
from swarm.queue.coordination import Inotify, NameEvent, PauseBook, change_pauses
from swarm.queue.operations import purge
from swarm.queue.storage import Storage
from swarm.queue.submit.producer import Producer
from tests.helpers.queues import claim_one, finish_one, llm, open_queue, settle, unreadable
from tests.helpers.wait import wait_until

PAUSE_S = 0.5
DONE = Trail(result={"message": {"content": "done"}})


def rule(_attempts):
    return 0.0


def brain_of(queue, *, ready_only=True):
    return queue.brain_view(rule, ready_only=ready_only)


def turn(brain):
    """What the brain does with what is blocked, once; ids let go."""
    released = []
    for view in brain.look().blocked:
        if view.failed_dependency is not None:
            brain.fail_blocked(view.task_id, view.attempt, f"{view.failed_dependency} failed")
        elif view.waiting_for or not view.session_turn or view.batch_paused or (view.due_in_s or 0) > 0:
            continue
        elif view.step == "expand":
            brain.expand_map(view.task_id, view.attempt)
        elif view.step == "gather":
            brain.gather_map(view.task_id, view.attempt)
        elif brain.release_blocked(view.task_id, view.attempt):
            released.append(view.task_id)
    return released


def work(worker, state=TaskState.COMPLETED, trail=DONE):
    """Finish all that can be claimed; ids in order."""
    done = []
    while (claim := claim_one(worker)) is not None:
        assert finish_one(worker, claim, state, trail)
        done.append(claim.task.task_id)
    return done


@pytest.mark.parametrize("ready_only", [True, False], ids=["told by inotify", "listed"])
def test_a_session_goes_one_at_a_time_in_the_order_of_submission(queue, ready_only):
    ids = [queue.enqueue(llm(session=f"s{i % 3}")) for i in range(12)]
    brain, worker = brain_of(queue, ready_only=ready_only), queue.worker_view("w")
    ran = []
    for round_ in range(4):
        assert sorted(turn(brain)) == sorted(ids[3 * round_ : 3 * round_ + 3])
        assert turn(brain) == []
        ran += work(worker)
        if round_ == 1:
            brain = brain_of(queue, ready_only=ready_only)  # a restart knows who is on turn
    assert [i for i in ran if ids.index(i) % 3 == 0] == ids[::3]


def test_a_session_goes_on_after_failures_cancels_and_a_retry_by_hand(queue):
    first, second, third = (queue.enqueue(llm(session="chat")) for _ in range(3))
    brain, worker = brain_of(queue), queue.worker_view("w")
    assert turn(brain) == [first]
    work(worker, TaskState.FAILED, Trail(error=TaskError("x", "y")))
    queue.cancel(second, "not wanted")
    assert turn(brain) == [third]
    queue.retry(first)
    assert queue.find(first).state is TaskState.BLOCKED, "a session's task waits for its turn again"
    assert turn(brain) == []
    assert work(worker) == [third]
    assert turn(brain) == [first]
    brain = brain_of(queue)
    assert turn(brain) == []
    claim = claim_one(worker)
    assert worker.retry(claim, [], delay_s=0.05, counts=True)
    assert queue.enqueue(llm(session="chat")) not in turn(brain), "the one on turn is only having a pause"
    wait_until(lambda: turn(brain) == [first], what="its delay over")


def test_a_ledger_torn_by_a_death_loses_only_what_had_not_happened(queue):
    ids = [queue.enqueue(llm(session="chat")) for _ in range(3)]
    brain = brain_of(queue)
    assert turn(brain) == [ids[0]]
    with open(turns_path(queue.layout), "ab") as file:
        file.write(b'["chat","' + ids[1].encode()[:5])
    brain = brain_of(queue)
    assert turn(brain) == []
    work(queue.worker_view("w"))
    assert turn(brain) == [ids[1]]
    assert turn(brain_of(queue)) == []


def test_a_worker_rings_when_something_waits_for_what_it_finished(queue):
    queue.enqueue(llm(session="chat"))
    queue.enqueue(llm(session="chat"))
    brain, worker = brain_of(queue), queue.worker_view("w")
    turn(brain)
    claim = claim_one(worker)
    wakeup = queue.wakeup()
    wakeup.drain()
    finish_one(worker, claim, TaskState.COMPLETED, DONE)
    assert wakeup.wait(60.0)
    wakeup.close()


def test_a_look_reads_each_file_once_and_tells_only_what_may_go(queue, monkeypatch):
    for _ in queue.enqueue_many(llm(session=f"s{i % 10}", task_id=None) for i in range(200)):
        pass
    reads = []
    real = codec.read
    monkeypatch.setattr(codec, "read", lambda path: reads.append(path) or real(path))
    brain = brain_of(queue)
    assert len(brain.look().blocked) == 10
    assert brain.look().blocked_total == 200
    assert len(reads) == 200
    assert len(turn(brain)) == 10
    listings = []
    monkeypatch.setattr("swarm.queue.brain.blocked_files.list_names", lambda path: listings.append(path) or os.listdir(path))
    assert brain.look().blocked == ()
    assert len(reads) == 200
    assert not listings, "what changed was told"


@pytest.mark.parametrize("told", [True, False], ids=["told", "without inotify"])
def test_ends_are_noticed_in_bounded_steps(queue, monkeypatch, told):
    monkeypatch.setattr("swarm.queue.brain.completions.LOOKED_UP", 5)
    if not told:
        monkeypatch.setattr(Inotify, "opened", lambda _watched: None)
    ids = [queue.enqueue(llm()) for _ in range(100)]
    completions = Completions(queue.layout, budget=True)
    for task_id in ids:
        completions.watch(task_id)
    worker = queue.worker_view("w")
    claims = [claim_one(worker) for _ in range(100)]
    assert completions.news() == []
    finish_one(worker, claims[97], TaskState.FAILED, DONE)
    assert completions.news() == [(ids[97], False)], "it was running a moment ago: seen at once"
    work(worker)
    for claim in claims[:97]:
        finish_one(worker, claim, TaskState.COMPLETED, DONE)
    found = [task_id for _ in range(40) for task_id, _ in completions.news()]
    assert sorted(found) == sorted(ids[:97])


def test_a_look_at_what_is_awaited_costs_what_has_ended(queue, monkeypatch):
    """However many are awaited: who ended, was cancelled or failed while waiting is seen at once; no other is looked up."""
    monkeypatch.setattr("swarm.queue.brain.completions.SURE", 0)
    sessions = 300
    for step in range(2):
        for session in range(sessions):
            queue.enqueue(llm(session=f"s{session}", metadata={"step": step}))
    chain = [queue.enqueue(llm(depends_on=["w" * 20], task_id="first"))]
    chain += [queue.enqueue(llm(depends_on=[chain[-1]], task_id=f"next{n}")) for n in range(3)]
    brain = brain_of(queue)
    first = turn(brain)
    assert len(first) == sessions
    worker = queue.worker_view("w")
    claims = [claim_one(worker) for _ in range(10)]
    turn(brain)
    looked_up = []
    known = Completions.ended
    monkeypatch.setattr(Completions, "ended", lambda self, task_id: looked_up.append(task_id) or known(self, task_id))
    for claim in claims:
        finish_one(worker, claim, TaskState.COMPLETED, DONE)
    between = claim_one(worker)
    finish_one(worker, between, TaskState.FAILED, DONE)
    queue.cancel(first[200], "not wanted")
    queue.cancel(chain[0], "not wanted")
    went_on = turn(brain)
    assert len(went_on) == 12, "ten ended, one ran between two looks, one was cancelled while it waited"
    turn(brain)
    turn(brain)
    assert [queue.find(task_id).state for task_id in chain] == [TaskState.CANCELLED, *[TaskState.FAILED] * 3], (
        "a link a turn"
    )
    assert len(looked_up) < 4 * (12 + len(chain)), looked_up
    looked_up.clear()
    turn(brain)
    assert looked_up == [], "nothing happened"


def test_ends_of_which_the_kernel_lost_count_are_found_all_the_same(queue, monkeypatch):
    monkeypatch.setattr("swarm.queue.brain.completions.SURE", 0)
    monkeypatch.setattr("swarm.queue.brain.completions.LOOKED_UP", 20)
    completions = Completions(queue.layout, budget=True)
    ids = [queue.enqueue(llm()) for _ in range(60)]
    for task_id in ids:
        completions.watch(task_id)
    worker = queue.worker_view("w")
    for _ in range(5):
        assert completions.news() == []
    work(worker)
    told = Inotify.events

    def overflowing(watched):
        assert list(told(watched)), "the kernel did tell"
        yield NameEvent(-1, None, there=False)

    with monkeypatch.context() as once:
        once.setattr(Inotify, "events", overflowing)
        found = [task_id for task_id, _ in completions.news()]
    assert len(found) < len(ids)
    found += [task_id for _ in range(4) for task_id, _ in completions.news()]
    assert sorted(found) == sorted(ids)


def test_what_another_host_put_there_is_found_by_listing(queue, monkeypatch):
    monkeypatch.setattr("swarm.queue.brain.blocked_files.RELIST_S", 0.0)
    monkeypatch.setattr(Inotify, "events", lambda _watched: iter(()))
    brain = brain_of(queue)
    task_id = queue.enqueue(llm(session="x"))
    assert turn(brain) == [task_id]


def test_who_looks_no_more_gives_its_watches_back(queue):
    """A user has 128 of them; without one the brain would look for what it might have been told."""

    def watches():
        links = (
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
        )
        return sum("inotify" in link for link in links)

    gc.collect()
    before = watches()
    brain = brain_of(queue)
    turn(brain)
    assert watches() == before + 2
    del brain
    gc.collect()
    assert watches() == before


EDGES = st.integers(2, 8).flatmap(lambda n: st.lists(st.lists(st.integers(0, n), max_size=3), min_size=n, max_size=n))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(edges=EDGES, sessions=st.lists(st.sampled_from([None, "a", "b"]), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_whatever_the_order_everything_runs_after_what_it_waits_for(tmp_path_factory, edges, sessions, seed):
    """Any batch without circles, forward names too, submitted in parts; the brain restarts at random."""
    rng = random.Random(seed)
    queue = open_queue(tmp_path_factory.mktemp("q"))
    wants = [sorted({t for t in targets if t < i}) for i, targets in enumerate(edges)]
    keys = [f"k{i}" for i in range(len(edges))]
    links = Links(keys=tuple(keys), names={f"n{i}": keys[i] for i in range(len(edges))})
    items = [
        (keys[i], llm(f"{i}", depends_on=[f"n{t}" for t in wants[i]], session=sessions[i], name=f"n{i}"))
        for i in range(len(edges))
    ]
    if not any(sessions[: len(edges)]):
        rng.shuffle(items)
    manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now")
    cut = rng.randrange(len(items) + 1)
    for part in (items[:cut], items):  # cut off, and again
        for _ in queue.batches().submit(manifest, part, links):
            pass
    brain, worker = brain_of(queue), queue.worker_view("w")
    ran: list[int] = []
    for _ in range(4 * len(edges) + 4):
        if rng.random() < 0.3:
            brain = brain_of(queue, ready_only=rng.random() < 0.5)
        turn(brain)
        claim = claim_one(worker)
        if claim is not None:
            finish_one(worker, claim, TaskState.COMPLETED, DONE)
            ran.append(int(claim.task.name[1:]))
    assert sorted(ran) == list(range(len(edges))), "each exactly once"
    assert all(ran.index(t) < ran.index(i) for i, targets in enumerate(wants) for t in targets)
    for session in ("a", "b"):
        mine = [i for i in range(len(edges)) if sessions[i] == session]
        assert [i for i in ran if i in mine] == mine


@pytest.mark.parametrize(
    "act", [lambda q: q.retry("b"), lambda q: q.purge([TaskState.FAILED], older_than_s=-60)], ids=["retry", "purge"]
)
def test_what_people_do_to_a_record_before_its_reason_is_written_stands(queue, monkeypatch, act):
    queue.enqueue(llm(task_id="a"))
    queue.enqueue(llm(task_id="b", depends_on=["a"]))
    brain = brain_of(queue)
    assert brain.look().blocked == ()
    move = Storage.move

    def move_and_act(storage, source, target, **more):
        move(storage, source, target, **more)
        if target == queue.layout.terminal(TaskState.FAILED, "b"):
            act(queue)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "move", move_and_act)
        assert brain.fail_blocked("b", 0, "a failed"), "it had ended"
    assert queue.find("b") is None or queue.read("b")["state"] == "blocked"


def test_names_become_ids_that_a_resumed_submission_finds_again(queue):
    links = Links(keys=("ka", "kb"), names={"a": "ka"})
    manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now")
    items = [("ka", llm("a")), ("kb", llm("{results.a.text}", depends_on=["a", "a"]))]
    for _ in queue.batches().submit(manifest, items[:1], links):
        pass
    ids = queue.batches().known("b")
    assert len(ids) == 2, "both ids are on record before the first task is there"
    for _ in queue.batches().submit(manifest, items, links):
        pass
    second = queue.read(ids["kb"])
    assert (second["depends_on"], second["results"]) == ([ids["ka"]], {"a": ids["ka"]})


def over_list(queue, answer, **more):
    queue.enqueue(llm(task_id="list"))
    worker = queue.worker_view("w")
    work(worker, trail=Trail(result={"message": {"content": answer}}))
    queue.enqueue(llm("Sum up {item}", task_id="m", depends_on=["list"], map={"over": "list"}, **more))
    return brain_of(queue), worker


def test_a_list_becomes_tasks_and_their_answers_one_result(queue):
    brain, worker = over_list(queue, '```json\n[1, {"a": 2}]\n```')
    turn(brain)
    children = work(worker, trail=Trail(result={"message": {"content": "part"}, "usage": {"total_tokens": 3}}))
    assert children == ["m-0", "m-1"]
    assert queue.read("m-1")["request"]["messages"][0]["content"] == 'Sum up {"a":2}'
    assert queue.find("m").state is TaskState.BLOCKED
    turn(brain)
    result = queue.read("m")["result"]
    assert (result["message"]["content"], result["list"]) == ("part\n\npart", ["part", "part"])
    assert (result["children"], result["usage"]["total_tokens"]) == (["m-0", "m-1"], 6)


def test_each_element_is_asked_with_what_the_map_task_says(queue):
    image = {"path": "/pics/a.png", "sha256": "0" * 64}
    brain, _ = over_list(queue, "[1]", images=[image], cache=False, priority=7, timeout_s=3.0, max_attempts=2)
    turn(brain)
    child = queue.read("m-0")
    said = {name: child[name] for name in ("images", "cache", "priority", "timeout_s", "max_attempts")}
    assert said == {"images": [image], "cache": False, "priority": 7, "timeout_s": 3.0, "max_attempts": 2}


def test_answers_count_as_long_as_they_are_in_the_record(queue, monkeypatch):
    monkeypatch.setattr("swarm.queue.brain.map_tasks.MOST_GATHERED_BYTES", 40)
    brain, worker = over_list(queue, "[1, 2]")
    turn(brain)
    work(worker, trail=Trail(result={"message": {"content": '"é"' * 4}}))
    turn(brain)
    assert "more than 40 bytes" in queue.read("m")["error"]["message"]


def test_a_brain_that_dies_while_mapping_neither_loses_nor_doubles(queue, monkeypatch):
    brain, worker = over_list(queue, json.dumps(list(range(8))))
    real = Producer.enqueue_many

    def dies(self, documents):
        yield from real(self, [next(documents) for _ in range(3)])
        raise KeyboardInterrupt

    monkeypatch.setattr(Producer, "enqueue_many", dies)
    with pytest.raises(KeyboardInterrupt):
        turn(brain)
    monkeypatch.setattr(Producer, "enqueue_many", real)
    first = claim_one(worker)
    finish_one(worker, first, TaskState.COMPLETED, DONE)
    held = claim_one(worker)
    brain = brain_of(queue)
    turn(brain)
    finish_one(worker, held, TaskState.COMPLETED, DONE)
    rest = work(worker)
    ran = [first.task.task_id, held.task.task_id, *rest]
    assert sorted(ran) == [f"m-{k}" for k in range(8)]
    turn(brain)
    assert len(queue.read("m")["result"]["list"]) == 8


@pytest.mark.parametrize(("answer", "words"), [("no list", "not JSON"), ('{"a":1}', "no list but dict")])
def test_what_is_no_list_fails_the_map_task_with_the_reason(queue, answer, words):
    brain, _ = over_list(queue, answer)
    turn(brain)
    assert words in queue.read("m")["error"]["message"]


def test_a_request_nested_too_deeply_ends_its_task_and_no_brain(queue, monkeypatch):
    deep = "{item}"
    for _ in range(600):
        deep = [deep]
    brain, _ = over_list(queue, "[1]", request={"messages": deep})
    turn(brain)
    assert "recursion" in queue.read("m")["error"]["message"]
    queue.enqueue(llm(task_id="later", not_before="2999-01-01"))

    def too_deep(_request):
        raise RecursionError("nested too deeply")

    monkeypatch.setattr(blocked_files, "references", too_deep)
    assert brain_of(queue).look().blocked == ()
    assert "later.0.json" in os.listdir(queue.layout.corrupt)


def test_a_failed_part_fails_the_whole_unless_it_is_to_run_anyway(queue):
    brain, worker = over_list(queue, "[1, 2]")
    queue.enqueue(llm("{item}", task_id="n", depends_on=["list"], map={"over": "list"}, on_dependency_failure="run"))
    turn(brain)
    for claim in iter(lambda: claim_one(worker), None):
        failed = claim.task.task_id.endswith("-1")
        finish_one(worker, claim, TaskState.FAILED if failed else TaskState.COMPLETED, DONE)
    turn(brain)
    assert queue.read("m")["error"]["message"] == "m-1 failed"
    assert queue.read("n")["result"]["list"] == ["done", None]
    assert queue.read("m")["children"] == 2, "tried again, it waits for the same parts"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"map": {"over": "x"}, "depends_on": ["y"]}, "map.over"),
        ({"map": {"over": "x", "typo": 1}, "depends_on": ["x"]}, "map"),
        ({"map": {"over": "x"}, "depends_on": ["x"]}, "request"),
        ({"map": {"over": "x"}, "depends_on": ["x"], "session": "s"}, "map"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(queue, fields, field):
    with pytest.raises(TaskInvalid, match=f"field `{field}"):
        queue.enqueue(llm("no element", **fields))


def test_a_paused_batch_is_put_aside_and_comes_back(queue):
    queue.enqueue(llm(batch_id="b-1"))
    other = queue.enqueue(llm())
    change_pauses(queue.layout, queue.storage, lambda p: p.with_one(Pause("batch", "b-1")))
    worker, brain = queue.worker_view("w"), brain_of(queue)
    assert worker.pauses().batch("b-1") is not None
    claim = claim_one(worker)
    assert worker.hold(claim)
    assert work(worker) == [other]
    assert turn(brain) == []
    (view,) = brain_of(queue, ready_only=False).look().blocked
    assert view.batch_paused == "b-1"
    change_pauses(queue.layout, queue.storage, lambda p: p.without("batch", "b-1"))
    assert turn(brain) == [claim.task.task_id]
    assert claim_one(worker).attempt == 1, "being put aside is no attempt"


@pytest.mark.parametrize("back", ["retry", "uncounted retry", "hold"])
def test_what_was_let_go_waits_no_more_for_what_was_purged_since(queue, back):
    before = queue.enqueue(llm())
    after = queue.enqueue(llm(depends_on=[before], batch_id="b"))
    brain, worker = brain_of(queue), queue.worker_view("w")
    turn(brain)
    assert work(worker) == [before]
    wait_until(lambda: turn(brain) == [after], what="it is let go")
    claim = claim_one(worker)
    assert queue.purge([TaskState.COMPLETED], older_than_s=0)[TaskState.COMPLETED].documents == 1
    if back == "hold":
        assert worker.hold(claim)
    else:
        assert worker.retry(claim, (), delay_s=0.001, counts=back == "retry")
    wait_until(lambda: turn(brain) == [after], what="it is let go again")
    assert work(worker) == [after]
    assert "released" not in queue.read(after)


def test_what_is_submitted_during_a_purge_keeps_what_it_depends_on(queue, monkeypatch):
    monkeypatch.setattr(purge, "RENEW_S", 0.0)
    before = queue.enqueue(llm())
    assert work(queue.worker_view("w")) == [before]
    keep, path = purge.NeededNow(queue.layout), queue.find(before).path
    assert not keep(before, path)
    queue.enqueue(llm(depends_on=[before]))
    wait_until(lambda: keep(before, path), what="it is seen")


@pytest.mark.parametrize("ready_only", [True, False], ids=["told by inotify", "listed"])
def test_a_blocked_file_that_could_not_be_read_is_read_at_the_next_look(queue, monkeypatch, ready_only):
    monkeypatch.setattr("swarm.queue.brain.blocked_table.AGAIN_S", 0.0)
    brain = brain_of(queue, ready_only=ready_only)
    turn(brain)
    task_id = queue.enqueue(llm(not_before="2026-01-01T00:00:00.000+00:00"))
    with monkeypatch.context() as patch:
        patch.setattr(blocked_files, "codec", SimpleNamespace(read=too_many_open_files))
        for _ in range(2):
            with pytest.raises(StorageFault):
                turn(brain)
    assert turn(brain) == [task_id]


def refused(brain):
    """Whether a tick met the file that cannot be read; others release nothing."""
    try:
        assert turn(brain) == []
    except StorageFault:
        return True
    return False


def test_a_blocked_file_that_can_never_be_read_holds_up_nothing_else(queue, monkeypatch):
    monkeypatch.setattr("swarm.queue.brain.blocked_table.AGAIN_S", PAUSE_S)
    brain = brain_of(queue)
    turn(brain)
    bad, good = (queue.enqueue(llm(not_before="2026-01-01T00:00:00.000+00:00")) for _ in range(2))
    unreadable(monkeypatch, bad)
    with pytest.raises(StorageFault):
        turn(brain)
    assert turn(brain) == [], "a look that goes well, for all else that a brain does"
    wait_until(lambda: refused(brain), what="the file is tried again")
    assert turn(brain) == [good]


def test_a_map_task_that_could_not_be_read_again_is_at_the_next_look(queue, monkeypatch):
    monkeypatch.setattr("swarm.queue.brain.blocked_table.AGAIN_S", 0.0)
    brain, worker = over_list(queue, "[1, 2]")
    brain.look()
    with monkeypatch.context() as patch:
        patch.setattr(blocked_files, "codec", SimpleNamespace(read=too_many_open_files))
        with pytest.raises(StorageFault):
            brain.expand_map("m", 0)
    assert turn(brain) == []
    assert work(worker) == ["m-0", "m-1"]
    wait_until(lambda: turn(brain) == [] and queue.find("m").state is TaskState.COMPLETED, what="its answers are gathered")


def test_a_cancelled_map_task_whose_parts_were_purged_is_not_put_back(queue):
    brain, worker = over_list(queue, "[1, 2]")
    turn(brain)
    finish_one(worker, claim_one(worker), TaskState.COMPLETED, DONE)
    queue.cancel("m", "a mistake")
    os.unlink(queue.layout.terminal(TaskState.COMPLETED, "m-0"))
    with pytest.raises(QueueError, match="waits for m-0, whose record was removed"):
        queue.retry("m")
    assert queue.find("m").state is TaskState.CANCELLED


def too_many_open_files(*_):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("restarted", [False, True], ids=["the same brain", "another brain"])
def test_a_delay_is_none_longer_when_the_clock_is_set_back(queue, monkeypatch, restarted):
    queue.enqueue(llm(task_id="later", not_before="2999-01-01T00:00:00Z"))
    queue.enqueue(llm(task_id="again"))
    brain, worker = brain_of(queue), queue.worker_view("w")
    claim, then_s = claim_one(worker), int(time.time()) + 7200
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: float(then_s))
        ahead.setattr(time, "time_ns", lambda: then_s * 10**9)
        worker.retry(claim, (), delay_s=0.2, counts=True)
        os.utime(queue.find("again").path, (then_s, then_s))
        assert turn(brain) == []
    brain = brain_of(queue) if restarted else brain
    wait_until(lambda: turn(brain) == ["again"], what="it is let go")
    assert queue.find("later").state is TaskState.BLOCKED


def test_whose_time_had_come_goes_also_when_the_clock_is_set_back(queue, monkeypatch):
    first = queue.enqueue(llm())
    second = queue.enqueue(llm(depends_on=[first], not_before="2026-01-01T00:00:00.000+00:00"))
    brain, worker = brain_of(queue), queue.worker_view("w")
    turn(brain)
    monkeypatch.setattr("swarm.queue.brain.blocked_table.time.time", lambda: 1.7e9)
    assert work(worker) == [first]
    wait_until(lambda: turn(brain) == [second], what="it is let go")


def test_a_pause_that_could_not_be_read_is_at_the_next_look(queue, monkeypatch):
    book = PauseBook(queue.layout)
    change_pauses(queue.layout, queue.storage, lambda p: p.with_one(Pause("all")))
    with monkeypatch.context() as patch:
        patch.setattr(coordination, "read_file", too_many_open_files)
        with pytest.raises(OSError, match="open files"):
            book.read()
    assert book.read().find("all", "") is not None


def test_what_a_full_disk_keeps_from_being_put_aside_is_not_lost(queue, monkeypatch):
    task_id = queue.enqueue(llm(batch_id="b-1"))
    worker = queue.worker_view("w")
    claim = claim_one(worker)

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(type(queue.storage), "move", full)
        with pytest.raises(StorageFault):
            worker.hold(claim)
    assert claim_one(worker).task.task_id == task_id


def test_pauses_are_followed_and_a_damaged_file_changes_nothing(queue, caplog):
    book = PauseBook(queue.layout)
    assert book.read() == Pauses()
    change_pauses(queue.layout, queue.storage, lambda p: p.with_one(Pause("model", "m:latest")))
    known = book.read()
    assert known.model("M") is not None
    assert known.worker("w") is None
    with open(queue.layout.pauses, "w", encoding="ascii") as file:
        file.write("{")
    assert book.read() == known
    assert "damaged" in caplog.text
    with pytest.raises(QueueError, match="damaged"):
        change_pauses(queue.layout, queue.storage, lambda p: p)


def test_a_hopeless_batch_is_ended_in_steps_with_the_reason(queue, monkeypatch):
    monkeypatch.setattr("swarm.queue.batches.failure_limit.STEP", 4)
    manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now", max_fails=2)
    items = [(f"k{i}", llm(f"{i}", **({"session": "s"} if i > 7 else {}))) for i in range(12)]
    for _ in queue.batches().submit(manifest, items):
        pass
    other = queue.enqueue(llm())
    brain, worker = brain_of(queue), queue.worker_view("w")
    for _ in range(2):
        finish_one(worker, claim_one(worker), TaskState.FAILED, DONE)
    assert brain.look().over_limit == ()
    running = claim_one(worker)
    finish_one(worker, claim_one(worker), TaskState.FAILED, DONE)
    (view,) = wait_until(lambda: brain.look().over_limit, what="its failures counted")
    assert (view.failed, view.max_fails) == (3, 2)
    stopped = []
    while step := brain.stop_batch("b", "hopeless"):
        stopped.append(step)
    assert sum(stopped) == 8
    assert max(stopped) <= 4
    assert queue.find(other).state is TaskState.PENDING
    finish_one(worker, running, TaskState.COMPLETED, DONE)
    assert brain.look().over_limit == (), "it has ended"


def hopeless_batch(queue):
    manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now", max_fails=0)
    for _ in queue.batches().submit(manifest, [(f"k{i}", llm(f"{i}")) for i in range(3)]):
        pass
    worker = queue.worker_view("w")
    finish_one(worker, claim_one(worker), TaskState.FAILED, DONE)


@pytest.mark.parametrize("junk", [b"\xff", b"\0", b"/"])
def test_damaged_lines_of_a_batch_are_passed_over(queue, junk):
    hopeless_batch(queue)
    for ending in ("order", "items"):
        with open(f"{queue.layout.batches}/b.{ending}", "rb+") as file:
            line = file.readline()
            file.seek(0)
            file.write(junk * 5 + line[5:-6] + junk * 5 + b"\n")
    brain = brain_of(queue)
    assert brain.look().over_limit == (), "the line was that of the one that failed"
    assert brain.purge_batches(older_than_s=-60) == ()
    assert len(list(queue.batches().task_ids("b"))) == 2


def test_a_manifest_that_is_damaged_meanwhile_ends_no_brain(queue, brain, caplog):
    hopeless_batch(queue)
    wait_until(lambda: brain.view.look().over_limit, what="its failure counted")
    path = f"{queue.layout.batches}/b.json"
    with open(path, "rb") as file:
        whole = file.read()
    with open(path, "wb") as file:
        file.write(b"{")
    assert brain.turn() == []
    assert f"Could not stop batch b: {path}: " in caplog.text
    with open(path, "wb") as file:
        file.write(whole)
    brain.settle()
    assert queue.stats().cancelled == 2


@pytest.mark.parametrize("name", ["manifest", "task_ids"])
def test_a_limit_of_failures_that_cannot_be_read_now_is_read_later(queue, monkeypatch, name):
    hopeless_batch(queue)
    settle(Path(queue.layout.root))
    brain = brain_of(queue)

    def broken(*_args):
        raise StorageFault("Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(BatchBook, name, broken)
        assert brain.look().over_limit == ()  # nothing else of the turn waits for it
    wait_until(lambda: brain.look().over_limit, what="its failure counted")
