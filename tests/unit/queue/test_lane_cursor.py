"""The cursor of one lane: order, urgency, stepping aside after lost races, and buckets that come and go under it."""

import os
import random
import shutil
from pathlib import Path

import pytest

from swarm.filesystem.entries import GRAIN_NS
from swarm.queue.layout import bucket_name, task_file
from swarm.queue.worker import claimer as lanecursor
from swarm.queue.worker.claimer import KEEP_NS, LaneCursor
from tests.helpers.slowlisting import go_by_modification_time, hide_behind_listing


@pytest.fixture(autouse=True)
def times_can_be_set(monkeypatch):
    go_by_modification_time(monkeypatch)


def put(lane: Path, number: int, priority: int = 5, bucket: str = "a") -> str:
    folder = lane / bucket_name(priority, bucket)
    folder.mkdir(parents=True, exist_ok=True)
    name = task_file(f"t{number:05d}", 0)
    (folder / name).touch()
    return name


def settle(lane: Path) -> None:
    """As if all of it had been made a while ago."""
    for folder, _, _ in os.walk(lane):
        os.utime(folder, ns=(1, 1_000_000_000))


def hide(lane: Path, stamp_ns: int) -> None:
    """As if the bucket just made had not changed the lane: as many directories as before, and the same time."""
    (lane / "spare").rmdir()
    os.utime(lane, ns=(stamp_ns, stamp_ns))


def at(monkeypatch: pytest.MonkeyPatch, now_ns: int) -> None:
    monkeypatch.setattr(lanecursor.time, "time_ns", lambda: now_ns)


