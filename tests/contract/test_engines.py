"""What every engine promises a worker, against simulated servers: one suite for all adapters, made as workers make them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.config.settings import EngineSettings, LlmSettings, QueueSettings, RepairSettings, Settings, SimSettings
from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits, LoadedModel, LoadOrder, Reply
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.engine_dispatch import WorkerServer
from swarm.engines.engine_factory import model_server
from swarm.engines.ollama.repair_actions import RepairActions
from swarm.engines.ollama.server import ServerNote
from swarm.engines.processes.model_spec import markers_of
from swarm.engines.remote.relay_address import RelayAddress
from swarm.engines.remote.relay_calls import RelayCalls
from swarm.engines.remote.remote_server import RemoteServer
from swarm.filesystem.temporary import read_note
from swarm.proc.env_markers import find_marked
from swarm.proc.ports import free_port
from tests.helpers.blocking import wait_for
from tests.helpers.relay import RunningRelay
from tests.helpers.simserver import Cancel, SimServer
from tests.helpers.wait import wait_until

MODEL, OTHER, EMBEDDER = "llama3.2:3b", "llama3.2:1b", "nomic-embed-text:latest"
QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
LIMITS = Limits(total_s=60, first_token_s=60, token_gap_s=60)


class Rig:
    """One engine on one worker, with a server that is simulated."""

    def __init__(self, root: Path, engine: str) -> None:
        for name in ("workers", "logs"):
            (root / name).mkdir()
        self.engine, self.root, self.port = engine, root, free_port()
        self.sim: SimServer | None = None
        self.knobs: dict[str, str] = {}
        url = f"http://127.0.0.1:{self.port}"
        self.plan = WorkerPlan(
            name="worker-1",
            gpus=(0,),
            gpu_uuids=("SIM-GPU-0",),
            engines=(engine,),
            port=self.port,
            model_port=self.port,
            url=url,
            simulated=True,
        )
        self.relay: RunningRelay | None = None
        if engine == "remote":
            self._lend()
        elif engine in ("ollama", "lab"):
            flags = ("serve", MODEL) if engine == "lab" else ()
            kind, models = "openai" if engine == "lab" else "ollama", (MODEL, OTHER, EMBEDDER)
            self.sim = SimServer(kind, *flags, port=self.port, models=models).start()
            self.plan = WorkerPlan(name="worker-1", engines=(engine,), url=url, adopted=True)
        self.made: list[WorkerServer] = []
        self.server = self.life()

    def _lend(self) -> None:
        """Its card is in another machine, lent by a relay."""
        models = json.dumps([MODEL, OTHER, EMBEDDER])
        config = f"[sim]\nload_s = 0.05\nrequest_s = 0.02\nmodels = {models}\n"
        self.relay = RunningRelay(self.root / "far" / "root", config=config)
        self.calls = RelayCalls(RelayAddress(url=self.relay.ready.cards[0], token=self.relay.token, holder="id0 here:/root"))
        note_path = self.relay.root / "workers" / "gpu0.server.json"
        wait_until(lambda: self.calls.state().server == "running", what="the server over there")
        self.port = read_note(note_path, ServerNote).port
        self.sim = SimServer(port=self.port)  # not started: to turn the knobs of the one that runs

    def life(self) -> WorkerServer:
        """The server as a life of the worker makes it."""
        if self.relay is not None:
            self.made.append(RemoteServer(self.calls))
            return self.made[-1]
        entry = EngineSettings(command=("vllm", "{model}", "{port}"), env=self.knobs)
        settings = Settings(
            queue=QueueSettings(root=str(self.root)),
            llm=LlmSettings(engine=self.engine),
            sim=SimSettings(load_s=0.05, request_s=0.02, models=(MODEL, OTHER, EMBEDDER)),
            engines={
                "vllm": entry,
                "llama-server": EngineSettings(env=self.knobs),
                "lab": EngineSettings(url=self.plan.url),
            },
        )
        made = model_server(self.plan, settings, root=self.root, env=dict(os.environ), log=logging.getLogger("worker-1"))
        self.made.append(made)
        return made

    def set(self, **knobs: Any) -> None:
        """Turn knobs of the server, or of those that are started from now on."""
        if self.sim is not None:
            self.sim.set(**knobs)
            return
        self.knobs |= {f"SWARM_SIM_{k.upper()}": ",".join(v) if isinstance(v, list) else str(v) for k, v in knobs.items()}
        self.server.close()
        self.server = self.life()

    def in_flight(self) -> int:
        """Requests that the simulated server works on."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/sim/state", timeout=60) as reply:
            return json.load(reply)["in_flight"]

    def load(self, model: str = MODEL, **more: Any) -> object:
        order = LoadOrder(model=model, options={"num_ctx": 4096}, embedding="embed" in model)
        return self.server.load(order, **({"timeout_s": 60, "cancel": None} | more))

    def run(self, endpoint: str = "/api/chat", *, model: str = MODEL, cancel: Cancel | None = None, **more: Any) -> Reply:
        body = {"model": model, "messages": QUESTION} if endpoint == "/api/chat" else {"model": model, **more.pop("body")}
        return wait_for(self.server.run(endpoint, body, limits=LIMITS, **more), cancel)

    def close(self) -> None:
        for one in self.made:
            wait_for(one.close_work())
            one.close()
        if self.sim is not None:
            self.sim.stop()
        if self.relay is not None:
            self.relay.destroy()
        assert not find_marked(**markers_of("worker-1", self.root))


