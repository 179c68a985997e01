"""Where fresh work goes: to the end of its priority, wherever others have moved that, and without looking each time."""

import os
import time

import pytest

from swarm.core.task import Attempt
from swarm.filesystem.entries import GRAIN_NS
from swarm.queue import pending
from swarm.queue.layout import BUCKET_SIZE, Layout, bucket_name
from swarm.queue.pending import BucketChooser
from swarm.queue.storage import Storage
from tests.helpers.queues import claim_one, llm, open_queue
from tests.helpers.slowlisting import go_by_modification_time, hide_behind_listing
from tests.helpers.wait import wait_until

NAME = "lane"


class Bench:
    """A lane, a chooser, and a clock that only moves when told."""

    def __init__(self, tmp_path, monkeypatch):
        self.lane = tmp_path / "pending" / NAME
        self.lane.mkdir(parents=True)
        self.now_s = time.monotonic()
        self.wall_ns = time.time_ns()
        self.listed = []
        self.made = 0
        real = os.listdir
        go_by_modification_time(monkeypatch)
        monkeypatch.setattr(pending.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(pending.time, "time_ns", lambda: self.wall_ns)
        monkeypatch.setattr(pending.os, "listdir", lambda path: self.listed.append(os.path.basename(path)) or real(path))
        self.begin = lambda: BucketChooser(Layout(str(tmp_path)), Storage("fast", str(tmp_path)))
        self.chooser = self.begin()

    def step(self, seconds):
        self.now_s += seconds
        self.wall_ns += int(seconds * 1e9)

    def bucket(self, key, priority=5):
        (self.lane / bucket_name(priority, key)).mkdir()
        self.made += 1
        self.changed(self.wall_ns + self.made)  # a change of its own, also where the clock of the disk is coarse
        return bucket_name(priority, key)

    def changed(self, ns):
        os.utime(self.lane, ns=(1, ns))

    def end(self, priority=5):
        return self.chooser.at_end(NAME, priority)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_one_bucket_is_filled_before_the_next_is_made(bench):
    first = bench.end()
    (bench.lane / first).mkdir()
    assert {bench.end() for _ in range(BUCKET_SIZE - 1)} == {first}
    assert bench.end() > first


def test_each_priority_has_its_end(bench):
    late, urgent = bench.bucket("b"), bench.bucket("a", priority=9)
    assert (bench.end(), bench.end(9)) == (late, urgent)
    assert bench.end(1).startswith("8-")


def test_it_goes_behind_what_others_have_added_half_a_millisecond_later_at_most(bench):
    mine = bench.bucket("a")
    assert bench.end() == mine
    theirs = bench.bucket("b")
    bench.step(0.0004)
    assert bench.end() == mine
    bench.step(0.0002)
    assert bench.end() == theirs
    (bench.lane / theirs).rmdir()
    bench.step(0.001)
    assert bench.end() == mine


def test_a_lane_that_does_not_change_is_listed_until_the_clock_s_grain_has_passed(bench):
    bench.bucket("a")
    bench.changed(bench.wall_ns)
    bench.end()
    assert bench.listed == [NAME, bucket_name(5, "a")]
    for _ in range(100):
        bench.end()
    assert bench.listed == [NAME, bucket_name(5, "a")], "no more than once in half a millisecond"
    hidden = bench.bucket("b")
    bench.changed(bench.wall_ns - GRAIN_NS // 2)
    bench.step(GRAIN_NS / 1e9)
    assert bench.end() == hidden
    bench.listed.clear()
    bench.step(60)
    bench.end()
    assert bench.listed == []


def test_a_bucket_that_hides_behind_a_slow_listing_is_seen_after_the_clock_s_grain(bench, monkeypatch):
    mine, theirs = bench.bucket("a"), bucket_name(5, "b")
    hide_behind_listing(monkeypatch, str(bench.lane), (bench.lane / theirs).mkdir)
    assert bench.end() == mine
    bench.step(2 * GRAIN_NS / 1e9)
    assert bench.end() == theirs


def test_a_full_last_bucket_of_others_is_not_filled_further(bench):
    full = bench.bucket("0a")
    for number in range(BUCKET_SIZE):
        (bench.lane / full / str(number)).touch()
    assert bench.end() > full


def test_work_goes_behind_buckets_from_before_the_clock_was_set_back(bench):
    """However often it was: a bucket is filled, and its name does not grow with their number."""
    last = bench.bucket("1z0000000000abcde")
    for _ in range(4):
        for number in range(BUCKET_SIZE):
            (bench.lane / last / str(number)).touch()
        bench.step(60)
        bench.chooser = bench.begin()
        before, last = last, bench.end()
        assert before < last
        assert len(last) < 40
        (bench.lane / last).mkdir()
        bench.changed(bench.wall_ns)
        assert {bench.end() for _ in range(BUCKET_SIZE - 1)} == {last}


def test_a_bucket_behind_one_of_the_future_has_others_behind_it():
    """Also when the clock is set back once more."""
    last = bucket_name(5, f"1z0000000000abcde-{'z' * 17}")
    for _ in range(3):
        before, last = last, pending.name_behind(last, 5)
        assert before < last


def test_whoever_submits_later_is_served_later(tmp_path, monkeypatch):
    monkeypatch.setattr(pending, "AGAIN_S", 0.0)
    one, other = open_queue(tmp_path), open_queue(tmp_path)
    wanted = [one.enqueue(llm())]
    list(other.enqueue_many(llm(str(n)) for n in range(3)))
    wanted.append(one.enqueue(llm()))
    worker = one.worker_view("w")
    assert [c.task.task_id for c in [claim_one(worker) for _ in range(5)]][::4] == wanted


def test_behind_is_behind_all_that_waits_and_what_broke_a_server_behind_that(tmp_path):
    queue = open_queue(tmp_path)
    view, brain = queue.worker_view("worker-1"), queue.brain_view(lambda _: 0.0)
    names = ["poison", "likely", "infra", "plain-1", "plain-2"]
    for name in names:
        queue.enqueue(llm(task_id=name))

    def fault(kind, *, alone=False):
        return Attempt(attempt=1, worker="worker-1", outcome="retried", fault=kind, alone=alone)

    history = {"poison": fault("poison"), "likely": fault("suspect", alone=True), "infra": fault("infra")}
    claims = {claim.task.task_id: claim for claim in iter(lambda: claim_one(view), None)}
    for name, past in history.items():
        assert view.retry(claims[name], (past,), delay_s=0.001, counts=past.fault == "poison")
    for name in ("plain-1", "plain-2"):
        view.release(claims[name])
    wait_until(lambda: all((b.due_in_s or 0) <= 0 for b in brain.look().blocked), what="their time has come")
    for blocked in brain.look().blocked:
        assert brain.release_blocked(blocked.task_id, blocked.attempt)
    queue.enqueue(llm(task_id="fresh"))
    assert all(queue.find(name) is not None for name in (*names, "fresh"))
    order = [claim.task.task_id for claim in iter(lambda: claim_one(view), None)]
    assert sorted(order[:3]) == ["infra", "plain-1", "plain-2"]
    assert order[3:] == ["likely", "poison", "fresh"], "and before what was submitted since"


def test_a_second_one_goes_behind_what_came_since_the_first(tmp_path):
    chooser = BucketChooser(Layout(str(tmp_path)), Storage("fast", str(tmp_path)))
    lane = tmp_path / "pending" / NAME
    for _ in range(3):
        (lane / chooser.at_end(NAME, 5)).mkdir(parents=True)
        likely = chooser.behind(NAME, 5, last=False)
        assert likely > max(os.listdir(lane))
        (lane / likely).mkdir()
        last = chooser.behind(NAME, 5, last=True)
        assert last > likely
        (lane / last).mkdir()
        assert chooser.behind(NAME, 5, last=False) == likely
        time.sleep(GRAIN_NS / 1e9)  # directory times move in steps
