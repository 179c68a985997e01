"""The file queue on real files: order, exclusion, fence, durability of bulk, drop-ins, recovery, look-ups."""

import json
import multiprocessing
import os
import stat
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from swarm.core.lanes import resource_lane
from swarm.core.policy.decide import DROP_IN_QUIET_S
from swarm.core.task import MAX_TASK_BYTES, Attempt, Finish, TaskError, TaskState, Trail
from swarm.errors import DuplicateTask, LockHeld, QueueError, StorageFault, TaskInvalid, UnknownTask
from swarm.queue.coordination import ProcessLock, is_held
from swarm.queue.operations.cancel import Canceller
from tests.helpers.crashpoints import recorded
from tests.helpers.crashworld import alive, world
from tests.helpers.queues import LANE, assert_one_state_each, claim_one, exchange_some, finish_one, llm, open_queue
from tests.helpers.wait import wait_until

DONE = Trail(result={"message": {"content": "hi"}})


def crash_rule(attempts):
    return None if sum(a.outcome == "crashed" for a in attempts) >= 3 else 0.0


@pytest.fixture(params=["fast", "full"])
def queue(request, tmp_path):
    return open_queue(tmp_path, request.param)


def test_a_task_goes_through_its_life(queue):
    task_id = queue.enqueue(llm(name="first", extra_field=[1, 2]))
    assert queue.read(task_id)["state"] == "pending"
    worker = queue.worker_view("worker-1")
    claim = claim_one(worker)
    assert claim.task.name == "first"
    assert claim.attempt == 1
    assert os.path.basename(claim.path) == f"{task_id}.1.json"
    assert queue.read(task_id)["worker"] == "worker-1"
    assert finish_one(worker, claim, TaskState.COMPLETED, DONE)
    document = queue.read(task_id)
    assert document["status"] == document["state"] == "completed"
    assert document["extra_field"] == [1, 2]
    assert document["result"] == {"message": {"content": "hi"}}
    assert_one_state_each(queue, [task_id])
    assert claim_one(worker) is None


def test_an_exchange_records_what_ended_and_claims_what_is_wanted(queue):
    ids = [queue.enqueue(llm(f"{n}")) for n in range(5)]
    worker = queue.worker_view("w")
    first = exchange_some(worker, (), 3)
    assert [c.task.task_id for c in first.claims] == ids[:3]
    assert {queue.read(i)["state"] for i in ids[:3]} == {"processing"}
    os.rename(first.claims[1].path, f"{queue.layout.root}/taken-back.json")
    failed = Trail(error=TaskError("bad", "no"))
    finishes = [
        Finish(first.claims[0], TaskState.COMPLETED, DONE),
        Finish(first.claims[1], TaskState.COMPLETED, DONE),
        Finish(first.claims[2], TaskState.FAILED, failed),
    ]
    second = exchange_some(worker, finishes, 3, ["llm@other", LANE])
    assert second.recorded == (True, False, True), "one is fenced, the others are not its business"
    assert [c.task.task_id for c in second.claims] == ids[3:]
    assert [queue.read(i)["state"] for i in (ids[0], *ids[2:])] == ["completed", "failed", "processing", "processing"]
    assert "status" not in json.loads(Path(f"{queue.layout.root}/taken-back.json").read_bytes())
    ends = [Finish(claim, TaskState.COMPLETED, DONE) for claim in second.claims]
    assert exchange_some(worker, ends, 0).recorded == (True, True)


def test_two_flushes_serve_a_whole_exchange(tmp_path):
    """The outcomes' bytes before any name, then all names; and nothing is told before."""
    with world() as one:
        queue = one.open()
        for _ in range(8):
            queue.enqueue(llm())
        alive(one, lambda queue: _eight_at_once(one, queue))


