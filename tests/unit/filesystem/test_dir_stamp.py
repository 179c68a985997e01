"""Whether a directory holds anything: true at once when asked at leisure, cheap when asked all the time."""

import errno
import os
import time

import pytest

from swarm.filesystem import entries as occupied
from swarm.filesystem.entries import GRAIN_NS, Occupied
from tests.helpers.slowlisting import go_by_modification_time, hide_behind_listing


@pytest.fixture(autouse=True)
def times_can_be_set(monkeypatch):
    go_by_modification_time(monkeypatch)


class Clock:
    """Stands still between the steps of a test."""

    def __init__(self, monkeypatch):
        self.now_s = 100.0
        monkeypatch.setattr(occupied.time, "monotonic", lambda: self.now_s)

    def step(self, seconds=1.0):
        self.now_s += seconds


def test_what_comes_and_goes_is_seen(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch), Occupied(str(tmp_path / "folder"))
    assert not folder.any(), "it is not there"
    for _ in range(3):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a").touch()
        clock.step()
        assert folder.any()
        (tmp_path / "folder" / "a").unlink()
        clock.step()
        assert not folder.any()
        (tmp_path / "folder").rmdir()
        clock.step()
        assert not folder.any()


def test_it_does_not_look_twice_within_half_a_millisecond(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch), Occupied(str(tmp_path))
    assert not folder.any()
    (tmp_path / "a").touch()
    clock.step(0.0004)
    assert not folder.any()
    clock.step(0.0002)
    assert folder.any()


def test_an_old_answer_costs_no_listing_and_a_young_one_is_looked_up_again(tmp_path, monkeypatch):
    clock, folder, listed = Clock(monkeypatch), Occupied(str(tmp_path)), []
    real = os.scandir
    monkeypatch.setattr(occupied.os, "scandir", lambda path: listed.append(path) or real(path))
    (tmp_path / "a").touch()
    now_ns = time.time_ns()
    monkeypatch.setattr(occupied.time, "time_ns", lambda: now_ns)
    for age_ns, listings in ((0, 3), (GRAIN_NS * 2, 1)):
        os.utime(tmp_path, ns=(1, now_ns - age_ns))
        listed.clear()
        for _ in range(3):
            clock.step()
            assert folder.any()
        assert len(listed) == listings


def test_what_hides_behind_a_slow_listing_is_seen_by_the_next(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch), Occupied(str(tmp_path))
    hide_behind_listing(monkeypatch, str(tmp_path), (tmp_path / "a").touch)
    assert not folder.any()
    clock.step()
    assert folder.any()


def test_what_cannot_be_told_counts_as_occupied_until_it_can(tmp_path, monkeypatch):
    clock, folder = Clock(monkeypatch), Occupied(str(tmp_path))
    os.utime(tmp_path, ns=(1, time.time_ns() - GRAIN_NS * 2))
    assert not folder.any()
    for name in ("lstat", "scandir"):
        os.utime(tmp_path, ns=(1, time.time_ns() - GRAIN_NS * 2))
        with monkeypatch.context() as patch:
            patch.setattr(occupied.os, name, refuse)
            clock.step()
            assert folder.any()
        clock.step()
        assert not folder.any()


def refuse(_path):
    raise OSError(errno.EMFILE, "Too many open files")
