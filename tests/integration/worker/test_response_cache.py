"""The cache's files: bounded, oldest use first out, harmless when damaged."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarm.queue.layout import Layout
from swarm.worker.executors.response_cache import SHARDS, ResponseFiles

SHARE = 1000


@pytest.fixture
def answers(tmp_path):
    return ResponseFiles(Layout(str(tmp_path)), max_bytes=SHARE * SHARDS)


def key(number: int) -> str:
    return f"ab{number:062d}"


def test_what_was_put_is_found(answers):
    assert answers.get(key(1)) is None
    assert answers.put(key(1), b"one")
    assert answers.get(key(1)) == b"one"
    assert answers.put(key(1), b"uno")
    assert answers.get(key(1)) == b"uno"


def test_it_never_takes_more_and_what_was_used_last_stays(answers, tmp_path):
    for number in range(10):
        answers.put(key(number), b"x" * 100)
        os.utime(tmp_path / "cache/ab" / f"{key(number)[2:]}.json", ns=(number, number))
    answers.get(key(0))
    answers.put(key(10), b"x" * 200)
    assert answers.get(key(0))
    assert answers.get(key(10))
    assert [n for n in range(10) if answers.get(key(n)) is None] == [1, 2]
    assert sum(f.stat().st_size for f in (tmp_path / "cache/ab").iterdir()) <= SHARE


def test_what_would_crowd_out_the_rest_is_not_kept(answers):
    assert not answers.put(key(1), b"x" * (SHARE // 4 + 1))
    assert answers.get(key(1)) is None


def test_links_are_not_followed(answers, tmp_path):
    answers.put(key(1), b"one")
    path = tmp_path / "cache/ab" / f"{key(1)[2:]}.json"
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert answers.get(key(1)) is None
    answers.put(key(1), b"two")
    assert answers.get(key(1)) == b"two"


def test_what_another_process_is_writing_is_not_removed(answers, tmp_path):
    answers.put(key(1), b"x" * 200)
    half = tmp_path / "cache/ab/.half.json.1.1.new"
    half.write_bytes(b"x" * 100)
    os.utime(half, ns=(1, 1))
    for number in range(10):
        answers.put(key(number), b"x" * 200)
    assert half.exists()


def test_many_may_put_the_same_at_once(answers, tmp_path):
    other = ResponseFiles(Layout(str(tmp_path)), max_bytes=SHARE * SHARDS)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: (answers, other)[n % 2].put(key(n % 12), b"x" * 150), range(200)))
    assert all(done)
    assert sum(f.stat().st_size for f in (tmp_path / "cache/ab").iterdir()) <= SHARE
