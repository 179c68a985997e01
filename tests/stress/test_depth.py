"""Bad luck at scale: foreign files by the ten thousand, a clock that steps back, threads and processes that share all."""

import itertools
import multiprocessing
import os
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from swarm.core.task import TaskState, Trail
from swarm.errors import StorageFault
from swarm.filesystem import durable as flush
from swarm.filesystem.durable import SharedFlush
from swarm.queue import layout, storage
from swarm.queue.layout import BUCKET_SIZE, IdMaker
from tests.helpers.queues import LANE, assert_one_state_each, claim_one, finish_one, llm, open_queue
from tests.helpers.wait import wait_until

DONE = Trail(result={"message": {"content": "hi"}})
FOREIGN = 20_000


def foreign(folder: str, count: int) -> None:
    """As links to one file: making so many files takes longer than the test."""
    os.close(os.open(f"{folder}/foreign.tmp", os.O_WRONLY | os.O_CREAT))
    for number in range(count - 1):
        os.link(f"{folder}/foreign.tmp", f"{folder}/{number:06d}.tmp")


def take(worker, count: int) -> list[str]:
    found = []
    for _ in range(count):
        claim = claim_one(worker)
        assert finish_one(worker, claim, TaskState.COMPLETED, DONE)
        found.append(claim.task.task_id)
    return found


def test_a_bucket_full_of_foreign_files_costs_one_look(tmp_path):
    """They sort before the work and can never be claimed; each claim after the first must not list them again."""
    queue = open_queue(tmp_path)
    wanted = [queue.enqueue(llm()) for _ in range(60)]
    bucket = f"{queue.layout.lane(LANE)}/0-0"
    os.mkdir(bucket)
    foreign(bucket, FOREIGN)
    wait_until(lambda: time.time_ns() - os.stat(bucket).st_mtime_ns > 50_000_000, timeout_s=60, what="the grain to pass")
    worker = queue.worker_view("w")
    assert take(worker, 1) == wanted[:1]
    start_s = time.process_time()
    assert take(worker, 59) == wanted[1:]
    assert time.process_time() - start_s < 0.5
    assert claim_one(worker) is None
    assert len(os.listdir(bucket)) == FOREIGN
    assert queue.stats().pending == {}


def test_work_amid_foreign_files_is_found_in_order(tmp_path):
    queue = open_queue(tmp_path)
    wanted = [queue.enqueue(llm()) for _ in range(50)]
    (bucket,) = os.listdir(queue.layout.lane(LANE))
    foreign(f"{queue.layout.lane(LANE)}/{bucket}", FOREIGN)
    worker = queue.worker_view("w")
    start_s = time.process_time()
    assert take(worker, 50) == wanted
    assert time.process_time() - start_s < 2.0
    assert claim_one(worker) is None
    later = queue.enqueue(llm())
    assert take(worker, 1) == [later]


def test_names_rise_though_the_clock_goes_backwards(monkeypatch):
    steps = iter([1_700_000_000_000, 1_700_000_000_000, 1_699_999_990_000, 1_600_000_000_000, 1_700_000_000_001] * 400)
    monkeypatch.setattr(layout.time, "time_ns", lambda: next(steps) * 1_000_000)
    maker = IdMaker()
    made = [maker.new() for _ in range(2000)]
    assert made == sorted(set(made))


def test_order_survives_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    """One submitter; its wall clock is set back by an hour half-way, as buckets are made and filled."""
    queue = open_queue(tmp_path)
    first = [queue.enqueue(llm()) for _ in range(30)]
    real = time.time_ns
    monkeypatch.setattr(layout.time, "time_ns", lambda: real() - 3_600_000_000_000)
    second = [queue.enqueue(llm()) for _ in range(30)]
    assert take(queue.worker_view("w"), 60) == first + second


def test_a_submitter_whose_clock_is_behind_loses_nothing(tmp_path, monkeypatch):
    """Another process's ids then sort before: its tasks come earlier than they should, and none is missed."""
    queue = open_queue(tmp_path)
    worker = queue.worker_view("w")
    first = [queue.enqueue(llm()) for _ in range(20)]
    got = take(worker, 5)
    real = time.time_ns
    monkeypatch.setattr(layout.time, "time_ns", lambda: real() - 86_400_000_000_000)
    other = open_queue(tmp_path)
    second = [other.enqueue(llm()) for _ in range(20)]
    third = list(other.enqueue_many(llm() for _ in range(BUCKET_SIZE + 5)))
    got += take(worker, 35 + third[-1])
    assert claim_one(worker) is None
    assert set(first + second) < set(got)
    assert len(set(got)) == 40 + BUCKET_SIZE + 5


