"""Counts are true: whatever is remembered, here or in the file between commands, equals what a full listing says."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from swarm.core.task import TERMINAL, TaskState, Trail
from swarm.filesystem import entries
from swarm.filesystem.entries import GRAIN_NS, Folders
from swarm.queue import counts as counts_module
from swarm.queue import pending
from swarm.queue.counts import QueueGauges
from swarm.queue.file_queue import FileQueue
from swarm.queue.layout import parse_task_file, shard_of, time_of
from swarm.queue.pending import task_names
from tests.helpers.queues import LANE, claim_one, finish_one, llm, open_queue, settle

OTHER = "llm@qwen2.5:7b"
MODELS = {LANE: "llama3.2:3b", OTHER: "qwen2.5:7b"}
FOREIGN = ("notes.json", ".half.0.json", "a.b.json", "x.1.json.new", "y..json", "-z.0.json", "n\n.0.json", "é.0.json")


def listed(root: Path) -> dict[str, int]:
    """Tasks by lane, by listing and parsing every name."""
    lanes = (lane for lane in (root / "pending").iterdir() if lane.name in MODELS)
    found = {lane.name: sum(1 for f in lane.glob("*/*") if parse_task_file(f.name)) for lane in lanes}
    return {lane: tasks for lane, tasks in found.items() if tasks}


def ended(root: Path) -> dict[TaskState, int]:
    return {state: len(list((root / state).glob("*/[!.]*.json"))) for state in TERMINAL}


def waited_since(path: Path) -> float:
    made_s = time_of(path.name.partition(".")[0])
    return path.stat().st_mtime if made_s is None else made_s


def stale(root: Path, after_s: float) -> dict[str, int]:
    tasks = [f for f in (root / "pending").glob("*/*/*") if parse_task_file(f.name)]
    old = [f.parent.parent.name for f in tasks if waited_since(f) < time.time() - after_s]
    return {lane: old.count(lane) for lane in set(old)}


class Busy:
    """A queue to which anything may happen, and everybody who counts it."""

    def __init__(self, path: Path) -> None:
        self.queue = open_queue(path)
        self.root = path / "queue"
        self.worker = self.queue.worker_view("w")
        self.view = self.queue.brain_view(lambda _attempts: 0.0)
        self.gauges = QueueGauges(self.queue.layout)
        self.number = 0

    def do(self, what: str, lane: str, number: int) -> None:
        self.number += 1
        match what:
            case "submit":
                self.queue.enqueue(llm(model=MODELS[lane], priority=number % 10))
            case "submit-old":
                self._old(self.queue.enqueue(llm(model=MODELS[lane], task_id=f"mine-{self.number}")), 10.0 * number)
            case "bulk":
                list(self.queue.enqueue_many([llm(model=MODELS[lane])] * number))
            case "claim":
                claim_one(self.worker, [lane])
            case "finish":
                claim = claim_one(self.worker, [lane])
                if claim is not None:
                    finish_one(self.worker, claim, sorted(TERMINAL)[number % 3], Trail())
            case "settle":
                settle(self.root)
            case _:
                tasks = sorted((self.root / "pending").glob("*/*/*.json"))
                if tasks:
                    self._disturb(what, tasks, number)

    def _disturb(self, what: str, tasks: list[Path], number: int) -> None:
        folder = tasks[0].parent
        match what:
            case "remove":
                tasks[number % len(tasks)].unlink()
            case "foreign":
                (folder / FOREIGN[number % len(FOREIGN)]).write_text("{}")
            case "drop-bucket":
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
            case "again":  # another directory under the same name
                os.rename(folder, self.root / f"aside-{self.number}")
                folder.mkdir()
            case _:
                raise AssertionError(what)

    def _old(self, task_id: str, age_s: float) -> None:
        located = self.queue.find(task_id)
        assert located is not None
        os.utime(located.path, (time.time() - age_s, time.time() - age_s))

    def check(self) -> None:
        pending, done = listed(self.root), ended(self.root)
        for reader in (self.queue, FileQueue(str(self.root), "fast")):  # one that goes on, and the next command
            counts = reader.stats()
            assert counts.pending == pending
            assert {s: getattr(counts, s) for s in TERMINAL} == done
        assert {view.lane: view.pending for view in self.view.look().lanes} == pending
        assert {s: n for s, n in self.gauges.ended().items() if s in TERMINAL} == done
        for after_s in (-1.0, 35.0, 3600.0, 15.0):
            assert self.gauges.stale(after_s) == stale(self.root, after_s)


STEPS = ("submit", "submit-old", "bulk", "claim", "finish", "remove", "foreign", "drop-bucket", "again", "settle")


@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from(sorted(MODELS)), st.integers(1, 9), st.booleans()),
        min_size=3,
        max_size=14,
    )
)
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_counts_equal_a_full_listing_whatever_happened(tmp_path_factory, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts_module, "WORTH_FILES", 1)
        patch.setattr(counts_module, "QUIET_NS", GRAIN_NS)
        busy = Busy(tmp_path_factory.mktemp("q"))
        for what, lane, number, look in steps:
            busy.do(what, lane, number)
            if look:
                busy.check()
        busy.check()


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A queue that was counted, and whose counts are written down."""
    monkeypatch.setattr(counts_module, "WORTH_FILES", 1)
    monkeypatch.setattr(counts_module, "QUIET_NS", GRAIN_NS)
    queue = open_queue(tmp_path)
    list(queue.enqueue_many([llm() for _ in range(30)]))
    worker = queue.worker_view("w")
    for _ in range(5):
        finish_one(worker, claim_one(worker), TaskState.COMPLETED, Trail())
    settle(tmp_path / "queue")
    assert queue.stats().pending == {LANE: 25}
    assert Path(queue.layout.counts).exists()
    return queue


