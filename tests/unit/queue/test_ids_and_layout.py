"""Ids sort by time and survive a clock that steps back; file names take apart to what they were made of."""

import re
import time
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.task import ID_PATTERN, ID_RE, TaskState
from swarm.queue.layout import (
    GROUP_MARK,
    IdMaker,
    Layout,
    bucket_name,
    bucket_priority,
    group_of,
    made_here,
    new_id,
    parse_task_file,
    shard_of,
    shard_time_of,
    task_file,
    time_of,
)
from tests.helpers.forked import forked

IDS = st.from_regex(re.compile(ID_PATTERN.replace("$", r"\Z")))


def test_ids_rise_and_tell_their_time():
    maker, began_s = IdMaker(), time.time()
    ids = [maker.new() for _ in range(50_000)]
    assert ids == sorted(set(ids))
    assert all(made_here(i) and ID_RE.match(i) for i in ids)
    assert began_s - 1 < time_of(ids[0]) < time.time() + 1


def test_no_time_is_read_from_the_ids_of_others_that_look_like_ours():
    for theirs in ("20260207210550123", "20261231235959999"):
        assert time_of(theirs) is None
        assert shard_time_of(shard_of(theirs)) is None


def test_the_shard_of_an_id_stays_when_the_clock_steps_back_by_years():
    made = IdMaker().new()
    shard = shard_of(made)
    with mock.patch("swarm.queue.layout.time.time", return_value=1e9):
        assert shard_of(made) == shard
        assert time_of(made) is None


def test_ids_rise_when_the_clock_steps_back():
    maker = IdMaker()
    first = maker.new()
    with mock.patch("swarm.queue.layout.time.time_ns", return_value=time.time_ns() - 7_200_000_000_000):
        assert maker.new() > first


def test_two_makers_do_not_collide():
    a, b = IdMaker(), IdMaker()
    ids = {m.new() for _ in range(5000) for m in (a, b)}
    assert len(ids) == 10_000


def test_ids_of_a_group_rise_with_all_others_and_end_alike_in_each_maker_differently():
    a, b = IdMaker(), IdMaker()
    with mock.patch("swarm.queue.layout.time.time_ns", return_value=time.time_ns()):
        ids = [a.new(group) for group in (None, 7, 8, 7, None)]
        theirs = [b.new(group) for group in (None, 7, 8, 7, None)]
    assert ids == sorted(ids)
    assert not set(ids) & set(theirs)
    marks = [group_of(task_id) for task_id in ids]
    assert marks[0] == marks[4] == ""
    assert marks[1] == marks[3] == ids[1][GROUP_MARK] != marks[2]
    assert group_of(task_file(ids[1], 3)) == marks[1]
    assert all(made_here(task_id) and time_of(task_id) == time_of(ids[0]) for task_id in ids)
    assert [group_of(name) for name in (f"{ids[1]}-3", "", "byhand.0.json", f"x{ids[1]}")] == [""] * 4


def test_a_forked_child_makes_other_ids(tmp_path):
    out = tmp_path / "ids"
    with mock.patch("swarm.queue.layout.time.time_ns", return_value=time.time_ns()):
        before = new_id()
        assert forked(lambda: out.write_text(" ".join(new_id() for _ in range(100)))) == 0
        ids = [new_id() for _ in range(100)]
    theirs = out.read_text().split()
    assert theirs == sorted(set(theirs))
    assert theirs[0] > before
    assert not set(theirs) & set(ids)


@given(IDS, st.integers(0, 999_999))
def test_task_file_names_round_trip(task_id, attempt):
    assert parse_task_file(task_file(task_id, attempt)) == (task_id, attempt)


@given(st.text(max_size=40))
def test_foreign_names_are_no_task_files(name):
    parsed = parse_task_file(name)
    assert parsed is None or task_file(*parsed) == name or name.split(".")[1].startswith("0")


def test_buckets_sort_by_priority_then_time():
    maker = IdMaker()
    early, late = maker.new(), maker.new()
    names = [bucket_name(5, late), bucket_name(9, late), bucket_name(5, early), bucket_name(0, early)]
    assert sorted(names) == [
        bucket_name(9, late),
        bucket_name(5, early),
        bucket_name(5, late),
        bucket_name(0, early),
    ]
    assert [bucket_priority(n) for n in sorted(names)] == [9, 5, 5, 0]
    assert bucket_priority("lost+found") is None


@given(IDS)
def test_a_shard_depends_on_the_id_alone(task_id):
    assert shard_of(task_id) == shard_of(task_id)
    assert "/" not in shard_of(task_id)
    path = Layout("/q").terminal(TaskState.COMPLETED, task_id)
    assert path == f"/q/completed/{shard_of(task_id)}/{task_id}.json"