def drain(path, name, results):
    queue = open_queue(path)
    worker = queue.worker_view(name)
    got = []
    while (claim := claim_one(worker)) is not None:
        assert finish_one(worker, claim, TaskState.COMPLETED, DONE)
        got.append(claim.task.task_id)
    results.put((got, worker.lost_races))


def test_four_processes_lose_few_races(tmp_path):
    queue = open_queue(tmp_path)
    wanted = [queue.new_id() for _ in range(1200)]
    for _ in queue.enqueue_many(llm(task_id=i) for i in wanted):
        pass
    ctx = multiprocessing.get_context("spawn")
    results = ctx.Queue()
    workers = [ctx.Process(target=drain, args=(tmp_path, f"w{n}", results)) for n in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert Counter(i for got, _ in found for i in got) == Counter(wanted)
    assert sum(lost for _, lost in found) < len(wanted) / 4
    assert_one_state_each(queue, wanted)


@pytest.fixture
def no_flush_is_slow(monkeypatch):
    """After a flush that takes long those that follow are not shared; how long one takes here is the machine's affair."""
    monkeypatch.setattr(flush, "time", SimpleNamespace(monotonic=lambda: 0.0))


def test_slots_that_finish_together_share_flushes(tmp_path, monkeypatch, no_flush_is_slow):
    calls = Counter()
    for name, function in (("sync_fd", flush.sync_fd), ("sync_folder", flush.sync_folder)):
        monkeypatch.setattr(flush, name, counted(calls, "one", function))
    monkeypatch.setattr(storage, "sync_file_system", counted(calls, "all", storage.sync_file_system))
    queue = open_queue(tmp_path, "full")
    ids_ = [queue.new_id() for _ in range(160)]
    for _ in queue.enqueue_many(llm(task_id=i) for i in ids_):
        pass
    worker = queue.worker_view("w")
    calls.clear()

    def slot():
        while (claim := claim_one(worker)) is not None:
            assert finish_one(worker, claim, TaskState.COMPLETED, DONE)

    slots = [threading.Thread(target=slot) for _ in range(8)]
    for thread in slots:
        thread.start()
    for thread in slots:
        thread.join()
    assert assert_one_state_each(queue, ids_) == {TaskState.COMPLETED: 160}
    assert calls["one"] + calls["all"] < 3 * 160 / 2  # one by one it would be three a task


def counted(calls, name, function):
    def call(*args):
        calls[name] += 1
        time.sleep(0.002)  # a disk so slow that eight slots must meet
        return function(*args)

    return call


@pytest.fixture
def tells_errors(monkeypatch):
    """On this kernel one flush of everything tells the errors of each file."""
    monkeypatch.setattr(flush, "tells_errors", lambda: True)


def test_nobody_is_told_before_a_flush_that_began_after_it_asked(tmp_path, monkeypatch, tells_errors):
    """Every caller must see a whole flush, begun after its call, come to an end before it returns."""
    began, ended = [], []
    tick = iter(range(1_000_000))

    def everything(_fd):
        began.append(next(tick))
        time.sleep(0.001)
        ended.append((began[-1], next(tick)))

    shared = SharedFlush(everything, str(tmp_path))
    wrong = []

    def ask(fd):
        for _ in range(20):
            asked = next(tick)
            shared.flush(fd)
            told = next(tick)
            if not any(asked < first and last < told for first, last in list(ended)):
                wrong.append((asked, told))

    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    monkeypatch.setattr(flush, "sync_fd", everything)
    threads = [threading.Thread(target=ask, args=(fd,)) for fd in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fd in files:
        os.close(fd)
    assert wrong == []
    assert len(ended) < 8 * 20  # and they shared


def broken(_target):
    raise OSError(5, "Input/output error")


def test_a_failed_shared_flush_is_told_to_all_who_shared_it(tmp_path, tells_errors, no_flush_is_slow):
    """The first blocks while six others come; the flush they share fails."""
    begun, go_on = threading.Event(), threading.Event()
    flushes = []

    def fails_from_the_second_on(fd):
        flushes.append(fd)
        if len(flushes) > 1:
            broken(fd)
        begun.set()
        assert go_on.wait(60)

    shared = SharedFlush(fails_from_the_second_on, str(tmp_path))
    folders = [str(tmp_path / name) for name in "ab"]
    for folder in folders:
        os.mkdir(folder)
    shared.flush(*folders)  # one by one: from here on the file system is kept open, to flush all of it
    errors = []

    def ask():
        try:
            shared.flush(*folders)
        except OSError as exc:
            errors.append(exc.errno)

    threads = [threading.Thread(target=ask) for _ in range(7)]
    for thread in threads:
        thread.start()
        assert begun.wait(60)
    go_on.set()
    for thread in threads:
        thread.join()
    assert errors == [5] * 6
    assert len(flushes) < 7, "and they shared"


def test_a_claim_that_cannot_be_flushed_is_given_back_and_not_lost(tmp_path, monkeypatch):
    queue = open_queue(tmp_path, "full")
    task_id = queue.enqueue(llm())
    worker = queue.worker_view("w")
    with monkeypatch.context() as patch:
        for name in ("sync_fd", "sync_folder"):
            patch.setattr(flush, name, broken)
        with pytest.raises(StorageFault):
            claim_one(worker)
    claim = claim_one(worker)
    assert claim.task.task_id == task_id
    assert claim.attempt == 1


def test_a_slow_flush_of_everything_is_not_repeated_at_once(tmp_path, monkeypatch, tells_errors):
    """Somebody else writes a lot: flushing that with ours would cost more than flushing ours one by one."""
    monkeypatch.setattr(flush, "ALONE_FOR_S", 0.2)
    ended_s = []

    def slow(_fd):
        time.sleep(flush.SLOW_S * 1.2)
        ended_s.append(time.monotonic())

    def one(_target):
        time.sleep(flush.SLOW_S)  # so that all together is what costs less

    monkeypatch.setattr(flush, "sync_folder", one)
    shared = SharedFlush(slow, str(tmp_path))
    folders = [str(tmp_path / name) for name in "abcd"]
    wait_until(lambda: shared.flush(*folders) or len(ended_s) == 3, timeout_s=60, what="three slow flushes")
    pauses_s = [later - before for before, later in itertools.pairwise(ended_s)]
    assert pauses_s[0] > flush.ALONE_FOR_S
    assert pauses_s[1] > 2 * flush.ALONE_FOR_S


def test_flushing_together_or_one_by_one_is_what_has_cost_less(tmp_path, monkeypatch, tells_errors):
    cost_s = {"one": 0.001, "all": 0.0001}
    done = []
    clock = SimpleNamespace(now_s=0.0)

    def one(_target):
        done.append("one")
        clock.now_s += cost_s["one"]

    def everything(_fd):
        done.append("all")
        clock.now_s += cost_s["all"]

    monkeypatch.setattr(flush, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    monkeypatch.setattr(flush, "sync_folder", one)
    shared = SharedFlush(everything, str(tmp_path))
    folders = [str(tmp_path)] * 2
    os.mkdir(tmp_path / "b")
    folders[1] += "/b"

    def last(times):
        done.clear()
        for _ in range(times):
            shared.flush(*folders)
        return done[-1]

    assert last(5) == "all"
    cost_s["all"] = 0.02  # others write a lot now
    assert last(30) == "one"
    cost_s["all"] = 0.0001
    assert last(200) == "all", "it is tried again"


def test_what_is_kept_open_for_flushing_is_neither_a_task_nor_its_directory(tmp_path, tells_errors):
    """Else a removed file's blocks stay taken, and nobody can make the disk read-only while the process lives."""
    for number in range(16):  # the order of a set of paths and descriptors is another each time
        shared = SharedFlush(lambda _fd: None, str(tmp_path))
        folder = tmp_path / f"{number}"
        folder.mkdir()
        with open(folder / "task", "w") as task:
            shared.flush(str(folder), task.fileno())
        kept = [os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()]
        assert [path for path in kept if path.startswith(str(tmp_path))] == [str(tmp_path)]


def _descriptors():
    """Those still there after the listing, which has one of its own."""
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
