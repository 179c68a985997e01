"""Workers whose cards are in another machine: work, a machine that freezes, one that is not there yet, a wrong token."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.core.faults import LOST_NODE
from swarm.core.worker import Heartbeat, WorkerRow
from swarm.proc.env_markers import ROOT_MARKER, find_marked, kill_marked
from swarm.proc.ports import free_port
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from tests.helpers.liveclient import LiveAnswer, live_body
from tests.helpers.relay import RunningRelay
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
CONFIG = """
[llm]
slots = 4
[sim]
load_s = 0.1
request_s = {request_s}
[ollama]
base_port = {port}
[worker]
heartbeat_s = 0.5
"""
ENTRY = """
[[workers]]
name = "{name}"
node = "{node}"
url = "{url}"
token = "{token}"
"""


class World:
    """A queue root here, and the relay of another machine."""

    def __init__(self, folder: Path, relay: RunningRelay, *entries: str, request_s: float = 0.05) -> None:
        self.folder, self.root, self.relay = folder, folder / "q", relay
        self.layout = Layout(str(self.root))
        self.submitted = 0
        self.config = folder / "c.toml"
        self.config.write_text(CONFIG.format(port=free_port(), request_s=request_s) + "".join(entries))
        self.config.chmod(0o600)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "swarm", *words, "--root", str(self.root), "--config", str(self.config)]

    def __call__(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, number: int) -> str:
        path = self.folder / "p.txt"
        path.write_text("".join(f"Prompt {self.submitted + n}\n" for n in range(number)))
        self.submitted += number
        return json.loads(self("submit", str(path), "--model", MODEL, "--json"))["batch_id"]

    def results(self, batch: str) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.completed()) == self.submitted, what="all tasks to be done")
        out = self.folder / f"{batch}.jsonl"
        self("results", batch, "-o", str(out))
        return [json.loads(line) for line in out.read_text().splitlines()]

    def beat(self, name: str) -> Heartbeat | None:
        return registry.read_heartbeat(self.layout, name)

    def row(self, name: str) -> WorkerRow:
        found = registry.read_row(self.layout, name)
        assert found is not None
        return found

    def attempts(self) -> list[dict[str, Any]]:
        """Of all tasks that completed."""
        return [one for path in self.completed() for one in json.loads(path.read_bytes())["attempts"]]

    def work_of(self, *workers: str) -> None:
        """Until each of these has completed one more task: more come as long as others are quicker."""
        before = Counter(one["worker"] for one in self.attempts())

        def each_has() -> bool:
            now = Counter(one["worker"] for one in self.attempts())
            if all(now[worker] > before[worker] for worker in workers):
                return True
            if len(self.completed()) == self.submitted:
                self.submit(20)
            return False

        wait_until(each_has, what=f"work of {workers}")

    def completed(self) -> list[Path]:
        """Their documents, without loads."""
        return [path for path in (self.root / "completed").rglob("*.json") if b'"task_class":"llm"' in path.read_bytes()]


def entry(name: str, url: str, token: str) -> str:
    return ENTRY.format(name=name, node=name.partition("-")[0], url=url, token=token)


@pytest.fixture(scope="module")
def relay(tmp_path_factory) -> Iterator[RunningRelay]:
    config = "[sim]\nload_s = 0.1\nrequest_s = 0.4\n"
    made = RunningRelay(tmp_path_factory.mktemp("far") / "root", "--node", "box2", simulate=2, config=config)
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def world(relay, tmp_path_factory) -> Iterator[World]:
    """One card here and one over there, all kept."""
    mine = entry("box2-gpu0", relay.ready.cards[0], relay.token.strip())
    made = World(tmp_path_factory.mktemp("near"), relay, mine, request_s=0.4)
    made("up", "--detach", "--simulate", "1")
    yield made
    subprocess.run(made.command("down", "--now"), capture_output=True, timeout=60, check=False)
    left = find_marked(**{ROOT_MARKER: str(made.root)})
    kill_marked(0.0, **{ROOT_MARKER: str(made.root)})
    assert not left


@pytest.fixture
def alone(relay, tmp_path) -> Iterator[Any]:
    """Makes worlds with one worker each, started by hand."""
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, url: str, token: str) -> tuple[World, subprocess.Popen[bytes]]:
        made = World(tmp_path, relay, entry(name, url, token))
        with (tmp_path / "err").open("wb") as err:
            running.append(subprocess.Popen(made.command("worker", name), stdout=subprocess.DEVNULL, stderr=err))
        return made, running[-1]

    yield start
    for one in running:
        one.kill()
        one.wait()


def state_of(world: World, name: str) -> str:
    beat = world.beat(name)
    return "" if beat is None else beat.status.value


def test_work_is_done_over_there_as_here(world: World) -> None:
    answers = world.results(world.submit(40))
    assert len(answers) == 40
    assert all(one["response"].startswith("[simulated] ") for one in answers)
    world.work_of("worker-1", "box2-gpu0")
    row = world.row("box2-gpu0")
    assert (row.node, row.gpu_uuids, row.gpus, row.simulated) == ("box2", ("box2/SIM-GPU-0",), (0,), True)
    beat = world.beat("box2-gpu0")
    assert beat is not None
    (card,) = beat.cards
    assert (card.node, card.uuid, card.fault) == ("box2", "box2/SIM-GPU-0", None)
    assert beat.server_version.endswith("-simulated")
    here = world.beat("worker-1")
    assert here is not None
    assert (here.cards, here.server_version) == ((), beat.server_version)
    log = world.root / "logs" / "ollama-box2-gpu0.log"
    wait_until(lambda: log.exists() and "Listening on" in log.read_text(), what="the log of the server over there")


def test_a_live_request_is_answered_over_there(world: World) -> None:
    world.work_of("box2-gpu0")
    wait_until(lambda: (beat := world.beat("box2-gpu0")) and beat.live and beat.live.limit, what="a place")
    request = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    answer = LiveAnswer(world.layout.live_socket("box2-gpu0"), live_body("live-1", request))
    pieces = list(answer.lines())
    assert answer.status == 200, pieces
    assert len(pieces) > 1
    assert "".join(piece["message"]["content"] for piece in pieces).startswith("[simulated] ")
    assert pieces[-1]["done"]


def test_a_machine_that_freezes_gives_its_tasks_back_and_works_again_once_it_wakes(world: World) -> None:
    wait_until(lambda: state_of(world, "box2-gpu0") == "idle", what="the worker to be ready")
    freeze_at_work(world)
    try:
        assert len(world.results(world.submit(20))) == 20
        wait_until(lambda: state_of(world, "box2-gpu0") == "unready", what="the worker to say so")
        assert "frozen or cut off" in world("explain", "box2-gpu0") + world("status")
    finally:
        os.kill(world.relay.process.pid, signal.SIGCONT)
    lost = [one for one in world.attempts() if one["outcome"] == "retried"]
    assert lost
    assert {one["error"]["type"] for one in lost} <= LOST_NODE
    assert {one["attempt"] for one in world.attempts()} == {1}, "no attempt was used up"
    assert not list(world.root.glob("workers/box2-gpu0.quarantine.json")), "its card was not lost"
    wait_until(lambda: state_of(world, "box2-gpu0") == "idle", what="the worker to be ready again")
    world.work_of("box2-gpu0")


def busy_over_there(world: World) -> bool:
    beat = world.beat("box2-gpu0")
    if beat is not None and beat.slots and beat.status == "busy":
        return True
    if len(world.completed()) == world.submitted:
        world.submit(60)
    return False


def freeze_at_work(world: World) -> None:
    """Stop the other machine while it holds tasks."""
    relay = world.relay.process.pid

    def frozen() -> bool:
        if not busy_over_there(world):
            return False
        os.kill(relay, signal.SIGSTOP)
        if os.listdir(world.layout.held_by("box2-gpu0")):
            return True
        os.kill(relay, signal.SIGCONT)
        return False

    wait_until(frozen, what="work over there")


def _nodes(world: World) -> dict[str, tuple[str, list[str]]]:
    nodes = json.loads(world("nodes", "--json"))["nodes"]
    return {one["name"]: (one["phase"], one["workers"]) for one in nodes}


def test_a_drained_machine_finishes_its_work_takes_no_more_and_is_used_again(world: World) -> None:
    wait_until(lambda: state_of(world, "box2-gpu0") in ("idle", "busy"), what="the worker to be ready")
    used = {"local": ("up", ["worker-1"]), "box2": ("up", ["box2-gpu0"])}
    wait_until(lambda: _nodes(world) == used, what="cards of both machines to be read again")
    assert [(one["index"], one["node"]) for one in json.loads(world("gpus", "--json"))["gpus"]] == [(0, ""), (0, "box2")]
    wait_until(lambda: busy_over_there(world), what="work over there")
    world("nodes", "drain", "box2")
    wait_until(lambda: not is_held(world.layout, "box2-gpu0"), what="its worker to have ended")
    assert "drained" in world("nodes")
    before = len([one for one in world.attempts() if one["worker"] == "box2-gpu0"])
    assert len(world.results(world.submit(20))) == 20
    ended = [one for one in world.attempts() if one["worker"] == "box2-gpu0"]
    assert len(ended) == before, "it took no more"
    assert {one["attempt"] for one in world.attempts()} == {1}
    world("nodes", "resume", "box2")
    wait_until(lambda: is_held(world.layout, "box2-gpu0") and state_of(world, "box2-gpu0") == "idle", what="it is back")
    world.work_of("box2-gpu0")


def test_a_machine_that_is_not_there_yet_is_waited_for_and_another_card_there_is_another_worker(alone) -> None:
    port = free_port()
    world, worker = alone("box3-gpu0", f"http://127.0.0.1:{port}/cards/gpu0", "a-token-of-twenty-characters")
    wait_until(lambda: (beat := world.beat("box3-gpu0")) and "nothing listens" in beat.reason, what="the reason")
    assert state_of(world, "box3-gpu0") == "unready"
    turn = world.beat("box3-gpu0").turn
    wait_until(lambda: world.beat("box3-gpu0").turn > turn, what="signs of life")
    token = world.folder / "token"
    token.write_text("a-token-of-twenty-characters")
    token.chmod(0o600)
    late = RunningRelay(
        world.folder / "late" / "root", "--listen", f"127.0.0.1:{port}", "--node", "box3", "--token-file", str(token)
    )
    try:
        wait_until(lambda: state_of(world, "box3-gpu0") == "idle", what="the worker to work")
        assert world.row("box3-gpu0").node == "box3"
    finally:
        late.destroy()
    words = ("--listen", f"127.0.0.1:{port}", "--node", "box4", "--token-file", str(token))
    other = RunningRelay(world.folder / "other" / "root", *words)
    try:
        assert worker.wait(60) == 0, "to be started anew"
        assert "card was box3/SIM-GPU-0, is box4/SIM-GPU-0" in (world.root / "logs" / "box3-gpu0.log").read_text()
    finally:
        other.destroy()


def test_a_worker_that_waits_can_be_stopped(alone) -> None:
    world, worker = alone("box3-gpu0", f"http://127.0.0.1:{free_port()}/cards/gpu0", "a-token-of-twenty-characters")
    wait_until(lambda: state_of(world, "box3-gpu0") == "unready", what="the worker to wait")
    worker.terminate()
    assert worker.wait(60) == 0
    assert state_of(world, "box3-gpu0") == "stopped"


def test_a_wrong_token_is_refused_and_shown_nowhere(alone, relay) -> None:
    world, worker = alone("box2-gpu1", relay.ready.cards[1], "wrong-token")
    assert worker.wait(60) == 2
    assert "refuses our token" in (world.folder / "err").read_text()
    told = "".join(path.read_text(errors="replace") for path in world.root.rglob("*") if path.is_file())
    assert "wrong-token" not in told + (world.folder / "err").read_text()
