"""Deaths of real processes, rings on a real descriptor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from swarm.brain.brain import DeathWatch
from swarm.proc.identity import of_pid


@pytest.fixture
def sleeper():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield child
    child.kill()
    child.wait()


@pytest.fixture
def wakeup():
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def reaction_s(watch, act, **kw):
    """Seconds from ``act`` to the end of a wait that had begun before."""
    acted = []

    def later():
        acted.append(time.monotonic())
        act()

    timer = threading.Timer(0.05, later)
    timer.start()
    assert watch.wait(60.0, **kw)
    timer.join()
    return time.monotonic() - acted[0]


def test_a_death_ends_the_wait_at_once_and_is_news_once(sleeper):
    watch = DeathWatch()
    identity = of_pid(sleeper.pid)
    watch.watch({"worker-1": identity})
    assert watch.wait(0.01) is False
    assert reaction_s(watch, sleeper.kill, wakeup=False) < 30
    watch.watch({"worker-1": identity})
    assert watch.wait(0.01) is False, "still listed, yet no news"
    watch.close()


def test_one_that_is_dead_already_is_news_once(sleeper):
    identity = of_pid(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    watch = DeathWatch()
    for expected in (True, False):
        watch.watch({"worker-1": identity})
        assert watch.wait(0.0) is expected


def test_a_recycled_number_is_not_the_process(sleeper):
    other = msgspec.structs.replace(of_pid(sleeper.pid), start_ticks=1)
    watch = DeathWatch()
    watch.watch({"worker-1": other})
    assert watch.wait(0.0), "the process meant is gone, whoever has its number now"


def test_a_new_life_under_the_same_name_is_watched(sleeper):
    watch = DeathWatch()
    watch.watch({"worker-1": msgspec.structs.replace(of_pid(sleeper.pid), start_ticks=1)})
    assert watch.wait(0.0)
    watch.watch({"worker-1": of_pid(sleeper.pid)})
    assert watch.wait(0.0) is False
    sleeper.kill()
    assert watch.wait(60.0)
    watch.close()


def test_rings_end_a_wait_unless_only_deaths_count(wakeup):
    watch = DeathWatch(wakeup_fds=[wakeup], drain=lambda: os.eventfd_read(wakeup))
    os.eventfd_write(wakeup, 1)
    assert watch.wait(0.01, wakeup=False) is False
    assert watch.wait(0.01) is True, "a wake that came meanwhile is not lost"
    assert watch.wait(0.01) is False, "drained"
    assert reaction_s(watch, lambda: os.eventfd_write(wakeup, 1)) < 30


def test_an_urgent_wake_ends_any_wait(wakeup):
    watch = DeathWatch(urgent_fd=wakeup, drain=lambda: os.eventfd_read(wakeup))
    assert reaction_s(watch, lambda: os.eventfd_write(wakeup, 1), wakeup=False) < 30


def test_no_descriptor_is_left_behind(sleeper):
    before = len(os.listdir("/proc/self/fd"))
    watch = DeathWatch()
    for _ in range(20):
        watch.watch({"a": of_pid(sleeper.pid), "b": of_pid(os.getpid())})
        watch.watch({"b": of_pid(os.getpid())})
    watch.close()
    assert len(os.listdir("/proc/self/fd")) == before
