"""Live requests at a real worker with a simulated server: streams, refusals, faults, and batch work that gives way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.proc.ports import free_port
from tests.helpers.liveclient import LiveAnswer, live_body
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
SLOTS = 4
CONFIG = """
[worker]
heartbeat_s = 0.1
poll_s = 0.1
[llm]
slots = {slots}
max_reply_mib = 2
[ollama]
base_port = {port}
[sim]
load_s = 0.05
[supervisor]
restart_base_s = 0.05
"""
ENGINE = '[models."{model}"]\nengine = "llama-server"\n'


class Swarm:
    """One worker with one simulated card."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder, self.root = (
            folder,
            folder / "a-root-whose-path-is-longer-than-an-address-of-a-socket-may-be" / ("q" * 60),
        )
        self.root.parent.mkdir()
        self.port = free_port()
        (folder / "c.toml").write_text(CONFIG.format(slots=SLOTS, port=self.port) + more)
        (folder / "c.toml").chmod(0o600)
        self.number = 0

    def __call__(self, *words: str) -> str:
        command = [sys.executable, "-m", "swarm", *words, "--root", str(self.root), "--config", str(self.folder / "c.toml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def socket(self) -> Path:
        return self.root / "live" / "worker-1.sock"

    @property
    def beat(self) -> dict[str, Any]:
        return json.loads((self.root / "heartbeats/worker-1.json").read_text())

    def knobs(self, **knobs: Any) -> None:
        """Of the simulated Ollama."""
        url = f"http://127.0.0.1:{self.port}/sim/knobs"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(knobs).encode(), method="POST"), timeout=60):
            pass

    def in_flight(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/sim/state", timeout=60) as reply:
            return json.loads(reply.read())["in_flight"]

    def ask(self, prompt: str = "hello", *, endpoint: str = "/api/chat", name: str = "", **more: Any) -> LiveAnswer:
        """A chat, unless ``more`` or ``endpoint`` want another request."""
        self.number += 1
        said = {"messages": [{"role": "user", "content": prompt}]} if endpoint == "/api/chat" else {}
        return LiveAnswer(
            str(self.socket), live_body(name or f"live-{self.number}", {"model": MODEL, **said, **more}, endpoint)
        )

    def submit(self, number: int, prompt: str = "batch") -> str:
        """Id of a batch of so many new tasks."""
        given = self.folder / f"{prompt}.txt"
        given.write_text("".join(f"{prompt} {n}\n" for n in range(number)))
        return json.loads(self("submit", str(given), "--model", MODEL, "--json"))["batch_id"]

    def quiet(self) -> None:
        """No place is kept for live requests any more."""
        wait_until(lambda: not self.beat["live"].get("kept"))

    def idle(self) -> None:
        """Nothing is at work at the server, and a later heartbeat says so of the worker."""
        wait_until(lambda: self.in_flight() == 0, what="the server to be idle")
        before = self.beat

        def said() -> bool:
            now = self.beat
            later = (now["epoch"], now["seq"]) > (before["epoch"], before["seq"])
            return later and not now.get("slots") and not now.get("live", {}).get("in_flight")

        wait_until(said, what="the worker to be idle")
        self.ready()

    def load(self) -> Swarm:
        """With its model loaded."""
        self("submit", "--prompt", "first", "--model", MODEL, "--wait")
        self.ready()
        return self

    def ready(self) -> None:
        wait_until(lambda: self.beat.get("live", {}).get("limit"), what="the first place for live requests")

    def attempts(self, batch: str, number: int) -> list[dict[str, Any]]:
        """Of the batch's tasks, once so many have completed."""

        def completed() -> list[str]:
            return [path.stem for path in self.root.glob("completed/*/*.json") if f'"{batch}"' in path.read_text()]

        wait_until(lambda: len(completed()) == number, what="all tasks completed")
        shown = [json.loads(self("queue", "show", task, "--json")) for task in completed()]
        return [attempt for one in shown for attempt in one["attempts"]]

    def worker_pid(self) -> int:
        return self.beat["pid"]


@pytest.fixture(scope="module")
def ollama(tmp_path_factory) -> Iterator[Swarm]:
    yield from running(tmp_path_factory.mktemp("ollama"))


def running(folder: Path, more: str = "") -> Iterator[Swarm]:
    swarm = Swarm(folder, more)
    swarm("up", "--detach", "--simulate", "1")
    try:
        yield swarm.load()
    finally:
        swarm("down", "--now")


@pytest.fixture
def swarm(ollama: Swarm) -> Iterator[Swarm]:
    """Idle, with a quick server, also where the test before has left requests."""
    ollama.knobs(request_s=0.1, lines=60, faults=[], poison=[], hold="")
    ollama.idle()
    yield ollama


def text_of(lines: list[dict[str, Any]]) -> str:
    return "".join(line["message"]["content"] for line in lines)


def test_a_chat_comes_in_pieces_and_ends_with_its_counts(swarm):
    answer = swarm.ask()
    lines = list(answer.lines())
    assert answer.status == 200
    assert len(lines) > 3
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert text_of(lines).startswith("[simulated] ")
    assert {line["model"] for line in lines} == {MODEL}
    assert lines[-1]["eval_count"] > 0
    path = swarm.root / "logs/worker-1.log"
    log = wait_until(lambda: "Answered live request live-" in path.read_text() and path.read_text(), what="a line of it")
    assert "hello" not in log
    assert "[simulated] " not in log.partition("Worker initialized")[2].replace("(simulated)", "")


def test_a_tool_is_called_and_texts_are_embedded(swarm):
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    lines = list(swarm.ask(tools=[tool]).lines())
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert [call["function"]["name"] for call in calls] == ["look"]
    (whole,) = swarm.ask(endpoint="/api/embed", input=["one", "two"]).lines()
    assert len(whole["embeddings"]) == 2
    assert list(swarm.ask(endpoint="/api/generate", prompt="hi").lines())[-1]["done"]


def refused(answer: LiveAnswer) -> tuple[int, dict[str, Any]]:
    (said,) = answer.lines()
    return answer.status, said["error"]


def test_what_is_refused_and_how(swarm):
    status, error = refused(swarm.ask(model="qwen2.5:7b"))
    assert (status, error["kind"]) == (409, "model_not_loaded")
    assert error["retry_after_s"] > 0
    status, error = refused(swarm.ask(options={"num_ctx": 512}))
    assert (status, error["fault"], error["kind"]) == (422, "deterministic", "load_option")
    assert "num_ctx" in error["message"]
    for body in (
        b"{",
        b"[]",
        live_body("a b", {"model": MODEL}),
        live_body("x", {}),
        live_body("x", {"model": MODEL}, "/api/pull"),
    ):
        status, error = refused(LiveAnswer(str(swarm.socket), body))
        assert (status, error["fault"], error["kind"]) == (422, "deterministic", "bad_request")
    assert os.stat(swarm.socket).st_mode & 0o777 == 0o600
    assert os.stat(swarm.socket.parent).st_mode & 0o777 == 0o700


def test_who_hangs_up_ends_the_run(swarm):
    swarm.knobs(request_s=60.0)
    answer = swarm.ask()
    assert next(answer.lines())
    assert wait_until(lambda: swarm.beat["live"].get("in_flight"))
    answer.hang_up()
    wait_until(lambda: swarm.in_flight() == 0, what="the request's end at the server")
    wait_until(lambda: not swarm.beat["live"].get("in_flight"))


def test_who_reads_nothing_holds_no_place(swarm):
    swarm.knobs(faults=["endless"])
    answer = swarm.ask()
    assert answer.status == 200
    wait_until(lambda: swarm.in_flight() == 0, what="the end of the request at the server, at the limit of its answer")
    swarm.knobs(faults=[])
    wait_until(lambda: not swarm.beat["live"].get("in_flight"))
    assert list(answer.lines())[-1]["error"]["kind"] == "reply_too_large"


def test_batch_work_gives_way_and_loses_nothing(swarm):
    swarm.knobs(hold="batch ")
    swarm.quiet()
    before = swarm.beat["live"].get("yielded", 0)
    batch = swarm.submit(SLOTS + 1)
    wait_until(lambda: len(swarm.beat.get("slots", ())) >= SLOTS, what="a full card")
    lines = list(swarm.ask(name="at-once").lines())
    assert lines[-1]["done"]
    wait_until(lambda: swarm.beat["live"].get("yielded", 0) > before, what="a task that gave way")
    wait_until(lambda: keeps_a_place(swarm.beat), what="a place to be kept")
    swarm.knobs(hold="")
    attempts = swarm.attempts(batch, SLOTS + 1)
    assert [(one["attempt"], one["outcome"]) for one in attempts] == [(1, "completed")] * (SLOTS + 1)
    assert not list(swarm.root.glob("failed/*/*.json"))


def keeps_a_place(beat: dict[str, Any]) -> bool:
    return beat["live"].get("kept") == 1 and len(beat.get("slots", ())) < SLOTS


def test_no_more_than_the_share_come_in_at_once(swarm):
    swarm.knobs(request_s=60.0)
    places = swarm.beat["live"]["limit"]
    assert places == SLOTS // 2
    answers = [swarm.ask() for _ in range(places)]
    status, error = refused(swarm.ask())
    assert (status, error["kind"]) == (409, "busy")
    same = LiveAnswer(str(swarm.socket), live_body(f"live-{swarm.number - 1}", {"model": MODEL, "messages": []}))
    assert refused(same)[0] in (409, 422), "an id that is in flight"
    for answer in answers:
        answer.hang_up()


def test_a_fault_before_the_first_piece_says_whether_another_card_may_be_tried(swarm):
    swarm.knobs(faults=["reset"])
    status, error = refused(swarm.ask())
    assert (status, error["fault"], error["elsewhere"]) == (502, "infra", True)
    swarm.knobs(faults=[])
    wait_until(lambda: list(swarm.ask().lines())[-1].get("done"), what="the worker takes requests again")


def test_a_fault_in_the_answer_is_its_last_line_and_blames_no_batch_task(swarm):
    swarm.quiet()
    swarm.knobs(hold="innocent", poison=["BREAK=kill_runner"])
    batch = swarm.submit(SLOTS - 1, "innocent")
    wait_until(lambda: len(swarm.beat.get("slots", ())) >= SLOTS - 1)
    answer = swarm.ask("please BREAK it")
    *pieces, last = answer.lines()
    assert pieces
    assert last["error"]["fault"] in ("infra", "transient")
    swarm.knobs(hold="")
    faults = {attempt.get("fault") for attempt in swarm.attempts(batch, SLOTS - 1)}
    assert faults <= {None, "suspect", "infra"}, "none of them used up an attempt, or is said to have broken it"
    swarm.ready()


def test_a_worker_that_stops_finishes_what_it_has_and_takes_no_more(swarm):
    swarm.knobs(hold="hello")
    pid = swarm.worker_pid()
    answer = swarm.ask()
    lines = answer.lines()
    next(lines)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: swarm.beat["status"] == "draining")
    status, error = refused(swarm.ask())
    assert (status, error["kind"]) == (409, "draining")
    swarm.knobs(hold="")
    assert list(lines)[-1]["done"]
    wait_until(lambda: swarm.worker_pid() != pid, what="the next life")
    swarm.ready()
    assert list(swarm.ask().lines())[-1]["done"]


def test_a_worker_that_is_killed_leaves_a_socket_that_its_next_life_replaces(swarm):
    swarm.knobs(request_s=60.0)
    pid = swarm.worker_pid()
    answer = swarm.ask()
    lines = answer.lines()
    next(lines)
    os.kill(pid, signal.SIGKILL)
    assert not any(line["done"] for line in lines), "the answer breaks off"
    swarm.knobs(request_s=0.1)
    wait_until(lambda: swarm.worker_pid() != pid, what="the next life")
    swarm.ready()
    assert list(swarm.ask().lines())[-1]["done"]
    swarm("queue", "fsck")


def test_pieces_of_an_engine_with_another_api_come_in_the_same_form(tmp_path):
    for swarm in running(tmp_path, ENGINE.format(model=MODEL)):
        lines = list(swarm.ask().lines())
        assert len(lines) > 3
        assert text_of(lines).startswith("[simulated] ")
        assert {line["model"] for line in lines} == {MODEL}
        assert lines[-1]["done"]
        assert lines[-1]["eval_count"] > 0
