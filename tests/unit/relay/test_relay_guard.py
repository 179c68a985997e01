"""When the guard of a killed relay ends what it left, and when it leaves that to the next relay."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from types import SimpleNamespace

import pytest

from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER
from swarm.queue.coordination import ProcessLock
from swarm.queue.layout import Layout
from swarm.relay import relay_guard
from tests.helpers.wait import wait_until

CARD = "gpu0"


@pytest.fixture
def left(tmp_path, monkeypatch):
    """A model server of a relay that is dead."""
    (tmp_path / "workers").mkdir()
    monkeypatch.setattr(relay_guard, "TAKE_OVER_S", 0.6)
    monkeypatch.setattr(relay_guard, "_POLL_S", 0.05)
    monkeypatch.setattr(relay_guard, "_GRACE_S", 60.0)
    monkeypatch.setattr(relay_guard.os, "read", lambda _fd, _size: b"")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    server = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, ROOT_MARKER: str(tmp_path), SERVER_MARKER: CARD},
    )
    wait_until(lambda: relay_guard._running(str(tmp_path)) == {CARD}, what="its marker")
    yield str(tmp_path), server
    server.kill()
    server.wait()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_lock_that_is_free_a_moment_after_the_pipe_is_a_dying_relay_though_the_guard_stood_still_meanwhile(
    left, monkeypatch
):
    root, server = left
    lock = ProcessLock(Layout(root), CARD)
    lock.acquire(0.0)
    reaped = threading.Thread(target=server.wait)
    reaped.start()
    pauses = count()

    def pause(seconds):
        number = next(pauses)
        if number == 2:
            lock.release()
        time.sleep(seconds if number else 2 * relay_guard.TAKE_OVER_S)

    monkeypatch.setattr(relay_guard, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    assert relay_guard.main([root, CARD]) == 0
    reaped.join(60)
    assert server.returncode == -signal.SIGTERM


def test_a_lock_that_stays_held_is_the_next_relay(left):
    root, server = left
    lock = ProcessLock(Layout(root), CARD)
    lock.acquire(0.0)
    assert relay_guard.main([root, CARD]) == 0
    assert server.poll() is None
    lock.release()
