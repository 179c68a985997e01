"""Restarts by request: without counting as failures, out of a wait or a quarantine, and none from an earlier life."""

from __future__ import annotations

import os
import signal
import threading

from swarm.queue.coordination import ProcessLock, is_held
from swarm.queue.layout import Layout
from swarm.supervisor import restarts
from swarm.supervisor.state import ChildState
from tests.helpers.wait import wait_until


def back(one, name: str, old: int) -> int:
    return wait_until(lambda: (found := one.running(name)[0]) != old and found, what=f"{name} is back")


def test_a_worker_and_a_server_are_restarted_as_asked(swarm, root):
    one = swarm(simulate=1).up()
    brain, server, worker = one.running("brain", "ollama-worker-1", "worker-1")
    restarts.request_restart(root, "worker-1")
    again = back(one, "worker-1", worker)
    assert one.lines("ends") == ["worker-1 1"], "it was asked once, and finished its work"
    restarts.request_restart(root, "ollama-worker-1")
    back(one, "ollama-worker-1", server)
    assert one.child("worker-1").pid == again, "its worker goes on"
    assert one.child("brain").pid == brain
    assert one.child("worker-1").restarts == one.child("ollama-worker-1").restarts == 1


def test_now_does_not_wait_for_a_busy_worker(swarm, root):
    one = swarm(mode="busy").up()
    before = one.running("w1")[0]
    restarts.request_restart(root, "w1")
    wait_until(lambda: one.child("w1").state is ChildState.STOPPING, what="it drains")
    restarts.request_restart(root, "w1", now=True)
    back(one, "w1", before)
    assert one.lines("ends") in (["w1 2"], ["w1 3"]), "drained, then stopped: by two signals, of which one may be enough"


def test_a_restart_that_is_under_way_does_not_outlive_the_end(swarm, root):
    one = swarm(mode="busy").up()
    one.running()
    restarts.request_restart(root, "w1")
    wait_until(lambda: one.child("w1").state is ChildState.STOPPING, what="it drains")
    one.supervisor.request_drain()
    (root / "done").touch()
    one.join()
    assert len([line for line in one.lines("lives") if line.startswith("w1 ")]) == 1


def test_wishes_for_nobody_and_of_an_earlier_life_do_nothing(swarm, root, caplog):
    caplog.set_level("INFO")
    restarts.request_restart(root, "brain", now=True)
    one = swarm().up()
    pid = one.running("brain")[0]
    assert restarts.is_taken(root, "brain")
    restarts.request_restart(root, "nobody")
    wait_until(lambda: "'nobody', which is no process of this swarm" in caplog.text, what="the wish was heard")
    assert restarts.is_taken(root, "nobody")
    assert one.child("brain").pid == pid
    assert "as asked" not in caplog.text


def test_a_dead_workers_lock_that_is_held_for_a_moment_delays_nothing(swarm, root, monkeypatch):
    """As the brain does, while it takes back what the worker held."""
    monkeypatch.setattr("swarm.supervisor.local_process.LOCK_WAIT_S", 60.0)
    taken = threading.Event()
    one = swarm().up()
    pid = one.running("w1")[0]
    lock = ProcessLock(Layout(str(root)), "w1")
    monkeypatch.setattr("swarm.supervisor.local_process.is_held", lambda *which: taken.wait(60) and is_held(*which))
    os.kill(pid, signal.SIGKILL)
    wait_until(lock.try_acquire, what="the freed lock")
    threading.Timer(0.2, lock.release).start()
    taken.set()
    back(one, "w1", pid)
    assert "has not registered" not in (one.child("w1").last_exit or "")
    assert one.child("w1").restarts == 1