def _eight_at_once(one, queue):
    worker = queue.worker_view("w")
    queue.storage._flush._one_s = 1.0  # together from the first
    held = exchange_some(worker, (), 4).claims
    exchange_some(worker, [Finish(c, TaskState.COMPLETED, DONE) for c in held[:2]], 0)  # the shard is there now
    with recorded(one.root) as calls:
        finishes = [Finish(c, TaskState.COMPLETED, DONE) for c in held[2:]]
        got = exchange_some(worker, finishes, 4)
    assert len(got.claims) == 4
    names = [c.name for c in calls if c.name in ("pwrite", "fsync", "syncfs", "rename", "rename_new")]
    assert names.count("fsync") + names.count("syncfs") == 2
    flushed = [n for n, name in enumerate(names) if name in ("fsync", "syncfs")]
    assert max(n for n, name in enumerate(names) if name == "pwrite") < flushed[0]
    assert [flushed[0] < n < flushed[1] for n, name in enumerate(names) if name == "rename_new"] == [True, True]
    assert max(n for n, name in enumerate(names) if name == "rename") < flushed[1]


def test_order_is_priority_then_submission(queue):
    ids = {}
    for priority in (5, 1, 9, 5, 7, 1):
        ids.setdefault(priority, []).append(queue.enqueue(llm(priority=priority)))
    worker = queue.worker_view("w")
    got = [claim_one(worker).task.task_id for _ in range(6)]
    assert got == [i for p in sorted(ids, reverse=True) for i in ids[p]]


def test_an_urgent_task_overtakes_a_listing_already_made(queue):
    for _ in range(5):
        queue.enqueue(llm())
    worker = queue.worker_view("w")
    claim_one(worker)
    urgent = queue.enqueue(llm(priority=9))
    assert claim_one(worker).task.task_id == urgent


def test_bulk_keeps_order_and_mixes_lanes_and_priorities(queue):
    documents = [llm(str(i), priority=9 if i % 10 == 0 else 5, model="m:1" if i % 3 else "org/m:2") for i in range(2500)]
    assert list(queue.enqueue_many(documents)) == [2500]
    stats = queue.stats()
    assert stats.pending == {"llm@m:1": 1666, "llm@org%2Fm:2": 834}
    worker = queue.worker_view("w")
    texts = []
    while claim := claim_one(worker, ["llm@m:1"]):
        texts.append((-claim.task.priority, int(claim.task.request["messages"][0]["content"])))
    assert texts == sorted(texts)
    assert len(texts) == 1666
    assert len(os.listdir(f"{queue.layout.pending}/llm@m:1")) == 1, "used-up buckets are removed, the last one later"


def test_what_one_process_submits_first_comes_first_though_the_clock_stands_or_steps_back(queue):
    now_ns, texts = time.time_ns(), [str(n) for n in range(24)]
    for text in texts:
        with mock.patch("swarm.queue.layout.time.time_ns", return_value=now_ns - (int(text) > 12) * 3_600_000_000_000):
            list(type(queue)(queue.layout.root).enqueue_many([llm(text)]))
    worker = queue.worker_view("w")
    assert [claim_one(worker).task.request["messages"][0]["content"] for _ in texts] == texts


def test_an_interrupted_bulk_leaves_whole_flushes_only(queue, monkeypatch):
    monkeypatch.setattr("swarm.queue.submit.producer.FLUSH_EVERY", 10)

    def documents():
        for i in range(25):
            yield llm(str(i))
        raise KeyboardInterrupt

    accepted = 0
    with pytest.raises(KeyboardInterrupt):
        for accepted in queue.enqueue_many(documents()):  # noqa: B007 - the last one counts
            pass
    assert accepted == 20
    assert queue.stats().pending == {LANE: 20}


def test_a_bad_task_in_a_bulk_stops_it_with_its_field(queue):
    with pytest.raises(TaskInvalid, match="`priority`"):
        list(queue.enqueue_many([llm(), llm(priority=11)]))
    assert queue.stats().pending == {}


