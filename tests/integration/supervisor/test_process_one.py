"""swarm as process 1 of a PID namespace, as in a container without an init: signals arrive, orphans are collected."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers.cli import user
from tests.helpers.wait import wait_until

INSIDE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_unshare():
    return shutil.which("unshare") and subprocess.run([*INSIDE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="no PID namespace can be made here")

WORK = """
import os, signal, sys, time
from swarm.proc.init import work_below_init
work_below_init()
print(os.getpid(), os.getppid(), flush=True)
"""


def inside(code, **more):
    return subprocess.Popen([*INSIDE, sys.executable, "-c", WORK + code], stdout=subprocess.PIPE, text=True, **more)


@pytest.mark.parametrize(("code", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137), ("", 0)])
def test_its_end_is_the_end_of_all(code, status):
    one = inside(code)
    out, _ = one.communicate(timeout=60)
    assert out == "2 1\n"
    assert one.returncode == status


def test_orphans_are_collected():
    code = """
if not os.fork():
    orphan = os.fork()
    if orphan:
        print(orphan, flush=True)
    os._exit(0)
os.wait()
deadline = time.monotonic() + 60
while [n for n in os.listdir("/proc") if n.isdigit() and n not in ("1", "2")] and time.monotonic() < deadline:
    time.sleep(0.01)
print([n for n in os.listdir("/proc") if n.isdigit()], flush=True)
"""
    out, _ = inside(code).communicate(timeout=120)
    assert out.splitlines()[-1] == "['1', '2']"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_process_one_would_not_get_ends_the_work(sent):
    one = inside("signal.signal(signal.SIGINT, signal.SIG_DFL); print('up', flush=True); time.sleep(600)")
    assert one.stdout is not None
    while one.stdout.readline() != "up\n":
        pass
    os.kill(first_below(one.pid), sent)
    one.communicate(timeout=60)
    assert one.returncode == 128 + sent


def first_below(pid):
    """Process 1 of the namespace, by its number out here."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


def test_a_swarm_as_process_one_drains_when_its_container_is_stopped(tmp_path):
    with user(tmp_path) as someone:
        up = subprocess.Popen(
            [*INSIDE, sys.executable, "-m", "swarm", "up", "--simulate", "1"], cwd=someone.folder, env=someone.env
        )
        try:
            someone.ok("submit", "--prompt", "hello", "--model", "llama3.2:3b")
            wait_until(lambda: someone.json("queue", "stats")["completed"] == 1, timeout_s=60, what="the task is done")
            os.kill(first_below(up.pid), signal.SIGTERM)
            assert up.wait(60) == 0
        finally:
            up.kill()
            up.wait()
        assert "no process of ours is left" in someone.log("supervisor")
