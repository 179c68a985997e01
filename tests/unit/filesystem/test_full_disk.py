"""File systems that cannot flush a directory, a file, or anything: what is done instead, and when that is refused."""

import errno
import os

import pytest

from swarm.errors import StorageFault
from swarm.filesystem import durable as disk
from swarm.filesystem.durable import CannotFlush, SharedFlush, sync_folder, sync_tree
from swarm.formats.output.writer import replacing
from swarm.queue.storage import Storage, storage_faults
from tests.helpers.oddhost import NO_SUCH_CALL, lacks


@pytest.fixture
def synced(monkeypatch):
    """Every whole file system that was flushed."""
    calls = []
    monkeypatch.setattr(disk, "sync_file_system", calls.append)
    return calls


@pytest.mark.parametrize("code", NO_SUCH_CALL)
def test_a_directory_that_cannot_be_flushed_by_itself_is_flushed_with_its_file_system(tmp_path, monkeypatch, synced, code):
    refused = lacks(monkeypatch, fsync_folder=code)
    Storage("full", str(tmp_path)).flush(str(tmp_path))
    assert (refused, len(synced)) == (["fsync_folder"], 1)


@pytest.mark.parametrize("code", NO_SUCH_CALL)
def test_a_file_likewise(tmp_path, monkeypatch, synced, code):
    lacks(monkeypatch, fsync=code)
    Storage("full", str(tmp_path)).write_new(str(tmp_path / "a"), b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(synced) == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_in_trouble_is_no_file_system_without_the_call(tmp_path, monkeypatch, synced, code):
    lacks(monkeypatch, fsync_folder=code)
    with pytest.raises(OSError, match=os.strerror(code)) as told:
        sync_folder(str(tmp_path))
    assert (told.value.errno, synced) == (code, [])


def test_where_nothing_can_be_flushed_it_is_said_and_nothing_is_taken_for_durable(tmp_path, monkeypatch):
    lacks(monkeypatch, fsync_folder=errno.EINVAL, syncfs=errno.ENOSYS)
    with pytest.raises(CannotFlush, match="neither be flushed by itself nor with its file system"):
        sync_folder(str(tmp_path))
    with pytest.raises(StorageFault) as told, storage_faults("the task was not accepted"):
        Storage("full", str(tmp_path)).make_dir(str(tmp_path / "new"))
    assert "swarm doctor" in (told.value.hint or "")


def test_a_trouble_of_the_whole_file_system_is_told_as_it_is(tmp_path, monkeypatch):
    lacks(monkeypatch, fsync_folder=errno.EINVAL, syncfs=errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as told:
        sync_folder(str(tmp_path))
    assert told.value.errno == errno.EIO


def test_without_a_flush_of_all_each_file_and_folder_of_a_bulk_is_flushed(tmp_path, monkeypatch):
    (tmp_path / "lane" / "bucket").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "lane" / "bucket" / name).write_text(name)
    lacks(monkeypatch, syncfs=errno.EPERM)
    seen, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    sync_tree(str(tmp_path))
    inside = ("", "/lane", "/lane/bucket", "/lane/bucket/a", "/lane/bucket/b")
    assert sorted(seen) == sorted(f"{tmp_path}{name}" for name in inside)


@pytest.mark.parametrize("code", NO_SUCH_CALL)
def test_shared_flushes_do_without_a_flush_of_all_and_try_it_once(tmp_path, code):
    tried = []

    def everything(fd):
        tried.append(fd)
        raise OSError(code, os.strerror(code))

    flush = SharedFlush(everything, str(tmp_path))
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    for _ in range(20):
        flush.flush(*map(str, folders))
    assert len(tried) == 1


def test_an_output_is_whole_where_nothing_can_be_flushed(tmp_path, monkeypatch):
    lacks(monkeypatch, fsync=errno.ENOSYS, syncfs=errno.ENOSYS)
    with replacing(str(tmp_path / "out.jsonl")) as stream:
        stream.write(b"{}\n")
    assert (tmp_path / "out.jsonl").read_bytes() == b"{}\n"
    assert os.listdir(tmp_path) == ["out.jsonl"]
