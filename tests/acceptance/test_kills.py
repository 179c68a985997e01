"""SIGKILL for whatever works, again and again: what was at work is back at once, and nothing is left behind."""

import json
import os
import signal
import subprocess
import sys

import pytest

from swarm.core.task import TaskState
from swarm.queue.stores import registry
from tests.helpers.cli import user
from tests.helpers.wait import wait_until


def kill(someone, name, number=signal.SIGKILL):
    """A signal for who lives under this name; returns its number."""
    row = registry.read_row(someone.queue.layout, name)
    os.kill(row.process.pid, number)
    return row.process.pid


def at_work(layout, name):
    row = registry.read_row(layout, name)
    return row is not None and registry.has_worked(layout, name, row.process)


def test_a_brain_killed_again_and_again_files_what_is_dropped_in_each_time(tmp_path):
    """With the waits of a failing start the fifth would be filed after two and a half minutes."""
    with user(tmp_path) as someone:
        someone.ok("up", "--simulate", "1", "--detach")
        layout = someone.queue.layout
        for number in range(5):
            wait_until(lambda: at_work(layout, "brain"), what="a turn of the brain")
            pid = kill(someone, "brain")
            body = {"task_id": f"d{number}", "task_class": "llm", "model": "llama3.2:3b", "request": {"prompt": "x"}}
            (someone.root / "pending" / f"d{number}.json").write_text(json.dumps(body))
            wait_until(lambda pid=pid: registry.read_row(layout, "brain").process.pid != pid, what="the next brain")
            filed = f"{layout.pending}/d{number}.json"
            wait_until(lambda path=filed: not os.path.exists(path), what="the drop-in is filed")
        wait_until(lambda: len(list(someone.queue.list(TaskState.COMPLETED))) >= 5, what="all of them are done")


GONE = "supervisor is not running; {} processes run on; `swarm up` adopts them, `swarm down` ends them"


@pytest.mark.parametrize(
    ("killed", "stopped", "run_on", "words"),
    [
        (("supervisor",), (), 3, ()),
        (("supervisor", "brain"), ("worker-1",), 2, ("--now",)),
        (("supervisor", "worker-1", "brain"), (), 1, ()),
        (("supervisor",), ("worker-1", "brain"), 3, ()),
    ],
)
def test_what_a_killed_supervisor_left_is_told_and_ended(tmp_path, killed, stopped, run_on, words):
    with user(tmp_path, SWARM_SIM__REQUEST_S="1", SWARM_LLM__SLOTS="1") as someone:
        someone.ok("up", "--simulate", "1", "--detach")
        wait_until(lambda: at_work(someone.queue.layout, "brain"), what="a turn of the brain")
        someone.ok("submit", str(someone.prompts(60)), "--model", "llama3.2:3b")
        wait_until(lambda: list(someone.queue.list(TaskState.PROCESSING)), what="work begins")
        for name in stopped:
            kill(someone, name, signal.SIGSTOP)
        for name in killed:
            kill(someone, name)
        alarm = GONE.format(run_on) if run_on > 1 else "supervisor is not running; 1 process runs on"
        wait_until(lambda: alarm in someone.run("status").stdout, what="the alarm")
        if killed == ("supervisor",) and not stopped:
            assert alarm in someone.run("doctor").stdout
            assert alarm in someone.run("top").stdout
            assert f"swarm_orphaned_processes {run_on}.0" in someone.ok("metrics")
            for looking in (("workers",), ("gpus",), ("explain", "worker-1")):
                someone.ok(*looking)
            assert "swarm up" in someone.run("restart", "worker-1").stderr
        ended = someone.json("down", *words)["stopped"]
        assert len(ended) == run_on, ended
        assert not someone.ours()
        assert not list(someone.queue.list(TaskState.PROCESSING)), "nothing stays with the dead"
        assert not (someone.root / ".sim").exists()
        assert someone.run("down").returncode == 3


