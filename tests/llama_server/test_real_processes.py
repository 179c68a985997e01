"""Processes of a real llama-server: started, asked, adopted and ended as a worker does it; skipped where there is no binary.

``SWARM_TEST_LLAMA_SERVER`` names it (default: ``llama-server`` on the PATH). It runs on the CPU, with a tiny model.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.config.settings import EngineSettings, LlmSettings, ModelSettings, QueueSettings, Settings
from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits, LoadOrder
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.engine_dispatch import EngineDispatch
from swarm.engines.engine_factory import model_server
from swarm.engines.processes.model_spec import markers_of
from swarm.proc.env_markers import find_marked
from swarm.proc.ports import free_port
from tests.helpers.blocking import wait_for
from tests.helpers.tinygguf import CONTEXT, write_tiny_gguf
from tests.helpers.wait import wait_until

VARIABLE = "SWARM_TEST_LLAMA_SERVER"
BINARY = shutil.which(os.environ.get(VARIABLE, "llama-server"))
pytestmark = [
    pytest.mark.llama_server,
    pytest.mark.skipif(BINARY is None, reason=f"no llama-server; name one in ${VARIABLE}"),
]
LIMITS = Limits(total_s=60, first_token_s=50, token_gap_s=30)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Tell me about the sea."}], "options": {"num_predict": 8}}


class Worker:
    def __init__(self, root: Path) -> None:
        for name in ("workers", "logs"):
            (root / name).mkdir()
        self.root, self.port = root, free_port()
        write_tiny_gguf(root / "tiny.gguf")
        (root / "cut.gguf").write_bytes((root / "tiny.gguf").read_bytes()[:-5000])
        self.made: list[EngineDispatch] = []

    def life(self, *flags: str) -> EngineDispatch:
        files = {name: ModelSettings(file=str(self.root / f"{name}.gguf")) for name in ("tiny", "cut")}
        settings = Settings(
            queue=QueueSettings(root=str(self.root)),
            llm=LlmSettings(engine="llama-server"),
            models=files,
            engines={"llama-server": EngineSettings(command=(str(BINARY), *flags))},
        )
        url = f"http://127.0.0.1:{self.port}"
        plan = WorkerPlan(name="w", engines=("llama-server",), port=self.port, model_port=self.port, url=url)
        made = model_server(plan, settings, root=self.root, env=dict(os.environ), log=logging.getLogger("w"))
        self.made.append(made)
        return made

    @property
    def processes(self) -> list:
        return find_marked(**markers_of("w", self.root))


@pytest.fixture
def worker(tmp_path) -> Iterator[Worker]:
    made = Worker(tmp_path)
    yield made
    for one in made.made:
        wait_for(one.close_work())
        one.close()
    assert not made.processes


def load(server: EngineDispatch, model: str = "tiny:latest", *, embedding: bool = False) -> None:
    order = LoadOrder(model=model, options={"num_ctx": CONTEXT, "num_thread": 1}, embedding=embedding)
    server.load(order, timeout_s=60)


def fault_of(call) -> TaskFault:
    with pytest.raises(TaskFault) as caught:
        call()
    return caught.value


def ask(server: EngineDispatch) -> str:
    return wait_for(server.run("/api/chat", CHAT, limits=LIMITS)).final["message"]["content"]


def test_load_ask_and_unload(worker):
    server = worker.life()
    load(server)
    (held,) = server.ps(5)
    assert (held.name, held.context_length, held.slots, held.size_vram_mib) == ("tiny:latest", CONTEXT, 1, 0)
    assert ask(server)
    command = Path(f"/proc/{worker.processes[0].pid}/cmdline").read_bytes()
    assert b"api-key" not in command
    server.unload("tiny:latest", 30)
    assert server.ps(5) == ()
    assert not worker.processes


def test_vectors(worker):
    server = worker.life("--pooling", "mean")
    load(server, embedding=True)
    reply = wait_for(server.run("/api/embed", {"model": "tiny", "input": ["one", "two"]}, limits=LIMITS))
    assert len(reply.final["embeddings"]) == 2


def test_what_cannot_be_loaded_is_told_from_what_is_too_old(worker):
    found = fault_of(lambda: load(worker.life("--no-such-flag")))
    assert (found.fault, found.kind) == ("deterministic", "engine_too_old"), found.message
    assert "version" in found.message
    found = fault_of(lambda: load(worker.life(), "cut:latest"))
    assert found.kind in ("load_failed", "bad_model_file"), found.message
    with socket.create_server(("127.0.0.1", worker.port)):
        assert fault_of(lambda: load(worker.life())).kind == "port_taken"


def test_it_is_adopted_and_started_again_after_its_death(worker):
    server = worker.life()
    load(server)
    (before,) = worker.processes
    server.release()
    server = worker.life()
    assert "adopted" in server.adopt()[0]
    assert ask(server), "with its key"
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: server.ps(5) == (), what="its death to be seen")
    assert ask(server)
    assert worker.processes[0] != before
