"""Following logs through appends, rotation, truncation and new files."""

from __future__ import annotations

import logging
import os
import random

import pytest

from swarm.runtime.logging import FileHandler
from swarm.views.logs.follow import Follower
from tests.unit.views.logs.test_log_files import stamp, texts


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def follow():
    opened = []

    def starter(folder, *names):
        opened.append(Follower(str(folder), names))
        return opened[-1]

    yield starter
    for one in opened:
        one.close()


def add(folder, name: str, *lines: str) -> None:
    with open(folder / name, "a") as file:
        file.write("".join(line + "\n" for line in lines))


def test_only_what_is_new_is_shown_and_new_files_from_their_start(folder, follow):
    add(folder, "a.log", stamp(1, text="old"))
    follower = follow(folder)
    assert follower.poll() == []
    add(folder, "a.log", stamp(3, text="three"))
    add(folder, "b.log", stamp(2, text="two"))
    assert texts(follower.poll()) == ["two", "three"]
    assert follower.poll() == []


def test_half_a_line_waits_for_its_end(folder, follow):
    follower = follow(folder)
    with open(folder / "a.log", "a") as file:
        file.write(stamp(1, text="whole")[:30])
        file.flush()
        assert follower.poll() == []
        file.write(stamp(1, text="whole")[30:] + "\n")
    assert texts(follower.poll()) == ["whole"]


def test_only_the_named_logs(folder, follow):
    follower = follow(folder, "a")
    add(folder, "a.log", stamp(1, text="mine"))
    add(folder, "b.log", stamp(1, text="other"))
    assert texts(follower.poll()) == ["mine"]


def test_truncated_and_removed_files_are_read_anew(folder, follow):
    add(folder, "a.log", stamp(1, text="old"), stamp(1, text="old"))
    follower = follow(folder)
    (folder / "a.log").write_text(stamp(2, text="two") + "\n")
    assert texts(follower.poll()) == ["two"]
    os.unlink(folder / "a.log")
    assert follower.poll() == []
    add(folder, "a.log", stamp(3, text="three"))
    assert texts(follower.poll()) == ["three"]


def test_no_line_is_lost_or_doubled_through_many_rotations_between_two_looks(folder, follow):
    follower = follow(folder)
    handler = FileHandler("a", folder / "a.log", max_bytes=400, keep=50)
    chance = random.Random(7)
    seen: list[str] = []
    for number in range(500):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, f"n {number}", None, None))
        if chance.random() < 0.05:
            seen += texts(follower.poll())
    seen += texts(follower.poll())
    assert seen == [str(n) for n in range(500)]
    assert (folder / "a.log.9").exists()
    handler.close()


def test_a_missing_folder_is_waited_for(tmp_path, follow):
    follower = follow(tmp_path / "logs")
    assert follower.poll() == []
    (tmp_path / "logs").mkdir()
    add(tmp_path / "logs", "a.log", stamp(1, text="one"))
    assert texts(follower.poll()) == ["one"]
