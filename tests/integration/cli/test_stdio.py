"""What a process was started with instead of standard input, output and error: closed, full, gone. It works all the same."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest

from tests.helpers.cli import user
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
CLOSED = {0: "<&-", 1: ">&-", 2: "2>&-"}
SUBSETS = [some for number in (1, 2, 3) for some in itertools.combinations(CLOSED, number)]
ALL = (0, 1, 2)


@pytest.fixture
def someone(tmp_path):
    with user(tmp_path) as person:
        yield person


def shell(someone, redirections, *words, timeout_s=120):
    """The command with these redirections, as a shell makes them."""
    argv = ["bash", "-c", f'exec "$@" {redirections}', "bash", sys.executable, "-m", "swarm", *words]
    return subprocess.run(
        argv, cwd=someone.folder, env=someone.env, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def closing(some):
    return " ".join(CLOSED[fd] for fd in some)


@pytest.mark.parametrize("some", SUBSETS, ids=closing)
def test_a_command_works_whatever_of_the_three_is_closed(someone, some):
    done = shell(someone, closing(some), "submit", "--prompt", "hello", "--model", MODEL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("accepted ") == (1 not in some)
    said = done.stderr.splitlines()
    assert ["no swarm is running" in line for line in said] == ([] if 2 in some else [True])
    assert someone.ok("queue", "fsck"), "nothing of what was said went into a file of the queue"
    refused = shell(someone, closing(some), "queue", "show", "nothing")
    assert refused.returncode == 2
    assert ("there is no task nothing" in refused.stderr) == (2 not in some)


@pytest.mark.parametrize("some", [(1,), (2,), ALL], ids=closing)
def test_the_main_job_is_done_whatever_is_closed(someone, some):
    someone.prompts(3)
    done = shell(someone, closing(some), "run", "prompts.jsonl", "-o", "o.jsonl", "--model", MODEL, "--simulate", "1")
    assert done.returncode == 0, done.stderr
    out = [json.loads(line) for line in (someone.folder / "o.jsonl").read_text().splitlines()]
    assert [line["status"] for line in out] == ["completed"] * 3
    assert "Traceback" not in done.stderr + someone.log("supervisor") + someone.log("worker-1")


def test_every_process_of_a_swarm_started_without_any_has_all_three(someone):
    assert shell(someone, closing(ALL), "up", "--detach", "--simulate", "1").returncode == 0
    someone.ok("submit", "--prompt", "hello", "--model", MODEL, "--wait")  # a runner is there as well then
    started = someone.ours()
    assert len(started) >= 4, "supervisor, brain, worker, server"
    for pid in started:
        for fd in ALL:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            assert target == "/dev/null" or target.startswith(("pipe:", f"{someone.root}/logs/")), (pid, fd, target)
            assert fd or target == "/dev/null"
    assert shell(someone, closing(ALL), "down").returncode == 0
    assert not someone.ours()


def test_by_itself_a_simulated_server_needs_none(someone):
    argv = ["bash", "-c", f'exec "$@" {closing(ALL)}', "bash", sys.executable, "-m", "swarm.simulator"]
    process = subprocess.Popen([*argv, "--host", "127.0.0.1:0"], env=someone.env)
    try:
        wait_until(lambda: process.poll() is not None or null_at(process.pid), what="its three descriptors")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def null_at(pid):
    try:
        return all(os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null" for fd in ALL)
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("config", "show"), ("config", "schema")])
def test_a_full_disk_behind_standard_output_is_named(someone, words):
    done = shell(someone, ">/dev/full", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output cannot be written: No space left on device\n")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_exit_code_that_tells_more_is_kept(someone):
    assert shell(someone, ">/dev/full", "queue", "show", "x", "--root", "nowhere").returncode == 3
    read_end, write_end = os.pipe()
    os.close(read_end)
    someone.queue.prepare()
    argv = [sys.executable, "-m", "swarm", "status", "--root", str(someone.root)]
    done = subprocess.run(argv, stdout=write_end, stderr=subprocess.PIPE, cwd=someone.folder, env=someone.env, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (3, b""), "nothing runs there; who closed the pipe does not hear of it"


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2</dev/null"])
def test_messages_that_cannot_be_written_end_nothing(someone, redirection):
    someone.prompts(3)
    words = ("run", "prompts.jsonl", "-o", "o.jsonl", "--model", MODEL, "--simulate", "1")
    assert shell(someone, redirection, *words).returncode == 0
    assert len((someone.folder / "o.jsonl").read_text().splitlines()) == 3


def test_help_for_a_reader_that_has_gone_is_no_failure(someone):
    done = shell(someone, "| true; exit ${PIPESTATUS[0]}", "--help")
    assert (done.returncode, done.stderr) == (0, "")


def on_terminal(someone, *words):
    """The command in a session whose terminal this is; whoever closes the returned end hangs up."""
    master, slave = pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "swarm", *words],
        cwd=someone.folder,
        env=someone.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=own_terminal,  # noqa: PLW1509 - nothing else runs in this process
    )
    os.close(slave)
    os.set_blocking(master, False)
    return master, process


def hang_up(master):
    """Read what was said, close the terminal."""
    said = b""
    try:
        while chunk := os.read(master, 65536):
            said += chunk
    except (BlockingIOError, OSError):
        pass
    os.close(master)
    return said


def test_a_terminal_that_goes_away_drains_a_run(someone):
    someone.env["SWARM_SIM__REQUEST_S"] = "0.2"
    someone.prompts(2000)
    words = ("run", "prompts.jsonl", "-o", "o.jsonl", "--model", MODEL, "--simulate", "1")
    master, process = on_terminal(someone, *words)
    wait_until(lambda: someone.root.exists() and someone.queue.stats().completed > 2, what="some results")
    hang_up(master)
    assert process.wait(60) == 130
    out = [json.loads(line) for line in (someone.folder / "o.jsonl").read_text().splitlines()]
    assert 2 < sum(line.get("status") == "completed" for line in out) < 2000, "what was done is written"
    assert not someone.ours()


def test_a_terminal_that_goes_away_drains_a_swarm(someone):
    master, process = on_terminal(someone, "up", "--simulate", "1")
    wait_until(lambda: "worker-1" in someone.log("worker-1") and len(someone.ours()) >= 3, what="a swarm")
    hang_up(master)
    assert process.wait(60) == 0
    assert not someone.ours()
    assert "Traceback" not in someone.log("supervisor")


def test_under_nohup_it_outlives_the_terminal(someone):
    someone.prompts(20)
    someone.env["SWARM_SIM__REQUEST_S"] = "0.1"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; it is inherited
    try:
        words = ("run", "prompts.jsonl", "-o", "o.jsonl", "--model", MODEL, "--simulate", "1")
        master, process = on_terminal(someone, *words)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: someone.root.exists() and someone.queue.stats().completed > 2, what="some results")
    hang_up(master)
    assert process.wait(60) == 0
    assert len((someone.folder / "o.jsonl").read_text().splitlines()) == 20