def listings(monkeypatch) -> list[str]:
    seen: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: seen.append(str(path)) or real(path))
    return seen


def again(queue: FileQueue) -> FileQueue:
    return FileQueue(queue.layout.root, "fast")


def test_the_next_command_lists_no_bucket_and_no_shard_that_did_not_change(counted, monkeypatch):
    seen = listings(monkeypatch)
    counts = again(counted).stats()
    assert (counts.pending, counts.completed) == ({LANE: 25}, 5)
    assert not [path for path in seen if f"/{LANE}/" in path or "/completed/" in path]
    counted.enqueue(llm(priority=9))
    counts = again(counted).stats()
    assert counts.pending == {LANE: 26}
    assert len([path for path in seen if f"/{LANE}/" in path]) == 1


def test_a_look_at_the_swarm_lists_nothing_that_was_counted(counted, monkeypatch):
    queue = FileQueue(counted.layout.root, "fast")
    queue.stats()
    seen = listings(monkeypatch)
    assert [view.pending for view in queue.look_view(lambda _attempts: 0.0).look().lanes] == [25]
    assert not [path for path in seen if f"/{LANE}/" in path]


@given(st.integers(0, 1 << 16), st.binary(max_size=6), st.booleans())
@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_damaged_file_of_counts_is_as_good_as_none(counted, place, bytes_, cut):
    path = Path(counted.layout.counts)
    whole = path.read_bytes()
    place %= len(whole) + 1
    path.write_bytes(whole[:place] + bytes_ + (b"" if cut else whole[place + len(bytes_) :]))
    try:
        counts = again(counted).stats()
        assert (counts.pending, counts.completed) == ({LANE: 25}, 5)
    finally:
        path.write_bytes(whole)


def test_a_digit_that_has_become_another_is_noticed(counted):
    path = Path(counted.layout.counts)
    whole = path.read_bytes()
    for place, digit in enumerate(whole):
        if chr(digit).isdecimal():
            path.write_bytes(whole[:place] + b"%d" % ((digit - 47) % 10) + whole[place + 1 :])
            counts = again(counted).stats()
            assert (counts.pending, counts.completed) == ({LANE: 25}, 5)


@pytest.mark.parametrize("what", ["nothing", "a directory", "a link", "another version", "far too much"])
def test_whatever_lies_where_the_counts_are_kept(counted, what, monkeypatch):
    path = Path(counted.layout.counts)
    body = path.read_bytes()
    path.unlink()
    match what:
        case "a directory":
            path.mkdir()
        case "a link":
            path.symlink_to("/dev/zero")
        case "another version":
            monkeypatch.setattr(counts_module, "_VERSION", 2)
            again(counted).stats()
            monkeypatch.undo()
        case "far too much":
            path.write_bytes(body)
            monkeypatch.setattr(counts_module, "_MAX_BYTES", 10)
        case _:
            pass
    assert again(counted).stats().pending == {LANE: 25}
    with suppress(OSError):
        os.unlink(path)