@pytest.mark.parametrize("where", ["pending", "processing", "completed", "failed"])
def test_an_id_is_taken_in_every_state(queue, where):
    queue.enqueue(llm(task_id="mine"))
    worker = queue.worker_view("w")
    if where != "pending":
        claim = claim_one(worker)
        if where != "processing":
            finish_one(worker, claim, TaskState(where), DONE)
    with pytest.raises(DuplicateTask, match="mine"):
        queue.enqueue(llm("other", task_id="mine"))
    assert_one_state_each(queue, ["mine"])


def test_a_late_result_changes_nothing(queue):
    task_id = queue.enqueue(llm())
    late = claim_one(queue.worker_view("w"))
    os.rename(late.path, f"{queue.layout.pending}/{LANE}/{task_id}.1.json")  # taken back behind its back
    os.makedirs(f"{queue.layout.pending}/{LANE}/4-0", exist_ok=True)
    os.rename(f"{queue.layout.pending}/{LANE}/{task_id}.1.json", f"{queue.layout.pending}/{LANE}/4-0/{task_id}.1.json")
    before = queue.read(task_id)
    assert finish_one(queue.worker_view("w"), late, TaskState.COMPLETED, DONE) is False
    assert queue.worker_view("w").retry(late, [], delay_s=0, counts=True) is False
    assert queue.worker_view("w").release(late) is False
    assert queue.read(task_id) == before
    again = claim_one(queue.worker_view("v"))
    assert again.attempt == 2


def test_a_record_is_never_overwritten(queue):
    task_id = queue.enqueue(llm())
    worker = queue.worker_view("w")
    claim = claim_one(worker)
    data = Path(claim.path).read_bytes()
    finish_one(worker, claim, TaskState.COMPLETED, DONE)
    with open(claim.path, "wb") as twin:  # as a power cut on a journal-less disk can leave it
        twin.write(data)
    assert finish_one(worker, claim, TaskState.COMPLETED, Trail(result={"message": {"content": "other"}})) is False
    assert queue.read(task_id)["result"] == {"message": {"content": "hi"}}
    assert queue.stats().corrupt == 1


def test_retry_keeps_history_and_goes_to_the_front(queue):
    first = queue.enqueue(llm("a"))
    queue.enqueue(llm("b"))
    worker = queue.worker_view("w")
    claim = claim_one(worker)
    attempt = Attempt(attempt=1, worker="w", outcome="retried", fault="transient", error=TaskError("busy", "503"))
    assert worker.retry(claim, [attempt], delay_s=0, counts=True)
    again = claim_one(worker)
    assert (again.task.task_id, again.attempt) == (first, 2)
    assert again.attempts == (attempt,)
    assert worker.retry(again, [attempt, attempt], delay_s=0, counts=False)
    third = claim_one(worker)
    assert (third.attempt, len(third.attempts)) == (2, 2)
    assert finish_one(worker, third, TaskState.COMPLETED, DONE)
    json.loads(Path(queue.find(first).path).read_text())


def test_a_task_of_very_many_attempts_is_found_and_stays_the_only_one(queue):
    queue.enqueue(llm(task_id="mine", max_attempts=100))
    worker, brain = queue.worker_view("w"), queue.brain_view(crash_rule)
    for attempt in range(1, 31):
        claim = claim_one(worker)
        worker.retry(claim, (), delay_s=0.001 if attempt % 2 else 0, counts=True)
        assert queue.find("mine").attempt == attempt
        with pytest.raises(DuplicateTask):
            queue.enqueue(llm(task_id="mine"))
        if attempt % 2:
            wait_until(lambda: brain.look().blocked[0].due_in_s <= 0, what="due")
            assert brain.release_blocked("mine", attempt)
    assert queue.cancel("mine", "enough") == "cancelled"


def test_a_cancel_that_comes_too_late_says_so_and_is_not_kept_for_the_next_of_this_id(queue, monkeypatch):
    queue.enqueue(llm(task_id="nightly"))
    worker = queue.worker_view("w")
    claim = claim_one(worker)
    ask = Canceller.ask

    def late(self, task_id):
        finish_one(worker, claim, TaskState.COMPLETED, DONE)
        ask(self, task_id)

    monkeypatch.setattr(Canceller, "ask", late)
    with pytest.raises(QueueError, match="nightly is completed already"):
        queue.cancel("nightly", "too late")
    assert os.listdir(queue.layout.cancels) == []


