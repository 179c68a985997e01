"""The HTTP server as a process: alone and supervised; adopted, killed, restarted, ended; what keeps it from starting."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from swarm.http.batches.driver_process import LOCK
from swarm.proc.ports import free_port
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores.registry import read_row
from swarm.supervisor.state import load_status
from tests.helpers.cli import User
from tests.helpers.httpclients import jsonl, line
from tests.helpers.wait import runs, wait_until


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            return answer.status == 200
    except OSError:
        return False


def pid_of(user: User, name: str = "http") -> int:
    row = read_row(Layout(str(user.root)), name)
    return row.process.pid if row is not None else 0


def state_of(user: User) -> tuple[str, int | None, str]:
    status = load_status(user.root / "workers")
    child = status.child("http") if status is not None else None
    return (child.state, child.pid, child.reason) if child is not None else ("none", None, "")


def wait_for_answer(port: int) -> None:
    wait_until(lambda: answers(port), what=f"the HTTP server answers on {port}")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory) -> Iterator[tuple[User, int]]:
    user = User(tmp_path_factory.mktemp("http"))
    port = free_port()
    out = user.ok("up", "--simulate", "1", "--http", str(port), "--detach")
    assert f"HTTP server on http://127.0.0.1:{port}" in out
    yield user, port
    user.kill_all()


@pytest.fixture
def alone(tmp_path) -> Iterator[User]:
    user = User(tmp_path)
    yield user
    user.kill_all()


def test_up_is_not_over_before_it_answers_and_it_comes_back_when_killed(swarm):
    user, port = swarm
    assert answers(port)
    assert f"HTTP server: http://127.0.0.1:{port}" in user.ok("status")
    before = pid_of(user)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: pid_of(user) != before, what="another process")
    wait_for_answer(port)


def test_no_log_of_any_process_holds_a_prompt_or_an_answer(swarm):
    user, port = swarm
    prompt = "Zanzibar is an archipelago off the coast"
    body = {"model": "llama3.2:3b", "messages": [{"role": "user", "content": prompt}]}
    found = requests.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=120)
    assert found.status_code == 200, found.text
    answer = found.json()["choices"][0]["message"]["content"]
    wrong = requests.post(f"http://127.0.0.1:{port}/v1/chat/completions", data=prompt, timeout=120)
    assert wrong.status_code == 400
    logs = {path.name: path.read_text() for path in (user.root / "logs").iterdir()}
    assert {"http.log", "brain.log", "worker-1.log", "supervisor.log"} <= set(logs)
    for said in (prompt, answer, "Zanzibar"):
        assert [name for name, text in logs.items() if said in text] == []


def test_a_restart_takes_the_port_at_once(swarm):
    user, port = swarm
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"):  # a connection that the old process has accepted
        before = pid_of(user)
        assert f"http restarted: pid {before} -> pid " in user.ok("restart", "http")
    assert answers(port)


def test_a_supervisor_that_was_killed_leaves_it_serving_and_the_next_one_adopts_it(swarm):
    user, port = swarm
    before = pid_of(user)
    supervisor = pid_of(user, "supervisor")
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not runs(supervisor), what="the supervisor has ended")
    assert answers(port)
    user.ok("up", "--simulate", "1", "--http", str(port), "--detach")
    assert state_of(user)[:2] == ("running", before)
    assert answers(port)


def test_another_address_is_another_process(swarm):
    user, port = swarm
    before = pid_of(user)
    supervisor = pid_of(user, "supervisor")
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not runs(supervisor), what="the supervisor has ended")
    other = free_port()
    user.ok("up", "--simulate", "1", "--http", f"localhost:{other}", "--detach")
    assert answers(other)
    assert not answers(port)
    assert pid_of(user) != before
    user.ok("down")
    user.ok("up", "--simulate", "1", "--http", str(port), "--detach")


def test_down_ends_it_before_the_workers(swarm):
    user, port = swarm
    pid = pid_of(user)
    assert "http ended" in user.ok("down")
    assert not runs(pid)
    lines = (user.root / "logs" / "supervisor.log").read_text().splitlines()
    ends = [line.split()[3] for line in lines if line.endswith(" stopped")]
    assert ends.index("http") < ends.index("worker-1")
    user.ok("up", "--simulate", "1", "--http", str(port), "--detach")


def test_a_taken_port_is_named_and_the_rest_of_the_swarm_runs(alone):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        out = alone.ok("up", "--simulate", "1", "--http", str(port), "--detach")
        assert "swarm is up: 1 of 1 workers" in out
        assert "the HTTP server is not up" in out
        taken_by = f"port {port} on 127.0.0.1 is taken by pid {os.getpid()}"
        assert taken_by in state_of(alone)[2]
        status = alone.json("status")
        assert [taken_by in alarm["text"] for alarm in status["alarms"] if "HTTP server" in alarm["text"]] == [True]
        assert status["http"]["alive"] is False
        doctor = json.loads(alone.run("doctor", "--json").stdout)
        assert [taken_by in finding["what"] for finding in doctor["findings"] if finding["subject"] == "http"] == [True]
        found = alone.run("http", "--listen", str(port))
        assert found.returncode == 2
    wait_for_answer(port)  # it is tried again until the port is free


def test_alone_it_says_where_it_is_and_a_second_one_is_refused(alone):
    port = free_port()
    process = alone.start("http", "--listen", f"127.0.0.1:{port}")
    assert process.stdout.readline() == f"HTTP server on http://127.0.0.1:{port}\n"
    wait_for_answer(port)
    second = alone.run("http", "--listen", str(port))
    assert second.returncode == 2
    assert f"http is running already (pid {process.pid}" in second.stderr
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_refused_with_its_holder(alone):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = alone.run("http", "--listen", str(port))
    assert (found.returncode, found.stdout) == (2, "")
    assert f"error: port {port} on 127.0.0.1 is taken by pid {os.getpid()} (" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", ["http --listen", "up --simulate 1 --http"])
def test_a_word_that_is_no_address_is_refused_by_the_options_name(alone, command):
    words = command.split()
    found = alone.run(*words, "nowhere")
    assert (found.returncode, found.stdout) == (2, "")
    assert f"error: {words[-1]} 'nowhere'" in found.stderr


@pytest.mark.parametrize("words", [("http",), ("up", "--simulate", "1", "--http", "8080")])
def test_without_its_packages_it_says_how_to_install_them(tmp_path, words):
    there = tmp_path / "packages"
    there.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("uvicorn", "starlette", "__editable__")):
            (there / entry.name).symlink_to(entry)
    (there / "swarm").symlink_to(Path(__file__).parents[3] / "swarm")
    env = {**os.environ, "PYTHONPATH": str(there)}
    argv = [sys.executable, "-S", "-m", "swarm", *words, "--root", str(tmp_path / "queue")]
    found = subprocess.run(argv, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=120, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert "not installed: starlette, uvicorn\nhint: pip install 'gpu-swarm[http]'" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "queue").exists()


def test_it_ends_when_another_directory_takes_the_place_of_its_root(alone):
    port = free_port()
    process = alone.start("http", "--listen", str(port))
    wait_for_answer(port)
    process.send_signal(signal.SIGSTOP)  # or it may look between the two steps
    alone.root.rename(alone.folder / "elsewhere")
    alone.root.mkdir()
    process.send_signal(signal.SIGCONT)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("error: another directory is in place of the queue root")
    assert "Traceback" not in err
    assert not list(alone.root.iterdir())


def test_down_ends_all_that_a_killed_supervisor_left_a_batch_driver_at_work_too(tmp_path):
    person, port = User(tmp_path), free_port()
    person.ok("up", "--simulate", "1", "--http", str(port), "--detach", timeout_s=300)
    try:
        sent = {"file": ("requests.jsonl", jsonl(line("a")))}
        requests.post(
            f"http://127.0.0.1:{port}/v1/files", files=sent, data={"purpose": "batch"}, timeout=60
        ).raise_for_status()
        driver = wait_until(lambda: driver_of(person), what="the batch driver")
        os.kill(pid_of(person, "supervisor"), signal.SIGKILL)
    finally:
        person.ok("down", "--now", timeout_s=120)
    wait_until(lambda: not runs(driver) and not person.ours(), what="all processes gone")


def driver_of(person: User) -> int | None:
    """The process number of a batch driver that holds its lock."""
    drivers = (pid for pid in person.ours() if "driver_process" in " ".join(command_line_of(pid)))
    return next(drivers, None) if is_held(Layout(str(person.root)), LOCK) else None


def command_line_of(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return []
