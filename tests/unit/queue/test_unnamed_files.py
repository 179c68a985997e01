"""Files without a name until they are whole: what a reader, a death in between and an odd file system see of them."""

import errno
import os
import stat

import pytest

from swarm.errors import StorageFault
from swarm.queue import pending
from swarm.queue.storage import Storage
from swarm.queue.submit import producer
from swarm.queue.submit.producer import appear
from tests.helpers.forked import forked
from tests.helpers.queues import llm, open_queue, whereabouts


def files(folder):
    return sorted(f"{where}/{name}" for where, _, names in os.walk(folder) for name in names)


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_a_file_is_whole_and_private_when_it_has_a_name(tmp_path, durability):
    path = tmp_path / "a.json"
    assert appear(Storage(durability, str(tmp_path)), str(tmp_path), str(path), b"whole")
    status = path.stat()
    assert (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_nlink) == (b"whole", 0o600, 1)


def test_nothing_is_ever_overwritten(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"first")
    assert not appear(Storage("full", str(tmp_path)), str(tmp_path), str(path), b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_a_directory_that_went_meanwhile_is_made_again(tmp_path, durability):
    path = tmp_path / "gone" / "too" / "a.json"
    assert appear(Storage(durability, str(tmp_path)), str(tmp_path), str(path), b"whole")
    assert path.read_bytes() == b"whole"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("call", ["write_all", "os.link"])
def test_who_dies_before_the_name_leaves_nothing(tmp_path, monkeypatch, call):
    queue = open_queue(tmp_path)
    before = files(queue.layout.root)

    def die() -> None:
        holder, _, name = f"producer.{call}".rpartition(".")
        monkeypatch.setattr(producer if holder == "producer" else os, name, lambda *_, **__: os._exit(7))
        queue.enqueue(llm())

    assert forked(die) == 7
    assert files(queue.layout.root) == before


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_where_there_are_no_such_files_a_task_comes_in_the_longer_way(tmp_path, monkeypatch, code):
    queue, real = open_queue(tmp_path), os.open

    def refuse(path, flags, *rest, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code), path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    accepted = [queue.enqueue(llm()), queue.enqueue(llm())]
    assert sorted(whereabouts(queue)) == accepted
    assert os.listdir(queue.layout.staging) == []


def test_a_bucket_that_went_away_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pending, "AGAIN_S", 3600.0)  # as if it went after the last look
    queue = open_queue(tmp_path)
    queue.enqueue(llm())
    (path,) = files(queue.layout.pending)
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    task_id = queue.enqueue(llm())
    assert files(queue.layout.pending) == [f"{os.path.dirname(path)}/{task_id}.0.json"]


def test_a_name_that_could_not_be_flushed_is_no_acceptance(tmp_path, monkeypatch):
    queue = open_queue(tmp_path, "full")
    queue.enqueue(llm())

    real = queue.storage.flush

    def refuse(*targets):
        if len(targets) == 2:  # the directory and the file
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(*targets)

    monkeypatch.setattr(queue.storage, "flush", refuse)
    with pytest.raises(StorageFault, match="not accepted"):
        queue.enqueue(llm())