@pytest.fixture(params=["ollama", "llama-server", "vllm", "lab", "remote"])
def rig(request, tmp_path) -> Iterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    made.close()


def held(rig: Rig) -> LoadedModel:
    (one,) = rig.server.ps(60)
    return one


starts_processes = pytest.mark.parametrize("rig", ["llama-server", "vllm"], indirect=True)
generates = pytest.mark.parametrize("rig", ["ollama", "llama-server", "vllm", "lab"], indirect=True)


def fault_of(call) -> TaskFault:
    with pytest.raises(TaskFault) as caught:
        call()
    return caught.value


def answers(rig: Rig) -> bool:
    """Whether a request is answered; a server in its death throes may refuse some."""
    try:
        return rig.run().simulated
    except TaskFault as fault:
        assert fault.fault == "infra", fault.message
        return False


def names(rig: Rig) -> list[str]:
    return [one.name for one in rig.server.ps(60)]


def test_load_ps_show_and_unload(rig: Rig) -> None:
    rig.load()
    assert names(rig) == [MODEL]
    assert not held(rig).spilled
    assert held(rig).context_length > 0
    assert rig.server.show(MODEL.upper(), 60).name == MODEL
    assert MODEL in [one.name for one in rig.server.tags(60)]
    rig.load()
    assert names(rig) == [MODEL], "a load of what is loaded changes nothing"
    rig.server.unload(MODEL, 60)
    wait_until(lambda: names(rig) == [], what="the model to be gone")


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_is_the_same_in_pieces_and_whole(rig: Rig, streamed: bool) -> None:
    rig.load()
    pieces: list[int] = []
    reply = rig.run(progress=pieces.append if streamed else None)
    assert re.match(r"\[simulated\] ", reply.final["message"]["content"])
    assert reply.final["done_reason"] == "stop"
    assert reply.simulated
    assert reply.tokens_in > 0
    assert reply.tokens_out > 0
    assert (sum(pieces) > 1) == streamed
    again = rig.run(progress=None if streamed else pieces.append)
    assert again.final["message"] == reply.final["message"]
    text = rig.run("/api/generate", body={"prompt": "What is 2 + 2?"})
    assert text.final["response"].startswith("[simulated] ")


@pytest.mark.parametrize("rig", ["ollama", "llama-server", "vllm", "remote"], indirect=True)
def test_embeddings(rig: Rig) -> None:
    rig.load(EMBEDDER)
    reply = rig.run("/api/embed", model=EMBEDDER, body={"input": ["one", "two"]})
    first, second = reply.final["embeddings"]
    assert first != second
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    assert reply.tokens_in > 0


def test_a_model_that_is_missing(rig: Rig) -> None:
    rig.load()
    for call in (lambda: rig.load("nope:1b"), lambda: rig.server.show("nope:1b", 60)):
        found = fault_of(call)
        assert (found.fault, found.kind) == ("deterministic", "model_missing"), found.message
    assert names(rig) == [MODEL], "it costs the loaded one nothing"


