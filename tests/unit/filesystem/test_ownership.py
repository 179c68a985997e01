"""Who else could change a file: owners, modes, groups, lists, links, and every directory on the way."""

from __future__ import annotations

import grp
import os
import pwd
from types import SimpleNamespace

import pytest

from swarm.filesystem import ownership
from swarm.filesystem.ownership import is_private_group, opened

ME = os.geteuid()
as_root = pytest.mark.skipif(ME != 0, reason="only root may give files away")
STRANGER = 54321


def doubts(path, uid=None):
    with opened(str(path), uid) as (fd, found):
        assert os.read(fd, 100) == b"x = 1\n"
    return [doubt.path for doubt in found], " ".join(str(doubt) for doubt in found)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "config").mkdir(mode=0o755)
    path = tmp_path / "config" / "swarm.toml"
    path.write_text("x = 1\n")
    path.chmod(0o644)
    return path


@pytest.fixture
def no_private_group(monkeypatch):
    monkeypatch.setattr(ownership, "is_private_group", lambda gid, uid: False)


def test_my_own_file_that_only_i_may_write_is_beyond_doubt(file):
    assert doubts(file) == ([], "")


def test_everybody_may_write(file):
    file.chmod(0o666)
    assert doubts(file) == ([str(file)], f"{file} can be written to by everybody")


def test_a_group_may_write(file, no_private_group):
    file.chmod(0o664)
    where, what = doubts(file)
    assert where == [str(file)]
    assert "can be written to by the group" in what
    file.chmod(0o644)
    file.parent.chmod(0o775)
    assert doubts(file)[0] == [str(file.parent)]


@pytest.mark.parametrize("above", [0, 1])
def test_a_directory_above_that_others_may_write_to(file, above):
    folder = file.parents[above]
    folder.chmod(0o777)
    assert doubts(file)[0] == [str(folder)]
    folder.chmod(0o1777)
    assert doubts(file)[0] == [], "nobody can rename there what is mine"


@pytest.mark.skipif(ME == 0, reason="root is trusted by everybody")
def test_somebody_elses_file(file):
    where, what = doubts(file, uid=ME + 1)
    assert str(file) in where
    assert "belongs to" in what


@as_root
def test_a_file_a_directory_or_a_link_of_somebody_else(file, tmp_path):
    os.chown(file, STRANGER, STRANGER)
    assert doubts(file)[1] == f"{file} belongs to {STRANGER}"
    os.chown(file, 0, 0)
    os.chown(file.parent, STRANGER, 0)
    assert doubts(file)[0] == [str(file.parent)]
    os.chown(file.parent, 0, 0)
    link = tmp_path / "link.toml"
    link.symlink_to("config/swarm.toml")
    assert doubts(link)[0] == []
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    assert doubts(link)[0] == [str(link)], "it may point elsewhere tomorrow"


@as_root
def test_roots_file_is_obeyed_by_everybody(file):
    assert not [path for path in doubts(file, uid=STRANGER)[0] if path == str(file)]


def test_links_are_followed_and_where_they_lead_is_looked_at(file, tmp_path):
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    (open_folder / "real.toml").write_text("x = 1\n")
    open_folder.chmod(0o777)
    file.unlink()
    file.symlink_to("../open/real.toml")
    assert doubts(file)[0] == [str(open_folder)]
    (tmp_path / "way").symlink_to(tmp_path / "open")
    assert doubts(tmp_path / "way" / "real.toml")[0] == [str(open_folder)]
    assert doubts(tmp_path / "config" / ".." / "way" / "real.toml")[0] == [str(open_folder)]


def test_what_cannot_be_read_is_an_error_of_the_file(file, tmp_path):
    file.unlink()
    file.symlink_to("swarm.toml")
    os.mkfifo(tmp_path / "fifo")
    for path, kind in (
        (file, OSError),
        (tmp_path / "none", FileNotFoundError),
        (tmp_path, IsADirectoryError),
        (tmp_path / "fifo", OSError),
        (tmp_path / "fifo" / "x", NotADirectoryError),
        ("/dev/null", OSError),
        ("a\0b", ValueError),
        ("x/" * 5000, OSError),
    ):
        with pytest.raises(kind), opened(str(path)):
            pass


def test_no_descriptor_stays_open(file):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        doubts(file)
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_may_write_by_a_list_than_the_mode_tells(file, monkeypatch):
    monkeypatch.setattr(ownership, "is_private_group", lambda gid, uid: True)
    file.chmod(0o664)
    assert doubts(file)[0] == []
    named = STRANGER.to_bytes(4, "little")
    nobody = b"\xff\xff\xff\xff"
    rights = ((1, 6, nobody), (2, 6, named), (4, 4, nobody), (16, 6, nobody), (32, 4, nobody))
    entry = b"\x02\0\0\0" + b"".join(bytes((tag, 0, right, 0)) + who for tag, right, who in rights)
    try:
        os.setxattr(file, "system.posix_acl_access", entry)
    except OSError:
        pytest.skip("no access control lists on this file system")
    assert "access control list" in doubts(file)[1]


def accounts(monkeypatch, *, name="me", group="me", members=(), others=()):
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name=name))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=group, gr_mem=list(members)))
    every = [SimpleNamespace(pw_name=name, pw_uid=1000, pw_gid=1000), *others]
    monkeypatch.setattr(pwd, "getpwall", lambda: every)


@pytest.mark.parametrize(
    ("facts", "private"),
    [
        ({}, True),
        ({"members": ["me", "root"]}, True),
        ({"members": ["mallory"]}, False),
        ({"group": "users"}, False),
        ({"others": [SimpleNamespace(pw_name="mallory", pw_uid=1001, pw_gid=1000)]}, False),
        ({"others": [SimpleNamespace(pw_name="mallory", pw_uid=1001, pw_gid=1001)]}, True),
    ],
)
def test_a_group_of_ones_own(monkeypatch, facts, private):
    accounts(monkeypatch, **facts)
    assert is_private_group(1000, 1000) is private


def test_a_group_or_a_user_that_has_no_name_is_not_ones_own():
    assert not is_private_group(STRANGER, ME)
    assert not is_private_group(0, STRANGER)
