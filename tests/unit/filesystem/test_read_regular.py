"""Reading a file that anybody may have put there: whole, in one piece, and never hanging."""

import os

import pytest

from swarm.errors import OddEntry
from swarm.filesystem.entries import read_file
from swarm.queue import storage

LIMIT = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 65537, LIMIT])
def test_a_file_is_read_whole(tmp_path, size):
    path = tmp_path / "a"
    path.write_bytes(os.urandom(size))
    assert read_file(str(path), LIMIT) == path.read_bytes()


@pytest.mark.parametrize(("size", "short_by"), [(1000, 1), (1000, 999), (200_000, 70_000)])
def test_a_file_that_grows_or_comes_in_pieces_is_read_whole(tmp_path, monkeypatch, size, short_by):
    path = tmp_path / "a"
    path.write_bytes(os.urandom(size))
    real = os.pread
    monkeypatch.setattr(storage.os, "pread", lambda fd, length, at: real(fd, length - short_by, at))
    assert read_file(str(path), LIMIT) == path.read_bytes()


def test_what_is_too_large_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="has 11 bytes; 10 are allowed"):
        read_file(str(tmp_path / "a"), 10)


@pytest.mark.parametrize(("kind", "words"), [("folder", "directory"), ("fifo", "FIFO"), ("device", "device")])
def test_what_is_no_file_is_told_and_nobody_waits_for_it(tmp_path, kind, words):
    path = tmp_path / "a"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path = "/dev/zero"
    with pytest.raises(OddEntry, match=f"is a {words}"):
        read_file(str(path), LIMIT)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="is a symbolic link"):
        read_file(str(tmp_path / "link"), LIMIT)
