"""Values kept for a moment: made once for many, anew after it, never more than so many."""

import threading

import pytest

from swarm.http.page.remembered import COST_SHARE, MOST, Remembered


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_it_is_made_again_once_its_time_has_passed():
    clock, made = Clock(), []
    kept = Remembered(clock)

    def make():
        made.append(len(made))
        return made[-1]

    assert [kept.get(("a",), 2.0, make), kept.get(("a",), 2.0, make), kept.get(("b",), 2.0, make)] == [0, 0, 1]
    clock.now_s += 2.0
    assert kept.get(("a",), 2.0, make) == 2


def test_what_takes_long_is_kept_longer():
    clock = Clock()
    kept = Remembered(clock)

    def slow():
        clock.now_s += 3.0
        return clock.now_s

    first = kept.get(("a",), 1.0, slow)
    clock.now_s += 3.0 * COST_SHARE - 0.1
    assert kept.get(("a",), 1.0, slow) == first
    clock.now_s += 0.1
    assert kept.get(("a",), 1.0, slow) != first


def test_a_failure_is_raised_and_not_kept():
    kept = Remembered()
    with pytest.raises(ZeroDivisionError):
        kept.get(("a",), 60.0, lambda: 1 / 0)
    assert kept.get(("a",), 60.0, lambda: "well") == "well"


def test_those_who_ask_at_once_wait_for_one():
    kept, made, go, answers = Remembered(), [], threading.Event(), []

    def make():
        made.append(1)
        assert go.wait(60)
        return object()

    threads = [threading.Thread(target=lambda: answers.append(kept.get(("a",), 600.0, make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(60)
    assert len(made) == 1
    assert len(answers) == 8
    assert len(set(map(id, answers))) == 1


def test_it_is_bounded():
    kept = Remembered()
    for i in range(MOST + 10):
        kept.get((str(i),), 60.0, lambda: 1)
    assert len(kept._slots) == MOST