def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lanes whose buckets were listed since."""
    listed: list[str] = []
    real = lanecursor.sorted_buckets
    monkeypatch.setattr(lanecursor, "sorted_buckets", lambda path: listed.append(path) or real(path))
    return listed


def out_of_files(_path: str) -> list[str]:
    raise OSError(24, "Too many open files")


def drain(cursor: LaneCursor) -> list[str]:
    found = []
    while (candidate := cursor.next()) is not None:
        bucket, name, _ = candidate
        os.unlink(f"{bucket}/{name}")
        found.append(name)
    return found


def test_one_worker_gets_everything_in_order(tmp_path):
    lane = tmp_path / "lane"
    late = [put(lane, n, priority=1) for n in range(5)]
    first = [put(lane, n, bucket="b") for n in range(10, 15)]
    assert drain(LaneCursor(str(lane))) == first + late
    assert os.listdir(lane) == [bucket_name(1, "a")], "the last one stays a while"


def test_the_last_bucket_takes_more_and_goes_when_it_was_empty_for_long(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    names = [put(lane, n) for n in range(3)]
    cursor = LaneCursor(str(lane))
    for name in names:
        (lane / bucket_name(5, "a") / name).unlink()
    assert cursor.next() is None
    for number in range(3):
        name = put(lane, number)
        assert cursor.next()[1] == name
        (lane / bucket_name(5, "a") / name).unlink()
        assert cursor.next() is None
    changed_ns = (lane / bucket_name(5, "a")).stat().st_mtime_ns
    at(monkeypatch, changed_ns + KEEP_NS - 1)
    assert cursor.next() is None
    looked = []
    real = lanecursor.list_inside
    monkeypatch.setattr(lanecursor, "list_inside", lambda path: looked.append(path) or real(path))
    assert cursor.next() is None
    assert (os.listdir(lane), looked) == ([bucket_name(5, "a")], []), "not even listed again"
    at(monkeypatch, changed_ns + KEEP_NS)
    assert cursor.next() is None
    assert os.listdir(lane) == []


def test_a_bucket_with_others_behind_it_goes_at_once(tmp_path):
    lane = tmp_path / "lane"
    (lane / bucket_name(5, "a")).mkdir(parents=True)
    put(lane, 1, bucket="b")
    assert LaneCursor(str(lane)).next() is not None
    assert os.listdir(lane) == [bucket_name(5, "b")]


def test_a_change_within_the_clock_s_grain_is_seen(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    put(lane, 1), put(lane, 2)
    before = os.stat(lane)
    at(monkeypatch, before.st_mtime_ns)
    cursor = LaneCursor(str(lane))
    assert cursor.next() is not None
    urgent = put(lane, 3, priority=9, bucket="z")
    if os.stat(lane).st_nlink == before.st_nlink:
        pytest.skip("this file system does not count directories: it is seen when the grain has passed")
    os.utime(lane, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert cursor.next()[1] == urgent


def test_who_loses_again_and_again_steps_aside_and_misses_nothing(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    names = [put(lane, n) for n in range(200)]
    monkeypatch.setattr(lanecursor.random, "randrange", lambda stop: stop - 1)
    cursor = LaneCursor(str(lane))
    starts = []
    for _ in range(6):  # each loss doubles the window
        starts.append(names.index(cursor.next()[1]))
        cursor.lost()
    assert starts == [0, 1, 3, 7, 15, 31]
    got = drain(cursor)
    assert got[0] == names[63]
    assert sorted(got) == names


def test_a_race_lost_now_and_then_costs_at_most_one_place(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    names = [put(lane, n) for n in range(50)]
    cursor = LaneCursor(str(lane))
    clock = iter(range(1000))
    monkeypatch.setattr(lanecursor.time, "monotonic", lambda: float(next(clock)))
    for _ in range(10):
        assert cursor.next()[1] in names[:2]
        cursor.lost()


def test_who_stepped_aside_comes_back_to_the_head(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    names = [put(lane, n) for n in range(100)]
    settle(lane)
    monkeypatch.setattr(lanecursor.random, "randrange", lambda stop: stop - 1)
    cursor = LaneCursor(str(lane))
    for _ in range(5):
        cursor.next()
        cursor.lost()
    assert names.index(cursor.next()[1]) > 10
    now = lanecursor.time.monotonic()
    monkeypatch.setattr(lanecursor.time, "monotonic", lambda: now + 2)
    assert cursor.next()[1] == names[0]


def test_two_cursors_share_a_bucket_with_few_races(tmp_path):
    random.seed(3)
    lane = tmp_path / "lane"
    names = [put(lane, n) for n in range(900)]
    cursors = [LaneCursor(str(lane)) for _ in range(4)]
    got, lost = [], 0
    while True:
        turn = [(cursor, cursor.next()) for cursor in cursors]
        if all(candidate is None for _, candidate in turn):
            break
        for cursor, candidate in turn:
            if candidate is None:
                continue
            try:
                os.unlink(f"{candidate[0]}/{candidate[1]}")
                got.append(candidate[1])
            except FileNotFoundError:
                cursor.lost()
                lost += 1
    assert sorted(got) == names
    assert lost < len(names) / 4


@pytest.mark.parametrize("when", ["before the listing", "after the listing"])
def test_a_bucket_that_vanishes_under_the_scan(tmp_path, monkeypatch, when):
    lane = tmp_path / "lane"
    put(lane, 1, bucket="a")
    kept = put(lane, 2, bucket="b")
    gone = lane / bucket_name(5, "a")
    real = lanecursor.list_inside

    def vanish(path):
        if path == str(gone) and gone.exists():
            names = real(path)
            for name in names:
                (gone / name).unlink()
            gone.rmdir()
            return names if when == "after the listing" else real(path)
        return real(path)

    monkeypatch.setattr(lanecursor, "list_inside", vanish)
    cursor = LaneCursor(str(lane))
    seen = []
    while (candidate := cursor.next()) is not None:
        try:
            os.unlink(f"{candidate[0]}/{candidate[1]}")
            seen.append(candidate[1])
        except FileNotFoundError:
            cursor.lost()
    assert seen == [kept]


def test_a_lane_that_vanishes_and_comes_back(tmp_path):
    lane = tmp_path / "lane"
    put(lane, 1)
    cursor = LaneCursor(str(lane))
    assert len(drain(cursor)) == 1
    shutil.rmtree(lane)
    assert cursor.next() is None
    name = put(lane, 2)
    assert cursor.next()[1] == name


def test_one_more_listing_when_the_grain_has_passed_is_enough(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    for n in range(20):
        put(lane, n)
    listed = listings(monkeypatch)
    cursor = LaneCursor(str(lane))
    for age_ns, so_far in ((GRAIN_NS // 2, 1), (GRAIN_NS + 1, 2)):
        at(monkeypatch, os.stat(lane).st_mtime_ns + age_ns)
        for _ in range(10):
            assert cursor.next() is not None
        assert len(listed) == so_far


def test_an_empty_lane_that_just_changed_is_listed_at_each_look(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    (lane / "spare").mkdir(parents=True)
    stamp = os.stat(lane).st_mtime_ns
    at(monkeypatch, stamp)
    cursor = LaneCursor(str(lane))
    assert cursor.next() is None
    name = put(lane, 1)
    hide(lane, stamp)
    assert cursor.next()[1] == name


@pytest.mark.parametrize("foreign", [False, True])
def test_a_task_that_hides_behind_a_slow_listing_of_its_bucket_is_seen_by_the_next(tmp_path, monkeypatch, foreign):
    lane = tmp_path / "lane"
    bucket = lane / bucket_name(5, "a")
    bucket.mkdir(parents=True)
    if foreign:
        (bucket / "foreign").touch()
    cursor = LaneCursor(str(lane))
    hide_behind_listing(monkeypatch, str(bucket), lambda: put(lane, 1))
    assert cursor.next() is None
    assert cursor.next()[1] == task_file("t00001", 0)


def test_a_listing_that_failed_is_made_again(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    name = put(lane, 1)
    settle(lane)
    cursor = LaneCursor(str(lane))

    with monkeypatch.context() as patch:
        patch.setattr(lanecursor, "sorted_buckets", out_of_files)
        with pytest.raises(OSError, match="Too many"):
            cursor.next()
    assert cursor.next()[1] == name


@pytest.mark.parametrize("age_ns", [GRAIN_NS + 1, 3_600_000_000_000, -3_600_000_000_000])
def test_a_hidden_change_is_seen_when_the_grain_has_passed_and_when_the_clock_is_wrong(tmp_path, monkeypatch, age_ns):
    lane = tmp_path / "lane"
    (lane / "spare").mkdir(parents=True)
    first = put(lane, 1), put(lane, 2)
    stamp = os.stat(lane).st_mtime_ns
    at(monkeypatch, stamp + GRAIN_NS // 2)
    cursor = LaneCursor(str(lane))
    assert cursor.next()[1] == first[0]
    urgent = put(lane, 3, priority=9)
    hide(lane, stamp)
    at(monkeypatch, stamp + age_ns)
    assert cursor.next()[1] == urgent


def test_the_look_for_a_hidden_change_is_made_again_if_it_failed(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    (lane / "spare").mkdir(parents=True)
    put(lane, 1), put(lane, 2)
    stamp = os.stat(lane).st_mtime_ns
    at(monkeypatch, stamp)
    cursor = LaneCursor(str(lane))
    assert cursor.next() is not None
    urgent = put(lane, 3, priority=9)
    hide(lane, stamp)
    at(monkeypatch, stamp + GRAIN_NS + 1)
    with monkeypatch.context() as patch:
        patch.setattr(lanecursor, "sorted_buckets", out_of_files)
        with pytest.raises(OSError, match="Too many"):
            cursor.next()
    assert cursor.next()[1] == urgent


def test_after_a_bucket_was_removed_here_a_new_one_is_seen_at_once(tmp_path, monkeypatch):
    """Its removal and a new one leave as many links as were there before."""
    lane = tmp_path / "lane"
    (lane / bucket_name(9, "a")).mkdir(parents=True)
    put(lane, 1), put(lane, 2)
    stamp = os.stat(lane).st_mtime_ns
    at(monkeypatch, stamp)
    cursor = LaneCursor(str(lane))
    assert cursor.next() is not None
    assert not (lane / bucket_name(9, "a")).exists()
    urgent = put(lane, 3, priority=8)
    os.utime(lane, ns=(stamp, stamp))
    assert cursor.next()[1] == urgent


def test_a_spared_listing_never_hides_the_last_task(tmp_path, monkeypatch):
    lane = tmp_path / "lane"
    (lane / "spare").mkdir(parents=True)
    put(lane, 1)
    (lane / bucket_name(5, "a") / "foreign").touch()
    stamp = os.stat(lane).st_mtime_ns
    at(monkeypatch, stamp)
    cursor = LaneCursor(str(lane))
    assert cursor.next() is not None
    cursor._names = ["foreign"]
    (lane / bucket_name(5, "a") / task_file("t00001", 0)).unlink()
    name = put(lane, 2, bucket="b")
    hide(lane, stamp)
    assert cursor.next()[1] == name


@pytest.mark.parametrize("left", [0, 1])
def test_a_lane_that_another_one_replaced(tmp_path, left):
    """The lane is kept open while names of it are left, and no longer."""
    lane = tmp_path / "lane"
    names = [put(lane, n) for n in range(1 + left)]
    settle(lane)
    cursor = LaneCursor(str(lane))
    assert cursor.next()[1] == names[0]
    lane.rename(tmp_path / "aside")
    name = put(lane, 9, bucket="z")
    if left:
        assert cursor.next()[1] == names[1]
        cursor.lost()
    assert cursor.next()[1] == name


def test_a_lane_is_held_open_once_and_let_go(tmp_path):
    lane = tmp_path / "lane"
    for n in range(50):
        put(lane, n)
    before = set(os.listdir("/proc/self/fd"))
    cursor = LaneCursor(str(lane))
    for _ in range(20):
        cursor.next()
        cursor.lost()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del cursor
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_lane_that_is_a_file_shows_nothing(tmp_path):
    (tmp_path / "lane").touch()
    assert LaneCursor(str(tmp_path / "lane")).next() is None
