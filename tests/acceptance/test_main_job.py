"""The main job as a user runs it, on simulated cards."""

import json
import os
import signal
from collections import Counter

import pytest

from swarm.core.task import TaskState
from swarm.queue.coordination import is_held
from swarm.queue.layout import made_here
from swarm.queue.stores import registry
from tests.helpers.cli import user
from tests.helpers.queues import llm, whereabouts
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def running(someone):
    return someone.queue.list(TaskState.PROCESSING) if someone.root.exists() else ()


@pytest.fixture
def someone(tmp_path):
    with user(tmp_path) as person:
        yield person


def test_run_does_all_once_and_again_does_nothing(someone):
    someone.prompts(40)
    done = someone.run("run", "prompts.jsonl", "-o", "out.jsonl", "--model", MODEL, "--simulate", "2", "--json")
    first = json.loads(done.stdout)
    assert done.stderr == "", "asked for JSON, it says nothing else"
    assert (first["completed"], first["failed"], first["new"]) == (40, 0, 40)
    assert sum(first["by_worker"].values()) == 40
    out = lines_of(someone.folder / "out.jsonl")
    assert [line["n"] for line in out] == list(range(40)), "in the input's order, columns echoed"
    assert all(line["simulated"] and line["response"].startswith("[simulated]") for line in out)
    assert not someone.ours(), "a run's own swarm is gone with it"
    again = someone.run("run", "prompts.jsonl", "-o", "out.jsonl", "--model", MODEL, "--simulate", "2")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert lines_of(someone.folder / "out.jsonl") == out
    assert "simulated" in again.stdout


def test_ctrl_c_drains_and_the_same_command_goes_on(someone):
    someone.env |= {"SWARM_SIM__REQUEST_S": "0.2", "SWARM_LLM__SLOTS": "2"}
    someone.prompts(600)
    command = ("run", "prompts.jsonl", "-o", "out.jsonl", "--model", MODEL, "--simulate", "2")
    process = someone.start(*command)
    wait_until(lambda: someone.root.exists() and someone.queue.stats().completed > 4, timeout_s=60, what="some results")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert err.startswith("starting 2 workers"), "no silence while servers start"
    assert "run the same command again" in out
    assert not someone.ours()
    stats = someone.queue.stats()
    assert stats.processing == {}
    assert 0 < sum(stats.pending.values()) < 600
    before = {line["task_id"] for line in lines_of(someone.folder / "out.jsonl") if line["status"] == "completed"}
    someone.env |= {"SWARM_SIM__REQUEST_S": "0", "SWARM_LLM__SLOTS": "auto"}
    assert "resumed: 600 items were known" in someone.ok(*command)
    after = lines_of(someone.folder / "out.jsonl")
    assert all(line["status"] == "completed" for line in after)
    assert before < {line["task_id"] for line in after}


def test_a_killed_run_takes_its_swarm_along_and_can_be_resumed(someone):
    someone.env |= {"SWARM_SIM__REQUEST_S": "0.5", "SWARM_LLM__SLOTS": "1"}
    someone.prompts(30)
    command = ("run", "prompts.jsonl", "-o", "out.jsonl", "--model", MODEL, "--simulate", "1")
    process = someone.start(*command)
    wait_until(lambda: someone.root.exists() and someone.queue.stats().completed > 1, timeout_s=60, what="some results")
    process.kill()
    process.communicate()
    wait_until(lambda: not someone.ours(), timeout_s=60, what="its swarm gone")
    someone.env["SWARM_SIM__REQUEST_S"] = "0"
    assert "30 completed" in someone.ok(*command)


def test_a_run_again_right_after_a_kill_waits_for_the_swarm_that_is_ending_and_starts_its_own(someone):
    someone.env |= {"SWARM_SIM__REQUEST_S": "20", "SWARM_LLM__SLOTS": "1"}
    someone.prompts(6)
    command = ("run", "prompts.jsonl", "-o", "out.jsonl", "--model", MODEL, "--simulate", "1")
    process = someone.start(*command)
    wait_until(lambda: any(made_here(one.task_id) for one in running(someone)), timeout_s=60, what="some at work")
    process.kill()
    process.communicate()
    assert someone.ours(), "its swarm still finishes what it runs"
    someone.env["SWARM_SIM__REQUEST_S"] = "0"
    done = someone.run(*command)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "6 completed" in done.stdout
    assert "the swarm of an earlier run is ending" in done.stderr


