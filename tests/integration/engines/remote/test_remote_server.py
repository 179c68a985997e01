"""A card of another machine as its worker sees it: what comes over faithfully, and what a lost machine looks like."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from swarm.config.settings import RepairSettings
from swarm.core.faults import LOST_NODE, TaskFault
from swarm.core.models.model_server import Limits, LoadOrder
from swarm.engines.engine_dispatch import EngineDispatch
from swarm.engines.ollama.client import OllamaClient
from swarm.engines.remote import relay_faults
from swarm.engines.remote.log_mirror import LogMirror
from swarm.engines.remote.relay_calls import RelayCalls
from swarm.engines.remote.remote_cards import AnsweredCards, RemoteCards
from swarm.engines.remote.remote_repair import RemoteRepair
from swarm.engines.remote.remote_server import RemoteServer
from swarm.worker.executors.embedding_packs import EmbeddingPacks
from tests.helpers.blocking import wait_for
from tests.helpers.relay_double import CARD, RelayDouble
from tests.helpers.simserver import Cancel, SimServer
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
LIMITS = Limits(total_s=60, first_token_s=60, token_gap_s=60)
SOON_S = 1.0
"""In place of the eight seconds that a machine may be silent."""


@pytest.fixture(scope="module")
def sim() -> Iterator[SimServer]:
    with SimServer(models=(MODEL, "nomic-embed-text"), env={"OLLAMA_NUM_PARALLEL": "256"}) as made:
        yield made


@pytest.fixture
def relay(sim: SimServer) -> Iterator[RelayDouble]:
    sim.set(faults=[], fault_limit=-1, request_s=0.02, ps_hang=False)
    client = OllamaClient(sim.url)
    with RelayDouble(EngineDispatch({"ollama": client}, lambda _model: "ollama")) as made:
        yield made
    client.close()
    wait_for(client.close_work())


@pytest.fixture
def server(relay: RelayDouble) -> Iterator[RemoteServer]:
    made = RemoteServer(relay.calls)
    yield made
    wait_for(made.close_work())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = relay_faults.NodeDeadlines.__init__
    monkeypatch.setattr(
        relay_faults.NodeDeadlines,
        "__init__",
        lambda self, url, total_s, **more: bounded(self, url, total_s, **more, silent_s=SOON_S),
    )


def fault_of(call) -> TaskFault:
    with pytest.raises(TaskFault) as caught:
        call()
    return caught.value


def run(server: RemoteServer, cancel: Cancel | None = None, **more):
    return wait_for(server.run("/api/chat", CHAT, **({"limits": LIMITS} | more)), cancel)


def run_through(calls: RelayCalls):
    server = RemoteServer(calls)
    try:
        return run(server)
    finally:
        wait_for(server.close_work())


def test_an_answer_comes_with_its_progress_and_its_pieces(server: RemoteServer, sim: SimServer) -> None:
    steps: list[int] = []
    pieces: list[dict] = []
    reply = run(server, progress=steps.append, on_piece=pieces.append)
    here = sim.client.run("/api/chat", CHAT, limits=LIMITS)
    assert reply.final["message"] == here.final["message"]
    assert (reply.tokens_in, reply.tokens_out, reply.simulated) == (here.tokens_in, here.tokens_out, True)
    told = "".join(piece["message"]["content"] for piece in [*pieces, reply.last])
    assert told == reply.final["message"]["content"]
    assert sum(steps) == len(pieces) > 1


@pytest.mark.parametrize(
    ("mode", "fault", "kind"),
    [("error_500", "infra", "runner_died"), ("half_stream", "transient", "half_stream"), ("busy", "transient", "busy")],
)
def test_a_fault_is_carried_over_as_it_was_raised(server, sim, mode: str, fault: str, kind: str) -> None:
    sim.set(faults=[mode])
    found = fault_of(lambda: run(server))
    assert (found.fault, found.kind) == (fault, kind)
    missing = fault_of(lambda: server.show("nope", 60))
    assert (missing.fault, missing.kind) == ("deterministic", "model_missing")


def test_the_limits_of_a_request_are_kept_over_there(server: RemoteServer, sim: SimServer) -> None:
    sim.set(faults=["hang_first"])
    found = fault_of(lambda: run(server, limits=Limits(total_s=60, first_token_s=0.3)))
    assert (found.fault, found.kind) == ("transient", "first_token_timeout")
    wait_until(lambda: sim.state()["in_flight"] == 0, what="the request to end over there")


@pytest.mark.usefixtures("impatient")
def test_a_machine_that_falls_silent_is_nobodys_fault(
    server: RemoteServer, relay: RelayDouble, sim: SimServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.set(request_s=0.3)
    pieces: list[int] = []

    def heard(count: int) -> None:
        pieces.append(count)
        relay.silent = True

    while not pieces:  # or it was taken for silent before it had said anything: here both stand still at the same time
        found = fault_of(lambda: run(server, progress=heard))
    assert (found.fault, found.kind) == ("infra", "node_silent")
    assert fault_of(lambda: server.ps(0.1)).kind in LOST_NODE
    relay.silent = False
    monkeypatch.undo()
    assert run(server).simulated


def test_a_relay_that_is_gone_is_nobodys_fault_and_is_used_again_when_it_is_back(
    server: RemoteServer, relay: RelayDouble, sim: SimServer
) -> None:
    sim.set(request_s=600)
    caught: list[TaskFault] = []
    thread = threading.Thread(target=lambda: caught.append(fault_of(lambda: run(server))))
    thread.start()
    wait_until(lambda: sim.state()["in_flight"] == 1, what="the request to run")
    relay.stop()
    thread.join(60)
    assert (caught[0].fault, caught[0].kind) == ("infra", "node_lost")
    found = fault_of(lambda: run(server))
    assert (found.fault, found.kind) == ("infra", "node_down")
    assert fault_of(lambda: server.ps(60)).kind == "node_down"
    sim.set(request_s=0.02)
    relay.start()
    assert list(server.ps(60)) is not None
    assert run(server).simulated


def test_hanging_up_ends_it_over_there(server: RemoteServer, sim: SimServer) -> None:
    sim.set(request_s=600)
    cancel, caught = Cancel(), []
    thread = threading.Thread(target=lambda: caught.append(fault_of(lambda: run(server, cancel))))
    thread.start()
    wait_until(lambda: sim.state()["in_flight"] == 1, what="the request to run")
    cancel.fire("cancelled")
    thread.join(60)
    assert (caught[0].fault, caught[0].kind) == ("cancelled", "cancelled")
    wait_until(lambda: sim.state()["in_flight"] == 0, what="the request to end over there")


def test_texts_that_share_a_request_get_their_own_vectors(server: RemoteServer, sim: SimServer) -> None:
    packs = EmbeddingPacks(server)
    bodies = [{"model": "nomic-embed-text", "input": f"text {n}", "truncate": False} for n in range(40)]

    async def all_of_them() -> list:
        return await asyncio.gather(*(packs.embed(body, limits=LIMITS, marker=None) for body in bodies))

    for body, reply in zip(bodies, wait_for(all_of_them()), strict=True):
        assert reply.final["embeddings"] == sim.client.run("/api/embed", body, limits=LIMITS).final["embeddings"]


def test_256_requests_at_once(server: RemoteServer, sim: SimServer) -> None:
    async def all_of_them() -> list:
        return await asyncio.gather(
            *(server.run("/api/chat", CHAT, limits=LIMITS, progress=lambda _n: None) for _ in range(256))
        )

    sim.set(request_s=0.5)
    server.load(LoadOrder(model=MODEL, slots=0), timeout_s=60)
    assert all(reply.simulated for reply in wait_for(all_of_them()))


def test_what_is_wrong_with_the_link_says_what_to_do(relay: RelayDouble) -> None:
    wrong = relay.client("another")
    for call in (wrong.node, wrong.state, lambda: run_through(wrong)):
        found = fault_of(call)
        assert (found.fault, found.kind) == ("infra", "wrong_token")
        assert "another" not in found.message, "no token is shown"
    relay.wire = 99
    found = fault_of(relay.calls.node)
    assert (found.fault, found.kind) == ("infra", "wire_version")
    assert "99" in found.message
    nowhere = relay.client(url=relay.url.replace("gpu0", "gpu7"))
    assert fault_of(nowhere.state).kind == "no_relay"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]",
        b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
    ],
)
def test_something_that_speaks_otherwise(relay: RelayDouble, data: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    other = relay.client(url=f"http://127.0.0.1:{listener.getsockname()[1]}/cards/gpu0")
    assert fault_of(other.state).kind == "no_relay"
    found = fault_of(lambda: run_through(other))
    assert found.fault == "infra"
    assert found.kind in ("no_relay", "node_lost")
    thread.join(60)
    listener.close()


def test_repairs_go_over_and_a_lost_machine_is_repaired_by_nobody(relay: RelayDouble, tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    log = logging.getLogger("box2-gpu0")
    repair = RemoteRepair(relay.calls, "box2-gpu0", root=tmp_path, gpu_uuids=("box2/0",), limits=RepairSettings(), log=log)
    assert repair.kill_runners() == ("pid 7",)
    assert repair.restart_server() == "pid 7"
    assert relay.repairs == ["kill_runners", "restart_server"]
    assert "tried again" in repair.quarantine("it hangs")
    assert "it hangs" in repair.quarantined(), "the note is here"
    relay.stop()
    assert repair.kill_runners() == ()
    assert repair.restart_server() is None


def test_a_lost_machine_gives_a_reading_with_a_fault_and_no_lost_card(relay: RelayDouble) -> None:
    changed: list[str] = []
    calls = relay.calls
    cards = RemoteCards(calls, calls.state(), changed.append, node="box2")
    judged = AnsweredCards(cards)
    (reading,) = judged.read()
    assert (reading.node, reading.uuid, reading.memory_total_mib, reading.fault) == ("box2", "box2/0", 24576, None)
    assert (cards.pids(), RemoteServer(calls).version()) == (frozenset({7}), "1.2")
    relay.stop()
    (reading,) = cards.read()
    assert reading.fault is not None
    assert (reading.node, reading.uuid) == ("box2", "box2/0")
    assert judged.read() == ()
    relay.start()
    relay.card = msgspec.structs.replace(CARD, uuid="box2/other")
    judged.read()
    cards.read()
    assert changed == ["card was box2/0, is box2/other"]


def test_a_number_of_slots_that_is_set_there_is_one_of_the_facts_a_worker_starts_with(relay: RelayDouble) -> None:
    changed: list[str] = []
    relay.card = msgspec.structs.replace(CARD, slots=4)
    cards = RemoteCards(relay.calls, relay.calls.state(), changed.append, node="box2")
    relay.card = msgspec.structs.replace(CARD, slots=8)
    cards.read()
    assert (cards.card.slots, changed) == (8, [])
    relay.card = msgspec.structs.replace(CARD, slots=8, slots_set=True)
    cards.read()
    assert changed == ["slots was not set, is 8"]


def test_the_log_is_copied_as_it_grows_and_goes_on_in_the_next_life(relay: RelayDouble, tmp_path: Path) -> None:
    for name in ("workers", "logs"):
        (tmp_path / name).mkdir()
    path = tmp_path / "logs" / "ollama-box2-gpu0.log"

    def life() -> LogMirror:
        return LogMirror(relay.calls, "box2-gpu0", root=tmp_path, log=logging.getLogger("box2-gpu0"))

    relay.log = "one\n"
    mirror = life()
    mirror.start()
    wait_until(lambda: path.exists() and path.read_text() == "one\n", what="the first line")
    relay.log += "two\n"
    wait_until(lambda: path.read_text() == "one\ntwo\n", what="the second line")
    mirror.stop()
    relay.log += "three\n"
    assert life().copy()
    assert path.read_text() == "one\ntwo\nthree\n"