def test_a_worker_that_cancels_before_the_asker_looks_again_has_cancelled_it(queue, monkeypatch):
    queue.enqueue(llm(task_id="nightly"))
    worker = queue.worker_view("w")
    claim = claim_one(worker)
    ask = Canceller.ask

    def obeyed(self, task_id):
        ask(self, task_id)
        finish_one(worker, claim, TaskState.CANCELLED, Trail(error=TaskError("cancelled", "asked")))

    monkeypatch.setattr(Canceller, "ask", obeyed)
    assert queue.cancel("nightly", "enough") == "cancelled"
    assert os.listdir(queue.layout.cancels) == []


def test_of_many_cancelled_at_once_one_that_ends_meanwhile_leaves_no_mark(queue, monkeypatch):
    ids = [queue.enqueue(llm()) for _ in range(2)]
    worker = queue.worker_view("w")
    claims = {claim.task.task_id: claim for claim in (claim_one(worker), claim_one(worker))}
    ask = Canceller.ask

    def late(self, task_id):
        if task_id == ids[0]:
            finish_one(worker, claims[task_id], TaskState.COMPLETED, DONE)
        ask(self, task_id)

    monkeypatch.setattr(Canceller, "ask", late)
    assert queue.cancel_many(ids, "enough").asked == 1
    assert os.listdir(queue.layout.cancels) == ids[1:]


def test_what_was_asked_of_a_worker_that_died_is_not_kept_for_the_next_of_this_id(queue):
    ids = [queue.enqueue(llm()) for _ in range(2)]
    worker = queue.worker_view("w")
    while claim_one(worker):
        pass
    assert queue.cancel_many(ids, "enough").asked == 2
    queue.ask_requeue(ids[0])
    queue.brain_view(crash_rule).recover("w")
    assert queue.cancel(ids[0], "enough") == "cancelled"
    assert queue.cancel_many(ids, "enough").cancelled == 1
    assert os.listdir(queue.layout.cancels) == []


def test_a_delayed_retry_waits_in_blocked_until_it_is_due(queue):
    task_id = queue.enqueue(llm())
    worker = queue.worker_view("w")
    began_s = time.time()
    worker.retry(claim_one(worker), [], delay_s=1.0, counts=True)
    brain = queue.brain_view(crash_rule)
    (view,) = brain.look().blocked
    assert view.task_id == task_id
    assert 1.0 - (time.time() - began_s) - 0.01 <= view.due_in_s <= 1.0
    wait_until(lambda: brain.look().blocked[0].due_in_s <= 0, what="due")
    assert brain.release_blocked(task_id, 1)
    assert not brain.release_blocked(task_id, 1)
    assert claim_one(worker).attempt == 2


def test_release_does_not_count_the_attempt(queue):
    queue.enqueue(llm())
    worker = queue.worker_view("w")
    assert worker.release(claim_one(worker))
    assert claim_one(worker).attempt == 1


def test_dependencies_and_sessions_wait_their_turn(queue):
    queue.enqueue(llm(task_id="a"))
    queue.enqueue(llm(task_id="b", depends_on=["a"]))
    queue.enqueue(llm(task_id="s1", session="chat"))
    queue.enqueue(llm(task_id="s2", session="chat"))
    brain = queue.brain_view(crash_rule)
    worker = queue.worker_view("w")
    views = {v.task_id: v for v in brain.look().blocked}
    assert views["b"].waiting_for == ("a",)
    assert (views["s1"].session_turn, views["s2"].session_turn) == (True, False)
    assert brain.release_blocked("s1", 0)
    assert {v.task_id: v.session_turn for v in queue.brain_view(crash_rule).look().blocked}["s2"] is False
    done = {}
    while claim := claim_one(worker):
        finish_one(worker, claim, TaskState.FAILED if claim.task.task_id == "a" else TaskState.COMPLETED, DONE)
        done[claim.task.task_id] = claim
    views = {v.task_id: v for v in brain.look().blocked}
    assert views["b"].failed_dependency == "a"
    assert views["s2"].session_turn is True
    assert brain.fail_blocked("b", 0, "a failed")
    assert queue.read("b")["error"]["message"] == "a failed"