def test_of_two_runs_at_once_the_second_goes_on_when_the_first_takes_its_swarm_along(someone):
    someone.prompts(8, "first.jsonl")
    someone.prompts(60, "second.jsonl", turn=2)
    someone.env |= {"SWARM_SIM__REQUEST_S": "0.1", "SWARM_LLM__SLOTS": "1"}
    someone.queue.prepare()
    someone.queue.pause("model", MODEL)
    first = someone.start("run", "first.jsonl", "-o", "1.out", "--model", MODEL, "--simulate", "1")
    (served,) = wait_until(lambda: someone.queue.batches().names(), timeout_s=60, what="the first has a swarm")
    second = someone.start("run", "second.jsonl", "-o", "2.out", "--model", MODEL, "--simulate", "1", "--limit", "30")
    wait_until(lambda: len(someone.queue.batches().names()) == 2, timeout_s=60, what="the second has joined it")
    (waiting,) = set(someone.queue.batches().names()) - {served}
    someone.queue.pause("batch", waiting)
    someone.queue.resume("model", MODEL)
    told = first.communicate(timeout=60)
    assert first.returncode == 0, told
    someone.queue.resume("batch", waiting)
    written, said = second.communicate(timeout=60)
    assert second.returncode == 0, (written, said)
    assert "30 completed" in written
    assert "the swarm of another run has ended with that run" in said
    assert "/s in -" not in said, "no rate below nothing when workers go away"
    assert not someone.ours()


def test_the_incident_four_cold_workers_and_a_killed_one(tmp_path):
    """125 tasks for one model: each of four cold workers gets its own load, all work; what a killed one held is not lost."""
    with user(
        tmp_path, SWARM_SIM__REQUEST_S="0.15", SWARM_LLM__SLOTS="1", SWARM_SUPERVISOR__RESTART_BASE_S="100"
    ) as someone:
        someone.ok("up", "--simulate", "4", "--detach")
        someone.prompts(125)
        batch = someone.json("submit", "prompts.jsonl", "--model", MODEL)["batch_id"]
        queue = someone.queue
        ids = list(queue.batches().task_ids(batch))
        workers = {f"worker-{i}" for i in range(1, 5)}
        wait_until(
            lambda: all(f"inserting load_llm task for {name}" in someone.log("brain") for name in workers), what="four loads"
        )
        wait_until(lambda: refill(queue, ids) and done_by(queue, ids) == workers, timeout_s=60, what="all four work")
        wait_until(lambda: refill(queue, ids) and killed_at_work(queue, "worker-2"), timeout_s=60, what="worker-2 busy")
        wait_until(lambda: "died in attempt 1" in someone.log("brain"), what="the brain takes it back")
        wait_until(lambda: is_held(queue.layout, "worker-2"), timeout_s=60, what="it is back without a backoff")
        wait_until(lambda: {one.task_id for one in queue.list(TaskState.COMPLETED)} >= set(ids), what="all are done")
        places = whereabouts(queue)
        assert all(places[i] == [TaskState.COMPLETED] for i in ids), "none lost, none in two places"
        documents = [queue.read(i) for i in ids]
        crashed = [d for d in documents if d["attempts"][0]["outcome"] == "crashed"]
        assert crashed
        assert all(d["attempts"][-1]["outcome"] == "completed" for d in crashed)
        shares = Counter(d["attempts"][-1]["worker"] for d in documents)
        assert set(shares) == {f"worker-{i}" for i in range(1, 5)}
        down = someone.ok("down")
        assert "supervisor ended" in down
        assert not someone.ours()


def refill(queue, ids):
    """Have work waiting, however quick they were; true."""
    if not sum(queue.stats().pending.values()):
        ids.extend(queue.enqueue(llm(model=MODEL)) for _ in range(40))
    return True


def done_by(queue, ids):
    """Workers that have completed a task."""
    ended = {one.task_id for one in queue.list(TaskState.COMPLETED)}.intersection(ids)
    return {queue.read(task_id)["attempts"][-1]["worker"] for task_id in ended}


def killed_at_work(queue, name):
    """SIGKILL for a worker that holds a task; False: it holds none just now."""
    pid = registry.read_row(queue.layout, name).process.pid
    os.kill(pid, signal.SIGSTOP)  # what it holds it has still at its death
    busy = bool(os.listdir(queue.layout.held_by(name)))
    os.kill(pid, signal.SIGKILL if busy else signal.SIGCONT)
    return busy