@pytest.mark.parametrize("rig", ["ollama", "llama-server", "vllm", "remote"], indirect=True)
def test_a_load_without_memory(rig: Rig) -> None:
    text = "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"
    rig.set(fail_load=text)
    found = fault_of(rig.load)
    assert (found.fault, found.kind) == ("infra", "out_of_memory"), found.message
    assert names(rig) == []
    rig.set(fail_load="")
    rig.load()
    assert names(rig) == [MODEL]


@pytest.mark.parametrize("when", ["hang_first", "hang_mid"])
def test_a_request_is_cancelled(rig: Rig, when: str) -> None:
    rig.set(faults=[when], fault_limit=1)
    rig.load()
    cancel, caught, pieces = Cancel(), [], []
    thread = threading.Thread(target=lambda: caught.append(fault_of(lambda: rig.run(cancel=cancel, progress=pieces.append))))
    thread.start()
    if when == "hang_mid":
        wait_until(lambda: pieces, what="the first piece")
    wait_until(lambda: rig.in_flight() == 1, what="the request to run")
    cancel.fire("cancelled")
    thread.join(60)
    assert (caught[0].fault, caught[0].kind) == ("cancelled", "cancelled")
    assert rig.run().simulated, "the next request works"


@starts_processes
def test_slots_and_context_are_the_servers_own_word(rig: Rig) -> None:
    rig.load()
    if rig.engine == "llama-server":
        assert (held(rig).slots, held(rig).context_length) == (1, 4096)
    else:
        assert (held(rig).slots, held(rig).context_length) == (0, 32768), "the command passes neither on"


@starts_processes
@pytest.mark.parametrize("rung", ["kill_runners", "restart_server"])
def test_a_server_that_hangs_is_ended_and_started_again(rig: Rig, rung: str) -> None:
    rig.load()
    (process,) = find_marked(**markers_of("worker-1", rig.root))
    os.kill(process.pid, signal.SIGSTOP)
    assert fault_of(lambda: rig.server.ps(0.2)).kind == "timeout"
    actions = RepairActions("worker-1", root=rig.root, gpu_uuids=("SIM-GPU-0",), limits=RepairSettings())
    assert str(process.pid) in str(getattr(actions, rung)())
    assert names(rig) == [], "it is cold now"
    assert rig.run().simulated
    assert actions.pids() == {one.pid for one in find_marked(**markers_of("worker-1", rig.root))}


@starts_processes
def test_a_server_that_died_is_started_again_by_the_next_request(rig: Rig) -> None:
    rig.load()
    for process in find_marked(**markers_of("worker-1", rig.root)):
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: names(rig) == [], what="its death to be seen")
    assert rig.run().simulated
    assert names(rig) == [MODEL]


@starts_processes
def test_a_request_that_kills_its_server_fails_alone(rig: Rig) -> None:
    rig.set(poison=["POISON=kill_runner"])
    rig.load()
    found = fault_of(lambda: rig.run("/api/generate", body={"prompt": "POISON"}))
    assert found.fault == "infra"
    wait_until(lambda: answers(rig), what="the next request to be answered by a new process")
    assert rig.run().simulated


@starts_processes
def test_the_next_life_takes_over_the_process(rig: Rig) -> None:
    rig.load()
    before = find_marked(**markers_of("worker-1", rig.root))
    rig.server.release()
    rig.server = rig.life()
    (line,) = rig.server.adopt()
    assert "adopted" in line
    assert names(rig) == [MODEL]
    assert rig.run().simulated, "its key is known"
    assert find_marked(**markers_of("worker-1", rig.root)) == before
    assert rig.life().adopt()


@pytest.mark.parametrize("rig", ["lab"], indirect=True)
def test_a_server_that_speaks_something_else(rig: Rig) -> None:
    rig.set(impostor="html")
    assert fault_of(lambda: rig.server.ps(60)).kind == "garbage"
    assert rig.sim is not None
    rig.sim.kill()
    assert fault_of(lambda: rig.server.ps(60)).kind == "server_down"