def test_recovery_requeues_what_the_dead_held_and_gives_up_on_poison(queue):
    task_id = queue.enqueue(llm())
    queue.enqueue(llm())
    for attempt in (1, 2, 3):
        lock = ProcessLock(queue.layout, "w")
        lock.acquire()
        claim = claim_one(queue.worker_view("w"))
        assert (claim.task.task_id, claim.attempt) == (task_id, attempt)
        brain = queue.brain_view(crash_rule)
        assert brain.recover("w") is None, "it lives"
        lock.release()
        (line,) = brain.recover("w")
        assert task_id in line
        assert brain.recover("w") == ()
    document = queue.read(task_id)
    assert document["status"] == "failed"
    assert [a["outcome"] for a in document["attempts"]] == ["crashed"] * 3
    assert queue.stats().pending == {LANE: 1}


def test_recovery_files_an_outcome_that_was_written_but_not_committed(queue, monkeypatch):
    task_id = queue.enqueue(llm())
    worker = queue.worker_view("w")
    claim = claim_one(worker)

    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(queue.storage, "move", die)
    with pytest.raises(KeyboardInterrupt):
        finish_one(worker, claim, TaskState.COMPLETED, DONE)
    monkeypatch.undo()
    assert queue.find(task_id).state is TaskState.PROCESSING
    queue.brain_view(crash_rule).recover("w")
    assert queue.read(task_id)["result"] == {"message": {"content": "hi"}}


def test_two_cannot_hold_one_life(queue):
    lock = ProcessLock(queue.layout, "w")
    assert not is_held(queue.layout, "w")
    lock.acquire()
    assert is_held(queue.layout, "w")
    with pytest.raises(LockHeld, match="w is running already"):
        ProcessLock(queue.layout, "w").acquire(timeout_s=0.05)
    lock.release()
    assert not is_held(queue.layout, "w")


def _drain(root, gate, results, name):
    from swarm.queue.file_queue import FileQueue

    queue = FileQueue(root, "fast")
    worker = queue.worker_view(name)
    gate.wait()
    mine = []
    while claim := claim_one(worker):
        if finish_one(worker, claim, TaskState.COMPLETED, DONE):
            mine.append(claim.task.task_id)
    results.put(mine)


def test_eight_racing_processes_share_the_work_exactly(tmp_path):
    queue = open_queue(tmp_path)
    ids = [queue.new_id() for _ in range(2000)]
    list(queue.enqueue_many(llm(task_id=i) for i in ids))
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(8), context.Queue()
    crew = [context.Process(target=_drain, args=(queue.layout.root, gate, results, f"w{i}")) for i in range(8)]
    for process in crew:
        process.start()
    done = Counter(i for _ in crew for i in results.get(timeout=200))
    for process in crew:
        process.join(60)
    assert set(done) == set(ids)
    assert set(done.values()) == {1}
    assert assert_one_state_each(queue, ids) == {TaskState.COMPLETED: 2000}


