"""A number is no identity; signals hit the very process meant, or nobody."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.env_markers import find_marked, find_marked_values, kill_marked
from swarm.proc.identity import boot_id, read_stat
from swarm.proc.ports import free_port, is_free, who_listens
from tests.helpers.wait import wait_until

ROOT = f"/test-root-{os.getpid()}"
SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"
STUBBORN = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def start() -> Iterator:
    children: list[subprocess.Popen] = []

    def start_(code=SLEEPER, **env):
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    yield start_
    for child in children:
        child.kill()
        child.communicate()


def test_of_pid_and_is_same_follow_one_life(start):
    child = start()
    identity = identities.of_pid(child.pid)
    assert identity is not None
    assert identities.is_same(identity)
    child.kill()
    wait_until(lambda: not identities.is_same(identity), what="a zombie is not alive")
    assert identities.of_pid(child.pid) == identity
    child.communicate()
    assert identities.of_pid(child.pid) is None


def test_current_is_this_process():
    assert identities.current().pid == os.getpid()
    assert identities.current().boot_id == boot_id()


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}])
def test_a_recycled_number_is_never_signalled(start, change):
    child = start()
    identity = identities.of_pid(child.pid)
    stale = msgspec.structs.replace(identity, **change)
    assert not identities.is_same(stale)
    assert identities.open_pidfd(stale) is None
    assert not identities.signal(stale, signal.SIGKILL)
    assert child.poll() is None
    assert identities.signal(identity, signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 5])
def test_numbers_nobody_has(pid):
    assert identities.of_pid(pid) is None
    assert not identities.signal(ProcessIdentity(pid=2**22 + 5, start_ticks=1, boot_id=boot_id()), signal.SIGKILL)


def test_commands_with_blanks_and_parentheses_are_read_rightly(start):
    child = start(
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a) R 1 (b', 0, 0, 0); print('up', flush=True); sys.stdin.read()"
    )
    stat = read_stat(child.pid)
    assert stat is not None
    assert (stat.parent, stat.alive) == (os.getpid(), True)


def test_only_exact_markers_match(start):
    child = start(SWARM_SERVER="w-test-1", SWARM_ROOT=ROOT)
    start(SWARM_SERVER="w-test-12", SWARM_ROOT=ROOT)
    start(SWARM_SERVER="w-test-1", SWARM_ROOT=f"{ROOT}/other")
    assert [i.pid for i in find_marked(SWARM_SERVER="w-test-1", SWARM_ROOT=ROOT)] == [child.pid]
    assert sorted(find_marked_values("SWARM_SERVER", SWARM_ROOT=ROOT).values()) == ["w-test-1", "w-test-12"]
    with pytest.raises(ValueError, match="marker"):
        find_marked()


def test_kill_marked_waits_no_longer_than_it_was_told_and_says_who_is_left(start, monkeypatch):
    child = start(SWARM_SERVER="w-immortal", SWARM_ROOT=ROOT)
    monkeypatch.setattr("swarm.proc.identity.signal", lambda _identity, _number: True)
    assert [i.pid for i in kill_marked(0.0, 0.05, SWARM_SERVER="w-immortal", SWARM_ROOT=ROOT)] == [child.pid]


def test_kill_marked_ends_stubborn_and_stopped_ones_and_no_others(start):
    stopped = start(SWARM_SERVER="w-kill", SWARM_ROOT=ROOT)
    innocent = start(SWARM_SERVER="w-kill-not", SWARM_ROOT=ROOT)
    os.kill(stopped.pid, signal.SIGSTOP)
    assert kill_marked(60.0, SWARM_SERVER="w-kill", SWARM_ROOT=ROOT) == []
    assert stopped.wait(60) == -signal.SIGTERM
    stubborn = start(STUBBORN, SWARM_SERVER="w-kill", SWARM_ROOT=ROOT)
    assert kill_marked(0.1, SWARM_SERVER="w-kill", SWARM_ROOT=ROOT) == []
    assert stubborn.wait(60) == -signal.SIGKILL
    assert innocent.poll() is None


def test_the_holder_of_a_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        assert (who_listens(port) or "").startswith(f"pid {os.getpid()} (")
    assert who_listens(port) is None
    assert is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", free_port())
