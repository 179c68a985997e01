"""A queue root is refused where somebody else could put another tree in its place; so is one that others may write to."""

import os

import pytest

from swarm.errors import QueueError
from swarm.queue.file_queue import FileQueue

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories to others")


def prepare(path):
    return FileQueue(str(path), "fast").prepare()


def refusal(path):
    with pytest.raises(QueueError) as told:
        prepare(path)
    return told.value.message, told.value.hint or ""


@pytest.fixture
def above(tmp_path):
    """Two directories that are ours alone."""
    folder = tmp_path / "above" / "deeper"
    folder.mkdir(parents=True, mode=0o755)
    return folder


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o733])
@pytest.mark.parametrize("there", [True, False], ids=["root is there", "root is new"])
def test_a_directory_anywhere_above_that_everybody_may_write_to(above, mode, there):
    root = above / "queue"
    if there:
        prepare(root)
    above.parent.chmod(mode)
    message, hint = refusal(root)
    assert f"{above.parent} can be written to by everybody" in message
    assert str(root) in message
    assert f"chmod go-w {above.parent}" in hint
    assert root.exists() == there
    above.parent.chmod(0o755)
    prepare(root)


def test_a_sticky_one_is_no_danger(above):
    above.chmod(0o1777)
    prepare(above / "queue")


@root_only
def test_a_directory_of_somebody_else(above):
    os.chown(above, 65534, 65534)
    message, hint = refusal(above / "queue")
    assert f"{above} belongs to" in message
    assert "--root" in hint
    assert "chown" not in hint


@root_only
def test_a_sticky_directory_of_somebody_else_is_theirs_all_the_same(above):
    above.chmod(0o1777)
    os.chown(above, 65534, 65534)
    assert f"{above} belongs to" in refusal(above / "queue")[0]


@root_only
def test_a_group_of_others_may_not_write_above(above):
    os.chown(above, 0, 65534)
    above.chmod(0o775)
    assert f"{above} can be written to by the group" in refusal(above / "queue")[0]


def test_a_link_is_followed_and_what_it_leads_through_counts(above, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(above)
    prepare(link / "queue")
    prepare(link)
    above.parent.chmod(0o777)
    assert f"{above.parent} can be written to" in refusal(link / "queue")[0]
    assert f"{above.parent} can be written to" in refusal(link)[0]


def test_a_link_that_others_could_turn_elsewhere(above, tmp_path):
    door = tmp_path / "door"
    door.mkdir()
    (door / "link").symlink_to(above)
    door.chmod(0o777)
    assert f"{door} can be written to" in refusal(door / "link" / "queue")[0]


def test_the_root_itself(tmp_path):
    root = tmp_path / "queue"
    root.mkdir()
    for mode in (0o777, 0o775, 0o1777):
        root.chmod(mode)
        assert str(root) in refusal(root)[0]
    (tmp_path / "file").write_text("")
    with pytest.raises((QueueError, OSError)):
        prepare(tmp_path / "file")


def test_whatever_the_umask_what_is_made_above_is_nobody_elses_to_write_to(tmp_path):
    before = os.umask(0)
    try:
        prepare(tmp_path / "a" / "b" / "queue")
    finally:
        os.umask(before)
    modes = [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("a", "a/b", "a/b/queue", "a/b/queue/pending")]
    assert modes == ["0o755", "0o755", "0o700", "0o700"]
    prepare(tmp_path / "a" / "b" / "queue")