def test_a_command_that_may_not_write_counts_all_the_same(counted):
    control = Path(counted.layout.control)
    Path(counted.layout.counts).unlink()
    control.rmdir()
    control.write_text("no directory")
    assert again(counted).stats().pending == {LANE: 25}


def test_nothing_is_written_for_a_queue_that_is_counted_quickly(tmp_path):
    queue = open_queue(tmp_path)
    list(queue.enqueue_many([llm() for _ in range(30)]))
    settle(tmp_path / "queue")
    queue.stats()
    assert os.listdir(queue.layout.control) == []


def test_what_changed_a_moment_ago_is_not_written_down(counted):
    before = Path(counted.layout.counts).read_bytes()
    counted.enqueue(llm(priority=9))
    again(counted).stats()
    assert Path(counted.layout.counts).read_bytes() == before


class Clock:
    """Stands in for ``time`` where directories are looked at."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def time_ns(self) -> int:
        return self.now_ns


def test_a_directory_that_changed_while_a_slow_listing_went_on_is_listed_again(tmp_path, monkeypatch):
    (tmp_path / "bucket").mkdir()
    clock = Clock((tmp_path / "bucket").stat().st_ctime_ns + 1)
    monkeypatch.setattr(entries, "time", clock)
    calls: list[str] = []

    def counter(path: str) -> tuple[int, None]:
        clock.now_ns += 10**9
        calls.append(path)
        return len(calls), None

    some = Folders(str(tmp_path), counter)
    assert some.look(["bucket"])["bucket"].files == 1
    assert some.look(["bucket"])["bucket"].files == 2, "the first listing began within the step of the change"
    assert some.look(["bucket"])["bucket"].files == 2
    clock.now_ns = 0  # a clock set back: nothing is believed that is counted from now on
    (tmp_path / "bucket" / "x").write_text("")
    assert [some.look(["bucket"])["bucket"].files for _ in range(2)] == [3, 4]


def test_another_directory_of_the_same_time_is_another(tmp_path):
    (tmp_path / "bucket").mkdir()
    status = (tmp_path / "bucket").stat()
    known = entries.Folder(status.st_ino, status.st_ctime_ns, 10**10, 7)
    assert Folders(str(tmp_path), pending.count_waiting, {"bucket": known}).look(["bucket"])["bucket"].files == 7
    moved = entries.Folder(status.st_ino + 1, status.st_ctime_ns, 10**10, 7)
    assert Folders(str(tmp_path), pending.count_waiting, {"bucket": moved}).look(["bucket"])["bucket"].files == 0


NAMES = st.one_of(
    st.sampled_from(FOREIGN),
    st.from_regex(r"[A-Za-z0-9_.-]{1,12}(\.[0-9]{1,7})?(\.json)?", fullmatch=True),
    st.builds("{}.{}.json".format, st.from_regex(r"[a-z0-9]{1,70}", fullmatch=True), st.integers(0, 10**7)),
).filter(lambda name: name not in (".", ".."))


@given(st.lists(NAMES, unique=True, max_size=12))
def test_only_task_files_are_tasks(names):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending, "list_inside", lambda _path: names)
        assert task_names("anywhere") == [name for name in names if parse_task_file(name) is not None]


def test_a_task_is_found_wherever_it_waits(tmp_path):
    queue = open_queue(tmp_path)
    ids = [queue.enqueue(llm(priority=n % 10)) for n in range(30)]
    ids += [queue.enqueue(llm(priority=n, task_id=name)) for n, name in ((1, "a"), (9, "zz"), (5, "0"), (5, "Z"))]
    worker = queue.worker_view("w")
    back = claim_one(worker)
    worker.retry(back, [], delay_s=0.0, counts=True)  # to the front: a bucket that does not fit its id
    for task_id in ids:
        located = queue.find(task_id)
        assert located is not None
        assert located.state is TaskState.PENDING
        assert located.attempt == (task_id == back.task.task_id)
    assert queue.find("none") is None


def test_shards_tell_the_same_as_before(tmp_path):
    queue = open_queue(tmp_path)
    folder = Path(queue.layout.root) / "completed" / shard_of("mine")
    folder.mkdir()
    for name in ("mine.json", ".mine.json", "mine.txt"):
        (folder / name).write_text("{}")
    assert queue.stats().completed == 1
