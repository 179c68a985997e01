"""Whole swarms whose workers have other engines than Ollama, with simulated servers: work, deaths, the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.engines.processes.model_process import running_note
from swarm.engines.processes.model_spec import markers_of, note_path
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER, find_marked, find_marked_values
from swarm.proc.ports import free_port
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
CONFIG = """
[llm]
engine = "{engine}"
[sim]
load_s = 0.1
tokens_per_s = 200
[ollama]
base_port = {port}
[supervisor]
restart_base_s = 0.2
[engines.vllm]
command = ["vllm", "serve", "{{model}}", "--port", "{{port}}"]
[engines.lab]
url = "http://127.0.0.1:{far}"
"""


class Swarm:
    def __init__(self, folder: Path, engine: str, more: str = "") -> None:
        self.folder, self.root = folder, folder / "q"
        self.far = free_port()
        (folder / "c.toml").write_text(CONFIG.format(engine=engine, port=free_port(), far=self.far) + more)
        (folder / "c.toml").chmod(0o600)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "swarm", *words, "--root", str(self.root), "--config", str(self.folder / "c.toml")]

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def run(self, items: int = 12, *, simulate: int = 1, model: str = MODEL) -> list[dict]:
        """``swarm run`` of so many prompts; the answers."""
        (self.folder / "p.txt").write_text("".join(f"Prompt {n}\n" for n in range(items)))
        self("run", str(self.folder / "p.txt"), "-o", str(self.folder / "out.jsonl"), "--model", model, *simulated(simulate))
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def note(self, worker: str = "worker-1"):
        return running_note(note_path(worker, self.root), markers_of(worker, self.root))

    def processes(self) -> dict:
        return find_marked_values(MODEL_MARKER, **{ROOT_MARKER: str(self.root)})

    def log(self, name: str = "worker-1") -> str:
        path = self.root / f"logs/{name}.log"
        return path.read_text() if path.exists() else ""


def simulated(number: int) -> list[str]:
    return ["--simulate", str(number)] if number else []


@pytest.fixture
def swarm(tmp_path) -> Iterator[type]:
    made: list[Swarm] = []

    def make(engine: str, more: str = "") -> Swarm:
        made.append(Swarm(tmp_path, engine, more))
        return made[-1]

    yield make
    for one in made:
        subprocess.run(one.command("down", "--now"), capture_output=True, timeout=60, check=False)
        assert not find_marked(**{ROOT_MARKER: str(one.root)})


@pytest.mark.parametrize("engine", ["llama-server", "vllm"])
def test_a_run_with_an_engine_that_starts_a_process_for_each_model(swarm, engine):
    one = swarm(engine, f'[models."{MODEL}".options]\nnum_ctx = 1024\n')  # less than vLLM gives by itself
    answers = one.run(12, simulate=2)
    assert len(answers) == 12
    assert all(a["response"].startswith("[simulated] ") for a in answers)
    said = one.log("worker-1") + one.log("worker-2")  # one of them may be quick enough to do it all
    assert f"{engine} started for {MODEL} as pid" in said
    assert "Completed llm task" in said
    assert "no longer loaded" not in said
    assert not one.processes(), "they end with the swarm"
    assert not list(one.root.glob("workers/*.models.json"))


def test_a_running_server_is_used_and_left_running(swarm):
    one = swarm("lab")
    argv = [sys.executable, "-m", "swarm.simulator", "--engine", "openai", "serve", "Some/Model", "--port", str(one.far)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as server:
        try:
            answers = one.run(6, simulate=0, model="some/model")
            assert len(answers) == 6
            assert server.poll() is None
            assert "received shutdown signal" in one.log()
            assert json.loads(one("doctor", "--json", code=0))["healthy"]
        finally:
            server.kill()


def test_models_of_two_engines_on_one_worker(swarm):
    one = swarm("ollama", '[models."qwen2.5:7b"]\nengine = "llama-server"\n')
    lines = [{"prompt": f"Prompt {n}", "model": MODEL if n % 2 else "qwen2.5:7b"} for n in range(8)]
    (one.folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one("run", str(one.folder / "in.jsonl"), "-o", str(one.folder / "out.jsonl"), "--simulate", "1")
    assert len((one.folder / "out.jsonl").read_text().splitlines()) == 8
    said = one.log()
    assert "llama-server started for qwen2.5:7b" in said
    assert f"Model loaded: {MODEL}" in said
    assert "Model unloaded: " in said, "one engine's model makes room for the other's"


def up(one: Swarm, number: int = 1) -> None:
    one("up", "--detach", "--simulate", str(number))


def submit(one: Swarm, prompt: str, *more: str) -> str:
    return one("submit", "--prompt", prompt, "--model", MODEL, *more)


def test_the_deaths_of_server_and_worker_lose_nothing(swarm):
    one = swarm("llama-server")
    up(one)
    submit(one, "first", "--wait")
    first = one.note().process
    os.kill(first.pid, signal.SIGKILL)
    submit(one, "second", "--wait")
    second = one.note().process
    assert second != first
    row = json.loads((one.root / "workers/worker-1.json").read_text())
    os.kill(row["process"]["pid"], signal.SIGKILL)
    wait_until(lambda: "adopted: it runs as pid" in one.log(), what="the worker's next life to adopt the process")
    submit(one, "third", "--wait")
    assert one.note().process == second, "the worker's death costs no load"
    one("down")
    assert not one.processes()


def test_what_a_killed_supervisor_and_worker_left_is_found_and_ended(swarm):
    one = swarm("llama-server")
    up(one)
    submit(one, "first", "--wait")
    for name in ("supervisor", "worker-1"):
        os.kill(json.loads((one.root / f"workers/{name}.json").read_text())["process"]["pid"], signal.SIGKILL)
    left = one.note().process
    findings = json.loads(one("doctor", "--json", code=1))["findings"]
    assert "supervisor-died" in [finding["code"] for finding in findings]
    assert f"models-worker-1 (pid {left.pid}) ended" in one("down")
    assert not one.processes()


def test_a_model_without_room_fails_its_load_and_leaves_no_process(swarm):
    one = swarm("llama-server", '[models."qwen2.5:32b"]\noptions = { num_ctx = 131072 }\n')
    up(one)
    one("submit", "--prompt", "x", "--model", "qwen2.5:32b")
    wait_until(lambda: "out of memory" in one.log(), what="the load to fail")
    assert not one.processes()
    shown = json.loads(one("explain", "worker-1", "--json"))
    assert "qwen2.5:32b" in json.dumps(shown)


def test_an_engine_that_is_missing_starts_nothing(swarm):
    entry = '[engines.missing]\ncommand = ["/no/x", "{model}", "{port}"]\n[[workers]]\nname = "w"\nengine = "missing"\n'
    one = swarm("missing", entry)
    done = subprocess.run(one.command("up", "--detach"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "engine 'missing' of w: '/no/x' does not exist" in done.stderr


def test_a_request_that_kills_every_server_fails_alone(swarm):
    poison = '[engines.llama-server]\nenv = { SWARM_SIM_POISON = "POISON=kill_runner" }\n[retry]\nbackoff_base_s = 0.1\n'
    one = swarm("llama-server", poison)
    (one.folder / "p.txt").write_text("".join(f"Prompt {n}\n" for n in range(20)) + "POISON\n")
    words = ("run", str(one.folder / "p.txt"), "-o", str(one.folder / "out.jsonl"), "--model", MODEL, "--simulate", "1")
    one(*words, code=1)
    answers = [json.loads(line) for line in (one.folder / "out.jsonl").read_text().splitlines()]
    failed = [answer for answer in answers if answer["status"] != "completed"]
    assert [answer["prompt"] for answer in failed] == ["POISON"]
    assert failed[0]["error"]["type"] == "poison"
    assert "broke the server" in one.log()