def drop(queue, name, content):
    path = f"{queue.layout.pending}/{name}"
    with open(path, "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content, indent=2))
    os.utime(path, (time.time() - 60,) * 2)


@pytest.mark.parametrize("ahead_s", [7200, -7200])
def test_a_drop_in_with_a_time_of_another_clock_is_filed(queue, monkeypatch, ahead_s):
    drop(queue, "a.json", llm())
    if ahead_s > 0:
        os.utime(f"{queue.layout.pending}/a.json", (time.time() + ahead_s,) * 2)
    else:
        os.utime(f"{queue.layout.pending}/a.json", (time.time() + 1,) * 2)
        now_s = time.time()
        monkeypatch.setattr("swarm.queue.lookup.time.time", lambda: now_s + ahead_s)
    brain = queue.brain_view(crash_rule)
    wait_until(lambda: brain.look().drop_ins[0].quiet_s >= DROP_IN_QUIET_S, what="it counts as whole")


def test_good_drop_ins_run_and_bad_ones_are_set_aside_with_a_reason(queue):
    drop(queue, "good.json", llm(unknown={"kept": True}))
    drop(queue, "wrong-id.json", llm(task_id="another"))
    drop(queue, "not-json.json", "{oops")
    drop(queue, "list.json", "[]")
    drop(queue, "bad field.json", llm())
    least = '{"task_class":"llm","model":"m:1","request":{"prompt":"?"}}'
    drop(queue, "huge.json", least.replace("?", "?" * (MAX_TASK_BYTES - len(least))))
    drop(queue, "no-model.json", {"task_class": "llm", "request": {"prompt": "x"}})
    os.mkfifo(f"{queue.layout.pending}/fifo.json")
    os.symlink("/etc/passwd", f"{queue.layout.pending}/link.json")
    brain = queue.brain_view(crash_rule)
    for entry in brain.look().drop_ins:
        brain.file_drop_in(entry.file_name)
    assert brain.look().drop_ins == ()
    assert queue.stats().pending == {LANE: 1}
    claim = claim_one(queue.worker_view("w"))
    assert claim.task.task_id == "good"
    assert b'"unknown":{"kept":true}' in Path(claim.path).read_bytes()
    reasons = {p.name: p.read_text() for p in Path(queue.layout.corrupt).glob("*.reason")}
    assert "must equal the file's name" in reasons["wrong-id.json.reason"]
    assert "not a JSON object" in reasons["not-json.json.reason"]
    assert "`model`" in reasons["no-model.json.reason"]
    assert "symbolic link" in reasons["link.json.reason"]
    assert "is a FIFO" in reasons["fifo.json.reason"]
    assert "at most 1048576 are allowed" in reasons["huge.json.reason"], "with what is added to it"
    assert len(reasons) == 8


def test_a_drop_in_that_is_still_being_copied_is_left_alone(queue):
    path = f"{queue.layout.pending}/slow.json"
    with open(path, "w") as file:
        file.write('{"task_class": "llm", "mod')
    brain = queue.brain_view(crash_rule)
    assert "still be" in brain.file_drop_in("slow.json")
    with open(path, "w") as file:
        json.dump(llm(), file)
    assert "Filed" in brain.file_drop_in("slow.json")


def test_a_drop_in_with_a_known_id_leaves_the_record_untouched(queue):
    queue.enqueue(llm(task_id="known"))
    drop(queue, "known.json", llm("other"))
    queue.brain_view(crash_rule).file_drop_in("known.json")
    assert queue.read("known")["request"] == llm()["request"]
    assert queue.stats().corrupt == 1


def test_broken_files_in_a_bucket_do_not_stop_a_worker(queue):
    queue.enqueue(llm(task_id="a"))
    bucket = os.path.dirname(queue.find("a").path)
    for name, content in [
        ("0.0.json", "{"),
        ("00.0.json", ""),
        ("foreign.txt", "x"),
        ("1.0.json", json.dumps(llm(task_id="2"))),
    ]:
        with open(f"{bucket}/{name}", "w") as file:
            file.write(content)
    os.mkdir(f"{bucket}/3.0.json")
    worker = queue.worker_view("w")
    assert claim_one(worker).task.task_id == "a"
    assert claim_one(worker) is None
    assert queue.stats().corrupt == 4


def test_cancel_and_retry_by_hand(queue):
    waiting, running, done = (queue.enqueue(llm(str(i))) for i in range(3))
    assert queue.cancel(waiting, "not wanted") == "cancelled"
    worker = queue.worker_view("w")
    claim = claim_one(worker)
    assert claim.task.task_id == running
    assert not worker.cancel_requested(claim)
    assert queue.cancel(running, "not wanted") == "asked"
    assert worker.cancel_requested(claim)
    finish_one(worker, claim, TaskState.CANCELLED, Trail(error=TaskError("cancelled", "not wanted")))
    assert not worker.cancel_requested(claim)
    other = claim_one(worker)
    failed = Attempt(attempt=1, worker="w", outcome="failed", fault="deterministic")
    finish_one(worker, other, TaskState.FAILED, Trail(error=TaskError("bad", "no"), attempts=(failed,)))
    with pytest.raises(QueueError, match="failed already"):
        queue.cancel(done, "x")
    assert queue.retry(done) == LANE
    assert queue.retry(waiting) == LANE
    again = {c.task.task_id: c for c in (claim_one(worker), claim_one(worker))}
    assert again[done].attempt == 1
    assert again[done].attempts[0].outcome == "forgiven"
    with pytest.raises(QueueError, match="only failed and cancelled"):
        queue.retry(done)
    with pytest.raises(UnknownTask):
        queue.cancel("nobody", "x")


def test_lane_counts_follow_changes(queue):
    brain = queue.brain_view(crash_rule)
    assert brain.look().lanes == ()
    queue.enqueue(llm())
    assert brain.look().lanes[0].pending == 1
    queue.enqueue(llm())
    assert brain.look().lanes[0].pending == 2
    worker = queue.worker_view("w")
    claim_one(worker)
    assert brain.look().lanes[0].pending == 1
    queue.enqueue(
        {
            "task_id": "load-1",
            "task_class": "resource",
            "action": "load_llm",
            "target_worker": "w",
            "model": "m",
            "priority": 9,
        }
    )
    lanes = {v.lane: v for v in brain.look().lanes}
    assert [task.task_id for task in lanes[resource_lane("w")].resource_tasks] == ["load-1"]
    assert claim_one(worker, [resource_lane("v")]) is None
    assert claim_one(worker, [resource_lane("w")]).task.task_id == "load-1"


def test_the_bell_wakes_who_waits(queue):
    wakeup = queue.wakeup(drop_ins=True)
    try:
        wakeup.drain()
        assert wakeup.wait(0.0) is False
        queue.enqueue(llm())
        assert wakeup.wait(60.0) is True
        drop(queue, "x.json", llm())
        assert wakeup.wait(60.0) is True
        wakeup.wake_self()
        assert wakeup.wait(60.0) is True
        assert wakeup.wait(0.0) is False
    finally:
        wakeup.close()


def test_modes_are_private_and_open_roots_are_refused(tmp_path):
    queue = open_queue(tmp_path)
    task_id = queue.enqueue(llm())
    assert stat.S_IMODE(os.stat(queue.layout.root).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(queue.find(task_id).path).st_mode) == 0o600
    os.chmod(queue.layout.pending, 0o777)
    with pytest.raises(QueueError, match="can be written to by others"):
        open_queue(tmp_path)


def test_a_full_disk_refuses_and_loses_nothing(queue, monkeypatch):
    task_id = queue.enqueue(llm())
    worker = queue.worker_view("w")
    claim = claim_one(worker)

    def full(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageFault, match="not accepted: No space left") as caught:
            queue.enqueue(llm())
        assert "resumes by itself" in caught.value.hint
        with pytest.raises(StorageFault):
            finish_one(worker, claim, TaskState.COMPLETED, DONE)
    assert_one_state_each(queue, [task_id])
    assert finish_one(worker, claim, TaskState.COMPLETED, DONE)
    assert os.listdir(queue.layout.staging) in ([], [".submit.lock"])


def test_threads_may_replace_the_same_file_at_once(queue, tmp_path):
    contents = [bytes([65 + n]) * 300_000 for n in range(8)]
    path = str(tmp_path / "one")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for done in [pool.submit(queue.storage.replace, path, content, durable=False) for content in contents]:
                done.result()
            assert Path(path).read_bytes() in contents
    assert os.listdir(tmp_path).count("one") == 1
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")]
