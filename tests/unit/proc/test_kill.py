"""Groups end for good: stopped, stubborn and orphaned members too."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.proc import env_markers, process_group
from swarm.proc import identity as identities
from swarm.proc.child import Child, Exit, rotate_if_large, truncate_if_large
from swarm.proc.env_markers import kill_marked
from swarm.proc.identity import read_stat
from swarm.proc.process_group import group_members, kill_group, signal_group
from tests.helpers.wait import wait_until

FAMILY = """
import os, signal, sys, time
if {ignore}: signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
print(os.getpid(), flush=True)
time.sleep(600)
"""
MARK = {"SWARM_TEST_CHILD": f"kill-{os.getpid()}"}


@pytest.fixture
def family() -> Iterator:
    leaders: list[subprocess.Popen] = []

    def start(ignore=False):
        leader = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", FAMILY.format(ignore=ignore)], stdout=subprocess.PIPE, start_new_session=True
        )
        leaders.append(leader)
        wait_until(lambda: len(group_members(leader.pid)) == 2, what="parent and child are up")
        leader.stdout.readline()
        leader.stdout.readline()
        return leader

    yield start
    for leader in leaders:
        if leader.returncode is None:
            kill_group(leader.pid, 0.0)
        leader.communicate()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_willing_group_ends_by_sigterm(family, stopped):
    leader = family()
    if stopped:
        os.killpg(leader.pid, signal.SIGSTOP)
    assert kill_group(leader.pid, 60.0)
    assert leader.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("stopped", [False, True])
def test_stubborn_and_stopped_groups_are_killed_within_the_grace(family, stopped):
    leader = family(ignore=True)
    if stopped:
        os.killpg(leader.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert kill_group(leader.pid, 0.1)
    assert time.monotonic() - began < 30, "it sleeps for a minute"
    assert leader.wait(60) == -signal.SIGKILL


class StoodStill:
    """The clock of a process that did not run for a minute after its first look at it."""

    def __init__(self):
        self._later_s = itertools.chain([0.0], itertools.repeat(60.0))
        self.sleep = time.sleep

    def monotonic(self):
        return time.monotonic() + next(self._later_s)


def test_who_stood_still_until_all_time_was_over_kills_before_giving_up(family, spawn, monkeypatch):
    leader, child = family(ignore=True), spawn("import time; time.sleep(60)")
    for module in (process_group, env_markers):
        monkeypatch.setattr(module, "time", StoodStill())
    assert kill_group(leader.pid, 0.1)
    assert leader.wait(60) == -signal.SIGKILL
    assert kill_marked(0.1, **MARK) == []
    assert wait_until(child.poll) == Exit(signal=9)


def test_a_group_outlives_its_dead_leader_and_is_still_ended(family):
    leader = family()
    os.kill(leader.pid, signal.SIGKILL)
    wait_until(lambda: len(group_members(leader.pid)) == 1, what="only the orphan is left")
    assert kill_group(leader.pid, 0.0)
    assert group_members(leader.pid) == ()


def test_a_group_that_is_gone_is_gone(family):
    leader = family()
    kill_group(leader.pid, 0.0)
    leader.wait()
    assert kill_group(leader.pid, 60.0)


@pytest.mark.parametrize("pgid", [0, 1, os.getpgrp()])
def test_our_own_group_is_refused(pgid):
    with pytest.raises(ValueError, match="refusing"):
        signal_group(pgid, signal.SIGTERM)


@pytest.fixture
def spawn(tmp_path) -> Iterator:
    children: list[Child] = []

    def spawn_(code):
        argv = [sys.executable, "-I", "-S", "-c", code]
        children.append(Child.spawn(argv, env=os.environ, markers=MARK, log_path=tmp_path / "log"))
        return children[-1]

    yield spawn_
    for child in children:
        child.begin_stop(grace_s=0.0)
        wait_until(child.stop_step, what="child is gone")
    kill_marked(0.0, **MARK)


@pytest.mark.parametrize(
    ("code", "exit_", "words"),
    [
        ("raise SystemExit(3)", Exit(code=3), "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", Exit(signal=9), "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", Exit(signal=40), "killed by signal 40"),
    ],
)
def test_exit_status_is_kept_and_readable_twice(spawn, code, exit_, words):
    child = spawn(code)
    assert wait_until(child.poll) == exit_
    assert str(exit_) == words
    assert child.clean_up() == []
    assert child.poll() == exit_
    assert child.pidfd == -1


def test_output_goes_to_the_log(spawn, tmp_path):
    child = spawn("import sys; print('out', flush=True); print('err', file=sys.stderr)")
    wait_until(child.poll)
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_a_program_that_names_itself_by_setproctitle_keeps_its_markers(spawn, tmp_path):
    child = spawn("import os; print(os.environ.get('SPT_NOENV'))")
    wait_until(child.poll)
    assert (tmp_path / "log").read_text() == "1\n", "without it /proc/<pid>/environ is empty"


def test_stop_takes_escaped_descendants_along(spawn):
    child = spawn("import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(60)")
    wait_until(lambda: len(child.marked()) == 2 and len(group_members(child.identity.pid)) == 1, what="one has escaped")
    child.begin_stop(grace_s=60.0)
    assert wait_until(lambda: child.stop_step() is not None)
    assert child.marked() == []


def test_an_adopted_child_can_be_watched_and_ended(spawn):
    child = spawn("import time; time.sleep(60)")
    adopted = Child.adopt(child.identity, markers=MARK)
    assert adopted is not None
    assert adopted.adopted
    assert adopted.poll() is None
    adopted.begin_stop(grace_s=60.0)
    assert wait_until(lambda: adopted.stop_step() is not None)
    assert adopted.poll() == Exit()
    assert wait_until(child.poll) == Exit(signal=signal.SIGTERM)
    assert Child.adopt(child.identity, markers=MARK) is None


def test_adopted_in_a_foreign_group_only_itself_is_signalled():
    argv = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
    innocent = subprocess.Popen(argv, process_group=0)
    adoptee = subprocess.Popen(argv, process_group=innocent.pid)
    try:
        identity = identities.of_pid(adoptee.pid)
        assert identity is not None
        adopted = Child.adopt(identity, markers={})
        assert adopted is not None
        adopted.begin_stop(grace_s=60.0)
        assert wait_until(lambda: adopted.stop_step() is not None)
        assert adoptee.wait(60) == -signal.SIGTERM
        assert innocent.poll() is None
    finally:
        for process in (innocent, adoptee):
            process.kill()
            process.wait()


def test_logs_are_moved_aside_or_emptied(tmp_path: Path):
    log = tmp_path / "x.log"
    assert not rotate_if_large(log, 3)
    log.write_text("abcd")
    assert not truncate_if_large(log, 4)
    assert truncate_if_large(log, 3)
    assert (log.read_text(), (tmp_path / "x.log.1").read_text()) == ("", "abcd")
    log.write_text("efgh")
    assert rotate_if_large(log, 3)
    assert not log.exists()


FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit: of this thread alone
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of the system call is another")
def test_who_has_lost_its_first_thread_alone_has_not_ended():
    """It looks like a zombie, and cannot be collected: taken for ended it would be left behind."""
    child = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout.readline() == b"ready\n"
        wait_until(lambda: read_stat(child.pid).state == "Z", what="the end of its first thread")
        assert [member.pid for member in group_members(child.pid)] == [child.pid]
        assert kill_group(child.pid, 0.0)
        assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    finally:
        child.kill()
        child.communicate()