def test_a_swarm_that_stays_up(tmp_path):
    """One swarm, the everyday commands: second up refused, submit and wait, drop-ins, scripts, looking, stopping."""
    config = tmp_path / "swarm.toml"
    config.write_text('[scripts]\nhello = ["/bin/echo", "hello"]\nbig = ["/usr/bin/head", "-c", "10000000", "/dev/zero"]\n')
    with user(tmp_path, SWARM_CONFIG=str(config)) as someone:
        assert someone.run("down").returncode == 3
        assert someone.run("status").returncode == 3
        someone.ok("up", "--simulate", "2", "--detach")
        second = someone.run("up", "--simulate", "2")
        assert second.returncode == 2
        assert "running already" in second.stderr
        assert "pid" in second.stderr
        answer = someone.ok("submit", "--prompt", "Why is the sky blue?", "--model", MODEL, "--wait")
        assert answer.startswith("[simulated]")
        missing = someone.run("submit", "--prompt", "x", "--model", "llama3.2:3")
        assert missing.returncode == 2
        assert "llama3.2:3b" in missing.stderr, "the near miss is named"
        someone.ok("queue", "pause", "all")
        waiting = someone.start("submit", "--prompt", "x", "--model", MODEL, "--wait")
        wait_until(lambda: sum(someone.queue.stats().pending.values()), what="it waits")
        waiting.send_signal(signal.SIGINT)
        assert "is accepted and goes on; `swarm queue show " in waiting.communicate(timeout=60)[0]
        assert waiting.returncode == 130
        someone.ok("queue", "cancel", *(task["task_id"] for task in someone.json("queue", "list")["tasks"]))
        someone.ok("queue", "resume", "all")
        for name, content in {
            "good.json": {"task_class": "llm", "model": MODEL, "request": {"prompt": "hi"}, "endpoint": "/api/generate"},
            "bad.json": {"task_class": "banana"},
            "echo.json": {"task_class": "script", "command": ["hello", "world"]},
            "big.json": {"task_class": "script", "command": ["big"]},
            "evil.json": {"task_class": "script", "command": ["rm", "-rf", "x"]},
        }.items():
            (someone.root / "pending" / name).write_text(json.dumps(content))
        queue = someone.queue
        wait_until(lambda: queue.stats().completed >= 4 and queue.stats().failed == 1, timeout_s=60, what="drop-ins done")
        assert queue.read("echo")["result"]["stdout"] == "hello world\n"
        assert queue.read("big")["result"]["stdout_bytes"] == 10_000_000
        assert queue.read("evil")["error"]["type"] == "not_allowed"
        wait_until((someone.root / "corrupt" / "bad.json.reason").exists, what="bad drop-in set aside")
        stats = someone.json("queue", "stats")
        assert stats["pending"]["total"] == 0
        assert stats["failed"] == 1
        assert stats["corrupt"] == 1
        assert {w["name"] for w in someone.json("workers")["workers"]} == {"worker-1", "worker-2"}
        assert "worker-1" in someone.ok("status")
        assert someone.json("explain", "worker-1")
        assert someone.json("explain", "evil")
        assert "Claimed llm task" in someone.ok("logs", "-n", "500")
        assert someone.json("queue", "show", "good")["status"] == "completed"
        assert someone.ok("down")
        assert not someone.ours()
        assert [w["state"] for w in someone.json("workers")["workers"]] == ["stopped", "stopped"]
        assert someone.run("submit", "--prompt", "x", "--model", MODEL, "--wait").returncode == 3
        someone.ok("up", "--simulate", "2", "--detach")
        wait_until(lambda: not sum(queue.stats().pending.values()), timeout_s=60, what="what waited is done")


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        ("{oops\n", (), "prompts.jsonl:1"),
        ("", (), "prompts.jsonl"),
        ('{"prompt":"a","custom_id":"x"}\n{"prompt":"b","custom_id":"x"}\n', (), "x"),
        ('{"prompt": 5}\n', (), "prompts.jsonl:1: prompt"),
        ('{"prompt":"a"}\n{"question":"b"}\n', (), "prompts.jsonl:2"),
        ('{"prompt":"' + "y" * (1 << 20) + '"}\n', (), "prompts.jsonl:1"),
        ('{"prompt":"a"}\n', ("--prompt-field", "pomt"), "pomt"),
        ('{"prompt":"a","priority":"high"}\n', (), "priority"),
        ('{"prompt":"a"}\n', ("-o", "/proc/nope/out.jsonl"), "/proc/nope"),
        ('{"prompt":"a"}\n', ("--config", "missing.toml"), "missing.toml"),
    ],
)
def test_bad_input_is_named_and_nothing_is_done(tmp_path, content, options, complaint):
    with user(tmp_path) as someone:
        (tmp_path / "prompts.jsonl").write_text(content)
        words = ["run", "prompts.jsonl", "--model", MODEL, "--simulate", "1", *options]
        done = someone.run(*words, *(() if "-o" in options else ("-o", "out.jsonl")))
        assert done.returncode == 2, done
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out.jsonl").exists()
        assert not someone.root.exists() or someone.queue.stats().pending == {}
        assert not someone.ours()
