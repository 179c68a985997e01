"""The end of a process is noticed, and it is signalled, with pidfds and without them."""

import errno
import os
import select
import signal
import subprocess
import sys
import threading

import msgspec
import pytest

from swarm.brain.brain import DeathWatch
from swarm.proc import identity as identities
from swarm.proc.child import Child
from swarm.proc.identity import end_of_child, open_pidfd
from tests.helpers.forked import forked
from tests.helpers.wait import wait_until

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]


@pytest.fixture(params=["pidfd", "open EPERM", "open ENOSYS", "send EPERM", "send ENOSYS"])
def host(request, monkeypatch):
    """What the kernel, or a filter of system calls, leaves of pidfds."""
    what, _, code = request.param.partition(" ")
    if code:
        refusal = OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

        def refuse(*_):
            raise refusal

        if what == "open":
            monkeypatch.setattr(os, "pidfd_open", refuse)
        monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    return request.param


@pytest.fixture
def sleeper():
    child = subprocess.Popen(SLEEP)
    yield child
    child.kill()
    child.wait()


def waiting():
    """The threads that wait for the end of a process."""
    return {thread for thread in threading.enumerate() if thread.name == "end-of-process"}


def readable(fd, timeout_s=0.0):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


@pytest.mark.parametrize("opened", [lambda pid: open_pidfd(identities.of_pid(pid)), end_of_child])
def test_the_descriptor_is_readable_once_the_process_has_ended(host, sleeper, opened):
    fd = opened(sleeper.pid)
    try:
        assert not readable(fd, 0.2)
        sleeper.kill()
        assert readable(fd, 60)
        assert readable(fd)
    finally:
        os.close(fd)


def test_who_has_ended_or_is_another_has_no_descriptor(host, sleeper):
    identity = identities.of_pid(sleeper.pid)
    assert open_pidfd(msgspec.structs.replace(identity, start_ticks=identity.start_ticks - 1)) is None
    sleeper.kill()
    sleeper.wait()
    assert open_pidfd(identity) is None


def test_a_descriptor_that_is_closed_costs_nothing_any_more(monkeypatch, sleeper):
    monkeypatch.setattr(os, "pidfd_open", lambda _pid: (_ for _ in ()).throw(PermissionError(1, "not here")))
    before = waiting()
    fds = [open_pidfd(identities.of_pid(sleeper.pid)) for _ in range(5)]
    assert len(waiting() - before) == 5
    for fd in fds:
        os.close(fd)
    wait_until(lambda: not waiting() - before, timeout_s=60, what="the threads have ended")


def test_a_signal_reaches_that_very_process_and_no_other(host, sleeper):
    identity = identities.of_pid(sleeper.pid)
    later = msgspec.structs.replace(identity, start_ticks=identity.start_ticks + 1)
    assert not identities.signal(later, signal.SIGKILL)
    assert sleeper.poll() is None
    assert identities.signal(identity, signal.SIGTERM)
    assert sleeper.wait(60) == -signal.SIGTERM
    assert not identities.signal(identity, signal.SIGTERM)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process of another user")
def test_another_users_process_is_told_from_a_call_that_is_missing(host):
    identities.current()  # what is loaded and read once: the other user may not

    def signal_the_parent() -> None:
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(PermissionError):
            identities.signal(identities.of_pid(os.getppid()), 0)

    assert forked(signal_the_parent) == 0


def test_a_child_is_kept_and_ended(host, tmp_path):
    child = Child.spawn(SLEEP, env=dict(os.environ), markers={}, log_path=tmp_path / "log")
    assert child.poll() is None
    child.begin_stop(grace_s=60)
    wait_until(lambda: child.stop_step() is True, timeout_s=60, what="it is gone")
    assert str(child.poll()) == "killed by SIGTERM"


def test_an_adopted_one_is_too(host, tmp_path, sleeper):
    child = Child.adopt(identities.of_pid(sleeper.pid), markers={})
    assert child is not None
    assert child.poll() is None
    assert child.signal(signal.SIGTERM)
    assert readable(child.pidfd, 60)
    wait_until(lambda: child.poll() is not None, timeout_s=60, what="its end is seen")
    child.close()


def test_a_death_ends_the_wait(host, sleeper):
    watch = DeathWatch()
    watch.watch({"worker-1": identities.of_pid(sleeper.pid)})
    assert not watch.wait(0.05)
    sleeper.kill()
    assert watch.wait(60)
    watch.close()
