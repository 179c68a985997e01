"""Moving without overwriting where the kernel has no call for it: by a link and the removal of the old name."""

import errno
import os

import pytest

from swarm.queue.storage import Storage
from tests.helpers.oddhost import NO_SUCH_CALL, lacks


@pytest.fixture(params=NO_SUCH_CALL, ids=lambda code: errno.errorcode[code])
def store(tmp_path, monkeypatch, request):
    lacks(monkeypatch, renameat2=request.param)
    return Storage("full", str(tmp_path))


def test_a_file_moves(tmp_path, store):
    (tmp_path / "a").write_text("task")
    store.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["b"]
    assert (tmp_path / "b").read_text() == "task"


def test_nothing_is_overwritten(tmp_path, store):
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    with pytest.raises(FileExistsError):
        store.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "new", "b": "old"}


def test_what_is_gone_is_not_moved(tmp_path, store):
    with pytest.raises(FileNotFoundError):
        store.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == []


def test_who_loses_it_to_another_in_between_leaves_no_second_one(tmp_path, store, monkeypatch):
    (tmp_path / "a").write_text("task")
    real = os.link

    def link_and_lose(*args, **more):
        real(*args, **more)
        os.rename(tmp_path / "a", tmp_path / "others")

    monkeypatch.setattr(os, "link", link_and_lose)
    with pytest.raises(FileNotFoundError):
        store.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["others"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_odd_entries_move_too(tmp_path, store, make):
    make(str(tmp_path / "a"))
    store.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["b"]


def test_an_odd_entry_overwrites_nothing(tmp_path, store):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(FileExistsError):
        store.move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_without_either_call_nothing_happens(tmp_path, monkeypatch):
    lacks(monkeypatch, renameat2=errno.EPERM, link=errno.EPERM)
    (tmp_path / "a").write_text("task")
    with pytest.raises(PermissionError):
        Storage("full", str(tmp_path)).move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["a"]


def test_a_real_trouble_is_told(tmp_path, monkeypatch):
    lacks(monkeypatch, renameat2=errno.ENOSPC)
    (tmp_path / "a").write_text("task")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        Storage("full", str(tmp_path)).move(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["a"]
