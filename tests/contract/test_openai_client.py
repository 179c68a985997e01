"""What the client of OpenAI's API promises, against simulated servers of two kinds that know all of the bad manners."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from swarm.core.faults import CancelToken, TaskFault
from swarm.core.models.engines import EngineKind
from swarm.core.models.model_server import Limits, Reply
from swarm.engines.openai.client import OpenAIClient
from tests.contract.test_model_server import Canned, _ok
from tests.helpers.blocking import wait_for
from tests.helpers.simserver import Cancel, SimServer
from tests.helpers.wait import wait_until

MODEL, EMBEDDER = "llama3.2:3b", "nomic-embed-text:latest"
KEY = "s3cret"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
PROMPT = {"model": MODEL, "prompt": "What is 2 + 2?"}
LIMITS = Limits(total_s=60, first_token_s=60, token_gap_s=60)
QUIET = {"faults": [], "fault_after": 0, "fault_limit": -1, "request_s": 0.02, "impostor": "no"}


class Face:
    """A simulated server and a client of it."""

    def __init__(self, kind: EngineKind, sim: SimServer, embedder: SimServer) -> None:
        self.kind, self.sim, self.embedder = kind, sim, embedder
        self.client = OpenAIClient(sim.url, kind=kind, key=KEY)

    def run(
        self,
        endpoint: str = "/api/chat",
        body: dict[str, Any] = CHAT,
        *,
        limits: Limits = LIMITS,
        cancel: CancelToken | None = None,
        progress: Callable[[int], None] | None = lambda _: None,
        client: OpenAIClient | None = None,
    ) -> Reply:
        used = client or self.client
        return wait_for(used.run(endpoint, body, limits=limits, progress=progress, marker="task-1"), cancel)

    def fault(self, *args: Any, **more: Any) -> TaskFault:
        with pytest.raises(TaskFault) as caught:
            self.run(*args, **more)
        return caught.value


@pytest.fixture(scope="module", params=["llama-server", "openai"])
def servers(request: pytest.FixtureRequest) -> Iterator[Face]:
    kind: EngineKind = request.param
    first, slots = (("-m",), ("-np", "4", "-c", "16384")) if kind == "llama-server" else ((), ("--max-model-len", "4096"))
    flags = ("--embeddings",) if kind == "llama-server" else ()
    with (
        SimServer(kind, *first, MODEL, *slots, "--api-key", KEY) as sim,
        SimServer(kind, *first, EMBEDDER, *flags, "--api-key", KEY) as embedder,
    ):
        found = Face(kind, sim, embedder)
        yield found
        wait_for(found.client.close_work())


@pytest.fixture
def face(servers: Face) -> Face:
    servers.sim.set(**QUIET)
    return servers


# -- what works ------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_same_streamed_and_whole(face: Face) -> None:
    steps: list[int] = []
    streamed = face.run(progress=steps.append)
    whole = face.run(progress=None)
    for reply in (streamed, whole):
        assert reply.final["message"]["content"].startswith("[simulated] ")
        assert (reply.final["done"], reply.final["done_reason"], reply.simulated) == (True, "stop", True)
        assert reply.tokens_in > 0
        assert reply.tokens_out > 0
        assert reply.final["model"] == MODEL
    assert streamed.final["message"] == whole.final["message"]
    assert sum(steps) > 3
    assert 0 < streamed.first_token_s < streamed.total_s
    if face.kind == "llama-server":
        assert whole.final["prompt_cached_count"] > 0, "the second one finds its prompt there"
        assert whole.final["eval_duration"] > 0


def test_generate_with_and_without_a_template(face: Face) -> None:
    for body in (PROMPT, {**PROMPT, "raw": True}):
        assert face.run("/api/generate", body).final["response"].startswith("[simulated] ")


def test_limit_and_tool_calls(face: Face) -> None:
    assert face.run(body={**CHAT, "options": {"num_predict": 3}}).final["done_reason"] == "length"
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    for progress in (None, lambda _: None):
        (call,) = face.run(body={**CHAT, "tools": tools}, progress=progress).final["message"]["tool_calls"]
        assert call["function"] == {"index": 0, "name": "look_up", "arguments": {}}


def test_embed(face: Face) -> None:
    client = OpenAIClient(face.embedder.url, kind=face.kind, key=KEY)
    reply = face.run("/api/embed", {"model": EMBEDDER, "input": ["one", "two"]}, client=client)
    first, second = reply.final["embeddings"]
    assert first != second
    assert reply.tokens_in > 0
    wait_for(client.close_work())


def test_many_at_once_on_one_loop(face: Face) -> None:
    async def all_of_them() -> list[Reply]:
        wanted = (face.client.run("/api/chat", CHAT, limits=LIMITS, progress=None) for _ in range(40))
        return await asyncio.gather(*wanted)

    threads = threading.active_count()
    assert len({reply.final["message"]["content"] for reply in wait_for(all_of_them())}) == 1
    assert threading.active_count() <= threads + 1


def test_a_server_that_counts_no_tokens() -> None:
    with SimServer("openai", MODEL, report_usage=False) as sim:
        client = OpenAIClient(sim.url, kind="openai")
        for progress in (None, lambda _: None):
            reply = wait_for(client.run("/api/chat", CHAT, limits=LIMITS, progress=progress))
            assert reply.final["usage_missing"] is True
            assert (reply.tokens_in, reply.tokens_out) == (0, 0)
        wait_for(client.close_work())


# -- what does not ---------------------------------------------------------------------------------------------------

TRAPS = [
    ("busy", "transient", {"busy"}),
    ("unknown_500", "transient", {"server_error"}),
    ("reset", "infra", {"connection_lost"}),
    ("html", "infra", {"garbage"}),
    ("html_502", "transient", {"busy"}),
    ("garbage", "infra", {"garbage"}),
    ("error_line", "infra", {"runner_died"}),
    ("bad_line", "infra", {"garbage"}),
    ("cut_mid", "infra", {"connection_lost"}),
    ("reset_mid", "infra", {"connection_lost"}),
    ("endless", "deterministic", {"reply_too_large"}),
    ("long_line", "deterministic", {"reply_too_large"}),
]


@pytest.mark.parametrize(("mode", "fault", "kinds"), TRAPS)
def test_traps(face: Face, mode: str, fault: str, kinds: set[str]) -> None:
    face.sim.set(faults=[mode])
    found = face.fault(limits=Limits(total_s=60, max_reply_bytes=1 << 20))
    assert found.fault == fault, found.message
    assert found.kind in kinds, found.message
    face.sim.set(faults=[])
    assert face.run().simulated, "the next request must work"


@pytest.mark.parametrize(
    ("limits", "mode", "kind"),
    [
        (Limits(total_s=60, first_token_s=0.3), "hang_first", "first_token_timeout"),
        (Limits(total_s=60, first_token_s=30, token_gap_s=0.3), "hang_mid", "token_gap_timeout"),
        (Limits(total_s=0.4), "hang_mid", "timeout"),
    ],
)
def test_silence_has_limits(face: Face, limits: Limits, mode: str, kind: str) -> None:
    face.sim.set(faults=[mode])
    began_s = time.monotonic()
    found = face.fault(limits=limits)
    assert (found.fault, found.kind) == ("transient", kind)
    assert time.monotonic() - began_s < limits.total_s / 2 or kind == "timeout"
    wait_until(lambda: face.sim.state()["in_flight"] == 0, what="the server to notice that we hung up")


def test_refusals(face: Face) -> None:
    def kind(body: dict[str, Any]) -> tuple[str, str]:
        found = face.fault(body=body)
        return found.fault, found.kind

    long = [{"role": "user", "content": "word " * 40_000}]
    assert kind({**CHAT, "messages": long}) == ("deterministic", "too_long")
    assert kind({**CHAT, "template": "x"}) == ("deterministic", "bad_request")
    assert kind({**CHAT, "messages": [object()]}) == ("deterministic", "bad_request")
    assert kind({**CHAT, "options": {"top_p": object()}}) == ("deterministic", "bad_request")
    assert face.fault("/api/embed", {"model": MODEL, "input": "x"}).fault == "deterministic"
    embedder = OpenAIClient(face.embedder.url, kind=face.kind, key=KEY)
    assert face.fault(body={**CHAT, "model": EMBEDDER}, client=embedder).kind == "bad_request"
    wait_for(embedder.close_work())
    if face.kind == "openai":
        assert kind({**CHAT, "model": "nope"}) == ("deterministic", "model_missing")


def test_a_wrong_key_is_no_fault_of_the_task(face: Face) -> None:
    client = OpenAIClient(face.sim.url, kind=face.kind, key="wrong")
    found = face.fault(client=client)
    assert (found.fault, found.kind) == ("infra", "forbidden")
    assert "api_key_env" in found.message
    assert KEY not in found.message
    wait_for(client.close_work())


@pytest.mark.parametrize("impostor", ["html", "json", "text"])
@pytest.mark.parametrize("progress", [None, lambda _: None])
def test_a_url_that_speaks_something_else(face: Face, impostor: str, progress: Any) -> None:
    face.sim.set(impostor=impostor)
    found = face.fault(progress=progress)
    assert (found.fault, found.kind) == ("infra", "garbage"), found.message


def test_a_server_of_ollama_at_this_url() -> None:
    with SimServer() as sim:
        client = OpenAIClient(sim.url, kind="openai")
        with pytest.raises(TaskFault) as caught:
            wait_for(client.run("/api/chat", CHAT, limits=LIMITS))
        assert (caught.value.fault, caught.value.kind) == ("infra", "garbage")
        wait_for(client.close_work())


@pytest.mark.parametrize(
    ("data", "fault", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "infra", "garbage"),
        (b"", "infra", "connection_lost"),
        (_ok(b"null"), "infra", "garbage"),
        (_ok(b"[" * 100_000), "infra", "garbage"),
        (_ok(b'{"choices": []}'), "infra", "garbage"),
        (_ok(b'{"choices": [{"message": {"content": "a"}}]}', 500), "infra", "connection_lost"),
        (_ok(b'{"error": {"message": "CUDA out of memory"}}'), "infra", "out_of_memory"),
    ],
)
def test_strange_replies(data: bytes, fault: str, kind: str) -> None:
    canned = Canned(data)
    try:
        client = OpenAIClient(canned.url, kind="openai")
        with pytest.raises(TaskFault) as caught:
            wait_for(client.run("/api/chat", CHAT, limits=Limits(total_s=60)))
        assert (caught.value.fault, caught.value.kind) == (fault, kind), caught.value.message
        wait_for(client.close_work())
    finally:
        canned.close()


# -- cancelling, and servers that go away ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hang_first", "hang_mid", "endless"])
def test_cancel_from_another_thread(face: Face, mode: str) -> None:
    face.sim.set(faults=[mode])
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        limits = Limits(total_s=60, max_reply_bytes=1 << 40)
        found = pool.submit(face.fault, limits=limits, cancel=cancel)
        wait_until(lambda: face.sim.state()["in_flight"] == 1, what="the request to run")
        cancel.fire("cancelled")
        assert (found.result(60).fault, found.result().kind) == ("cancelled", "cancelled")
    wait_until(lambda: face.sim.state()["in_flight"] == 0, what="the server to drop the request")


def test_a_server_that_dies_and_comes_back(face: Face) -> None:
    flags = ("-m", MODEL) if face.kind == "llama-server" else (MODEL,)
    with SimServer(face.kind, *flags, request_s=600) as sim, ThreadPoolExecutor(1) as pool:
        client = OpenAIClient(sim.url, kind=face.kind)
        found = pool.submit(face.fault, client=client)
        wait_until(lambda: sim.state()["in_flight"] == 1, what="the request to run")
        sim.kill()
        assert (found.result(60).fault, found.result().kind) == ("infra", "connection_lost")
        assert face.fault(client=client).kind == "server_down"
        sim.start()
        sim.set(request_s=0.01)
        assert face.run(client=client).simulated, "a dead kept-alive connection must not surface"
        client.close()