def test_what_simulated_cards_left_goes_with_the_next_down_or_start(tmp_path):
    with user(tmp_path) as someone:
        for words, code in ((("down",), 3), (("up", "--simulate", "1", "--detach"), 0)):
            someone.ok("up", "--simulate", "2", "--detach")
            someone.kill_all()
            assert len(os.listdir(someone.root / ".sim")) == 2
            assert someone.run(*words).returncode == code
            left = os.listdir(someone.root / ".sim") if code == 0 else (someone.root / ".sim").exists()
            assert left == (["SIM-GPU-0"] if code == 0 else False)
        someone.ok("down")
        assert not (someone.root / ".sim").exists()


def test_who_comes_up_after_it_adopts_what_runs_and_what_stands_still_goes_on(tmp_path):
    with user(tmp_path) as someone:
        someone.ok("up", "--simulate", "1", "--detach")
        layout = someone.queue.layout
        wait_until(lambda: at_work(layout, "brain"), what="a turn of the brain")
        before = {name: kill(someone, name, signal.SIGSTOP) for name in ("brain", "worker-1")}
        kill(someone, "supervisor")
        someone.ok("up", "--simulate", "1", "--detach")
        assert someone.ok("submit", "--prompt", "x", "--model", "llama3.2:3b", "--wait")
        assert {name: registry.read_row(layout, name).process.pid for name in before} == before
        assert "supervisor is not running" not in someone.ok("status")
        someone.ok("down")


LOOP = 'while [ ! -e "$1" ]; do "$2" -m swarm worker w --config "$3" --root "$4"; done'


def test_a_worker_that_somebody_else_starts_again_is_not_said_to_have_ended(tmp_path):
    """Started alone, with a server of its own choice; whoever loops over it is told of, and has to be stopped."""
    config = tmp_path / "swarm.toml"
    config.write_text('[[workers]]\nname = "w"\nollama_url = "http://127.0.0.1:9"\n')
    over = tmp_path / "over"
    with user(tmp_path) as someone:
        words = ["sh", "-c", LOOP, "loop", str(over), sys.executable, str(config), str(someone.root)]
        loop = subprocess.Popen(words, env=someone.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: at_work(someone.queue.layout, "w"), what="it works")
            assert "supervisor is not running" not in someone.run("status").stdout, "it never had one"
            refused = someone.run("down", "--config", str(config))
            assert refused.returncode != 0
            assert "started again by somebody else: worker w" in refused.stderr
            assert f"pid {loop.pid}" in refused.stderr
            over.touch()
            assert "worker w (pid " in someone.ok("down", "--config", str(config))
            assert loop.wait(60) == 0
        finally:
            over.touch()
            someone.run("down", "--now")
            loop.wait(60)


def test_a_run_whose_supervisor_is_killed_leaves_nothing(tmp_path):
    with user(tmp_path, SWARM_SIM__REQUEST_S="1", SWARM_LLM__SLOTS="1") as someone:
        words = ("run", str(someone.prompts(50)), "-o", str(tmp_path / "out.jsonl"), "--model", "llama3.2:3b")
        process = someone.start(*words, "--simulate", "1")
        wait_until(lambda: list(someone.queue.list(TaskState.PROCESSING)), what="work begins")
        kill(someone, "supervisor")
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "run the same command again" in err
        assert not someone.ours()


@pytest.mark.parametrize(("words", "code"), [(("up",), 0), (("up", "--detach"), 130)])
def test_a_start_that_is_interrupted_leaves_nothing(tmp_path, words, code):
    with user(tmp_path, SWARM_SIM__START_DELAY_S="60") as someone:
        process = someone.start(*words, "--simulate", "2")
        wait_until(lambda: len(someone.ours()) >= 3, what="brain and servers, which are slow")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == code
        assert not someone.ours()
        assert someone.run("down").returncode == 3, "no supervisor is left either"
