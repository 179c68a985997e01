"""Real programs: their output, their limits, their end, and what they leave behind."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
import time
from typing import Any

import pytest

from swarm.config.settings import CommandSettings, ScriptSettings
from swarm.core.faults import TaskFault
from swarm.proc.env_markers import find_marked
from swarm.worker.attempt import Cancel
from swarm.worker.executors.command import CommandExecutor
from tests.helpers.wait import wait_until
from tests.helpers.worker_fakes import claim_of, script

ROOT = f"/test-root-{os.getpid()}"
SCRIPTS = {
    "sh": ("/bin/sh", "-c"),
    "python": (sys.executable, "-c"),
    "resize": ("/bin/echo", "resized"),
    "gone": ("/nonexistent/program",),
    "free": ScriptSettings(command=("/bin/sh", "-c"), env=("MINE",), cwd=tempfile.gettempdir()),
}


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.cancel = Cancel()
        self.progress = 0
        self.executor = CommandExecutor(CommandSettings(**settings), scripts=SCRIPTS, root=ROOT)

    def run(self, *command: str, **more: Any) -> dict[str, Any]:
        trail = self.executor.run(claim_of(script("t1", *command, **more)), cancel=self.cancel, progress=self._advance)
        assert trail.result is not None
        return trail.result

    def fault(self, *command: str, **more: Any) -> TaskFault:
        with pytest.raises(TaskFault) as caught:
            self.run(*command, **more)
        return caught.value

    def _advance(self, count: int) -> None:
        self.progress += count


@pytest.fixture(autouse=True)
def _nothing_left():
    open_before = len(os.listdir("/proc/self/fd"))
    yield
    assert find_marked(SWARM_ROOT=ROOT) == []
    assert len(os.listdir("/proc/self/fd")) <= open_before


@pytest.fixture
def bench():
    return Bench(stop_grace_s=0.3)


def test_output_and_exit_code(bench):
    result = bench.run("sh", "echo out; echo err >&2")
    assert (result["exit_code"], result["stdout"], result["stderr"], result["truncated"]) == (0, "out\n", "err\n", False)
    assert (result["stdout_bytes"], result["stderr_bytes"]) == (4, 4)
    assert result["duration_s"] > 0


def test_a_name_stands_for_its_argv_and_no_shell_reads_the_arguments(bench):
    assert bench.run("resize", "$HOME; rm -rf *", "`id`")["stdout"] == "resized $HOME; rm -rf * `id`\n"


@pytest.mark.parametrize(
    ("command", "words"), [(("rezise",), "did you mean resize"), (("zzz",), "allowed are"), ((), "no command")]
)
def test_what_is_not_listed_does_not_run(bench, command, words):
    fault = bench.fault(*command)
    assert (fault.fault, fault.kind) == ("deterministic", "not_allowed")
    assert words in fault.message


def test_with_an_empty_list_nothing_runs():
    executor = CommandExecutor(CommandSettings(), scripts={}, root=ROOT)
    with pytest.raises(TaskFault, match="the list is empty"):
        executor.run(claim_of(script("t1", "sh")), cancel=Cancel(), progress=lambda n: None)


def test_the_environment_is_built_from_nothing(bench, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    lines = bench.run("free", "env", env={"MINE": "1"})["stdout"].splitlines()
    names = {line.split("=")[0] for line in lines} - {"PWD", "SHLVL", "_"}
    assert names == {"PATH", "LANG", "HOME", "MINE", "SWARM_ROOT", "SWARM_WORKER", "SWARM_TASK"}


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "PYTHONPATH", "SWARM_TASK", "A=B"])
def test_variables_that_steer_programs_are_refused(bench, name):
    assert bench.fault("sh", "true", env={name: "x"}).fault == "deterministic"


def test_a_fresh_directory_is_removed_afterwards(bench):
    path = bench.run("sh", "pwd; echo x > file")["stdout"].strip()
    assert "swarm-t1-" in path
    assert not os.path.exists(path)


def test_a_given_directory_stays(bench, tmp_path):
    assert bench.run("free", "pwd", cwd=str(tmp_path))["stdout"].strip() == str(tmp_path)
    assert tmp_path.is_dir()
    assert bench.fault("free", "pwd", cwd=str(tmp_path / "none")).kind == "no_cwd"
    assert bench.fault("free", "pwd", cwd="relative").kind == "no_cwd"


def test_stdin_is_empty_and_core_dumps_are_off(bench):
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        result = bench.run("sh", "cat; sleep 0.05; ulimit -c")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert result["stdout"] == "0\n"


def test_a_program_that_may_not_be_limited_runs_and_one_that_cannot_be_watched_leaves_nothing(bench, monkeypatch):
    def refused(*_args):
        raise PermissionError("not permitted")

    monkeypatch.setattr(resource, "prlimit", refused)
    assert bench.run("sh", "echo out")["stdout"] == "out\n"

    def interrupted(_pid):
        raise KeyboardInterrupt

    monkeypatch.setattr("swarm.worker.executors.program.end_of_child", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.run("sh", "sleep 60")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo first >&2; echo last words >&2; exit 3", "exit code 3: last words"),
        ("exit 4", "exit code 4, nothing on stderr"),
        ("kill -KILL $$", "killed by SIGKILL"),
    ],
)
def test_a_failing_program_is_tried_again(bench, text, words):
    fault = bench.fault("sh", text)
    assert (fault.fault, fault.kind) == ("transient", "exit_code")
    assert words in fault.message


def test_a_program_that_is_not_there_fails_at_once(bench):
    fault = bench.fault("gone")
    assert (fault.fault, fault.kind) == ("deterministic", "cannot_start")


def test_ten_megabytes_neither_hang_nor_bloat():
    bench = Bench(output_cap_kib=8)
    text = "import sys; w = sys.stdout.write, sys.stderr.write; [f('x' * 1000) for _ in range(10000) for f in w]"
    result = bench.run("python", text)
    assert (result["stdout_bytes"], result["stderr_bytes"]) == (10_000_000, 10_000_000)
    assert len(result["stdout"]) == len(result["stderr"]) == 8192
    assert result["truncated"]
    assert bench.progress > 10


def test_bytes_that_are_no_text(bench):
    assert bench.run("sh", r"printf 'a\377b'")["stdout"] == "a�b"


def cancelled(bench: Bench, *command: str, ready: str = "", reason: Any = "timeout") -> float:
    """Cancel once the program has printed; seconds from then to the end."""
    times: list[float] = []

    def cancel_when_ready() -> None:
        wait_until(lambda: bench.progress > 0, what="the program's first output")
        times.append(time.monotonic())
        bench.cancel.cancel(reason)

    thread = threading.Thread(target=cancel_when_ready)
    thread.start()
    fault = bench.fault(*command)
    thread.join()
    assert (fault.fault, fault.kind) == ("cancelled", reason)
    return time.monotonic() - times[0]


def test_a_cancel_ends_the_program_politely():
    assert cancelled(Bench(stop_grace_s=60), "sh", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done") < 30


def test_one_that_ignores_sigterm_is_killed_after_the_grace(bench):
    took_s = cancelled(
        bench, "python", "import signal,time;signal.signal(15,signal.SIG_IGN);print(1,flush=True);time.sleep(60)"
    )
    assert 0.25 < took_s < 30


def test_one_blocked_on_a_full_pipe_can_still_obey(bench):
    assert cancelled(bench, "sh", "trap 'exit 0' TERM; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done") < 30


def test_an_attempt_cancelled_before_it_started_ends_at_once(bench):
    bench.cancel.cancel("stopping")
    began_s = time.monotonic()
    assert bench.fault("sh", "sleep 60").fault == "cancelled"
    assert time.monotonic() - began_s < 30


def test_background_children_end_with_the_program(bench):
    result = bench.run("sh", "sleep 60 & echo started")
    assert result["stdout"] == "started\n"
    assert result["duration_s"] < 30


def test_grandchildren_that_left_the_group_are_found_by_their_marker(bench):
    text = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True); print('left')"
    assert bench.run("python", text)["stdout"] == "left\n"
    assert find_marked(SWARM_ROOT=ROOT) == []
