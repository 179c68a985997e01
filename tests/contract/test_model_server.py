"""What the Ollama client promises, against a server that knows all of Ollama's bad manners."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits, PullStep
from swarm.engines.ollama.client import is_simulated
from swarm.errors import ConfigError
from tests.helpers.blocking import BlockingClient
from tests.helpers.simserver import Cancel, SimServer
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
PROMPT = {"model": MODEL, "prompt": "What is 2 + 2?"}
LIMITS = Limits(total_s=60, first_token_s=60, token_gap_s=60)
QUIET = {
    "faults": [],
    "fault_after": 0,
    "fault_limit": -1,
    "fail_load": "",
    "request_s": 0.02,
    "ps_hang": False,
    "pull_error": "",
    "registry": [],
}


@pytest.fixture(scope="module")
def server() -> Iterator[SimServer]:
    with SimServer(models=(MODEL, "qwen3:8b", "nomic-embed-text"), env={"OLLAMA_NUM_PARALLEL": "4"}) as sim:
        yield sim


@pytest.fixture
def sim(server: SimServer) -> SimServer:
    server.set(**QUIET)
    return server


def fault_of(call) -> TaskFault:
    with pytest.raises(TaskFault) as caught:
        call()
    return caught.value


# -- what works ------------------------------------------------------------------------------------------------------


def test_questions(sim: SimServer) -> None:
    assert is_simulated(sim.client.version())
    names = [model.name for model in sim.client.tags()]
    assert {"llama3.2:3b", "nomic-embed-text:latest", "qwen3:8b"} <= set(names)
    details = sim.client.show("Qwen3:8B")
    assert details.name == "qwen3:8b"
    assert "thinking" in details.capabilities
    assert details.context_length > 0
    assert fault_of(lambda: sim.client.show("nope")).kind == "model_missing"


def test_load_ps_unload(sim: SimServer) -> None:
    answer = sim.client.load(MODEL, options={"num_ctx": 4096}, keep_alive=-1, timeout_s=60)
    assert answer.done_reason == "load"
    (loaded,) = (model for model in sim.client.ps() if model.name == MODEL)
    assert loaded.context_length == 4096
    assert loaded.size_vram_mib == loaded.size_mib > 0
    assert not loaded.spilled
    loads = sim.state()["loads"]
    sim.client.run("/api/chat", CHAT | {"options": {"num_ctx": 4096}}, limits=LIMITS)
    assert sim.state()["loads"] == loads, "the same options must not load again"
    sim.client.unload(MODEL)
    wait_until(lambda: all(model.name != MODEL for model in sim.client.ps()), what="the model to be gone")


def test_load_of_an_embedding_model(sim: SimServer) -> None:
    assert sim.client.load("nomic-embed-text", options={}, embedding=True, timeout_s=60).done_reason == "load"
    assert "nomic-embed-text:latest" in [model.name for model in sim.client.ps()]


def test_chat_is_merged(sim: SimServer) -> None:
    steps: list[int] = []
    reply = sim.client.run("/api/chat", CHAT, limits=LIMITS, progress=steps.append)
    message = reply.final["message"]
    assert message["role"] == "assistant"
    assert message["content"].startswith("[simulated] ")
    assert len(message["content"]) > 50
    assert reply.simulated
    assert reply.final["done"] is True
    assert reply.final["done_reason"] == "stop"
    assert reply.tokens_in > 0
    assert reply.tokens_out > 0
    assert 0 < reply.first_token_s < reply.total_s
    assert sum(steps) == 6
    assert sim.client.run("/api/chat", CHAT, limits=LIMITS).final["message"] == message, "answers are deterministic"


def test_generate_is_merged(sim: SimServer) -> None:
    reply = sim.client.run("/api/generate", PROMPT, limits=LIMITS)
    assert reply.final["response"].startswith("[simulated] ")
    assert "context" in reply.final


def test_thinking_and_tool_calls_are_merged(sim: SimServer) -> None:
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    reply = sim.client.run("/api/chat", CHAT | {"model": "qwen3:8b", "tools": tools}, limits=LIMITS)
    message = reply.final["message"]
    assert message["thinking"].startswith("[simulated] ")
    assert message["tool_calls"][0]["function"]["name"] == "look_up"


def test_embed(sim: SimServer) -> None:
    body = {"model": "nomic-embed-text", "input": ["one", "two"]}
    reply = sim.client.run("/api/embed", body, limits=LIMITS)
    first, second = reply.final["embeddings"]
    assert first != second
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    assert reply.simulated
    assert reply.tokens_in > 0


def test_pull(sim: SimServer) -> None:
    steps: list[PullStep] = []
    sim.client.pull("tiny:1b", steps.append)
    assert steps[-1].status == "success"
    assert any(step.total == step.completed > 0 for step in steps)
    assert "tiny:1b" in [model.name for model in sim.client.tags()]
    sim.set(pull_error="pull model manifest: file does not exist")
    assert fault_of(lambda: sim.client.pull("nope")).kind == "model_missing"
    sim.set(pull_error="", registry=["known"])
    assert fault_of(lambda: sim.client.pull("unknown")).fault == "deterministic"


def test_connections_are_kept_alive(sim: SimServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sim.client.version()
    monkeypatch.setattr(socket, "create_connection", None)
    sim.client.run("/api/chat", CHAT, limits=LIMITS)
    assert fault_of(lambda: sim.client.show("nope")).kind == "model_missing"
    sim.client.ps()


def test_no_proxy_is_used(sim: SimServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with BlockingClient(sim.url) as client:
        assert client.version()


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:11434", "https://x", "http://x:notaport", ""])
def test_bad_address(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BlockingClient(url)
    assert caught.value.hint


# -- what does not ---------------------------------------------------------------------------------------------------

TRAPS = [
    ("busy", "transient", "busy"),
    ("error_500", "infra", "runner_died"),
    ("reset", "infra", "connection_lost"),
    ("html", "infra", "garbage"),
    ("garbage", "infra", "garbage"),
    ("error_line", "infra", "runner_died"),
    ("half_stream", "transient", "half_stream"),
    ("repeat", "transient", "half_stream"),
    ("reset_mid", "infra", "connection_lost"),
    ("kill_runner", "infra", "runner_died"),
    ("endless", "deterministic", "reply_too_large"),
    ("long_line", "deterministic", "reply_too_large"),
]


@pytest.mark.parametrize(("mode", "fault", "kind"), TRAPS)
def test_traps(sim: SimServer, mode: str, fault: str, kind: str) -> None:
    sim.set(faults=[mode])
    limits = Limits(total_s=60, max_reply_bytes=1 << 20)
    found = fault_of(lambda: sim.client.run("/api/chat", CHAT, limits=limits))
    assert (found.fault, found.kind) == (fault, kind), found.message
    sim.set(faults=[])
    assert sim.client.run("/api/chat", CHAT, limits=LIMITS).simulated, "the next request must work"


def test_a_line_may_not_be_endless_even_where_replies_may(sim: SimServer) -> None:
    sim.set(faults=["long_line"])
    found = fault_of(lambda: sim.client.run("/api/chat", CHAT, limits=Limits(max_reply_bytes=1 << 30)))
    assert (found.fault, found.kind) == ("infra", "garbage")


@pytest.mark.parametrize(
    ("limits", "mode", "kind"),
    [
        (Limits(total_s=60, first_token_s=0.3), "hang_first", "first_token_timeout"),
        (Limits(total_s=60, first_token_s=30, token_gap_s=0.3), "hang_mid", "token_gap_timeout"),
        (Limits(total_s=0.4), "hang_mid", "timeout"),
        (Limits(total_s=0.4), "endless", "timeout"),
        (Limits(total_s=0.4, first_token_s=60), "hang_first", "timeout"),
    ],
)
def test_silence_has_limits(sim: SimServer, limits: Limits, mode: str, kind: str) -> None:
    sim.set(faults=[mode])
    sim.client.load(MODEL, options={}, timeout_s=60)
    limits = Limits(
        total_s=limits.total_s, first_token_s=limits.first_token_s, token_gap_s=limits.token_gap_s, max_reply_bytes=1 << 40
    )
    started = time.monotonic()
    found = fault_of(lambda: sim.client.run("/api/chat", CHAT, limits=limits))
    assert (found.fault, found.kind) == ("transient", kind)
    assert time.monotonic() - started < limits.total_s / 2 or kind == "timeout", "the limit on all of it is longer"
    wait_until(lambda: sim.state()["in_flight"] == 0, what="the server to notice that we hung up")


def test_embed_looks_at_the_text_of_a_400(sim: SimServer) -> None:
    body = {"model": "nomic-embed-text", "input": "one"}
    sim.set(faults=["kill_runner"])
    assert fault_of(lambda: sim.client.run("/api/embed", body, limits=LIMITS)).fault == "infra"
    sim.set(faults=[])
    long = body | {"input": "x" * 400_000, "truncate": False}
    assert fault_of(lambda: sim.client.run("/api/embed", long, limits=LIMITS)).fault == "deterministic"


def test_refusals(sim: SimServer) -> None:
    def kind(endpoint: str, **body: object) -> tuple[str, str]:
        found = fault_of(lambda: sim.client.run(endpoint, body, limits=LIMITS))
        return found.fault, found.kind

    messages = CHAT["messages"]
    assert kind("/api/chat", model="nope", messages=messages) == ("deterministic", "model_missing")
    assert kind("/api/embed", model="nope", input="x") == ("deterministic", "model_missing")
    assert kind("/api/chat", messages=messages) == ("deterministic", "bad_request")
    assert kind("/api/chat", model=MODEL, messages=messages, options={"num_ctx": "big"}) == ("deterministic", "bad_request")
    assert kind("/api/chat", model=MODEL, messages=messages, format="xml") == ("deterministic", "bad_request")
    assert kind("/api/chat", model=MODEL, messages=messages, keep_alive="300") == ("deterministic", "bad_request")
    assert kind("/api/chat", model=MODEL, messages=messages, think=True) == ("deterministic", "bad_request")
    assert kind("/api/chat", model="nomic-embed-text", messages=messages) == ("deterministic", "bad_request")
    assert kind("/api/chat", model=MODEL, messages=[object()]) == ("deterministic", "bad_request")
    assert kind("/api/nothing", model=MODEL) == ("infra", "garbage")


def test_a_failed_load_is_no_fault_of_the_task(sim: SimServer) -> None:
    sim.client.unload(MODEL)
    wait_until(lambda: all(model.name != MODEL for model in sim.client.ps()), what="the model to be gone")
    sim.set(fail_load="llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory")
    found = fault_of(lambda: sim.client.load(MODEL, options={}, timeout_s=60))
    assert (found.fault, found.kind) == ("infra", "out_of_memory")


def test_a_hanging_ps_does_not_hang_us(sim: SimServer) -> None:
    sim.set(ps_hang=True)
    assert fault_of(lambda: sim.client.ps(timeout_s=0.2)).kind == "timeout"
    assert sim.client.version()


# -- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "reason", "fault", "kind"), [
    ("hang_first", "cancelled", "cancelled", "cancelled"),
    ("hang_mid", "stopping", "cancelled", "stopping"),
    ("endless", "cancelled", "cancelled", "cancelled"),
    ("hang_mid", "timeout", "transient", "timeout"),
])  # fmt: skip
def test_cancel_from_another_thread(sim: SimServer, mode: str, reason: str, fault: str, kind: str) -> None:
    sim.set(faults=[mode])
    cancel = Cancel()
    caught: list[TaskFault] = []
    limits = Limits(total_s=60, max_reply_bytes=1 << 40)
    run = threading.Thread(
        target=lambda: caught.append(fault_of(lambda: sim.client.run("/api/chat", CHAT, limits=limits, cancel=cancel)))
    )
    run.start()
    wait_until(lambda: sim.state()["in_flight"] == 1, what="the request to run")
    cancel.fire(reason)
    run.join(60)
    assert not run.is_alive()
    assert (caught[0].fault, caught[0].kind) == (fault, kind)
    wait_until(lambda: sim.state()["in_flight"] == 0, what="the server to drop the request")


def test_cancelled_before_it_began(sim: SimServer) -> None:
    cancel = Cancel()
    cancel.fire()
    before = sim.state()["requests"]
    assert fault_of(lambda: sim.client.run("/api/chat", CHAT, limits=LIMITS, cancel=cancel)).fault == "cancelled"
    assert sim.state()["requests"] == before


def test_a_late_cancel_leaves_the_next_request_alone(sim: SimServer) -> None:
    cancel = Cancel()
    with BlockingClient(sim.url) as client, ThreadPoolExecutor(1) as pool:
        client.run("/api/chat", CHAT, limits=LIMITS, cancel=cancel)
        sim.set(request_s=0.3)
        steps: list[int] = []
        following = pool.submit(client.run, "/api/chat", CHAT, limits=LIMITS, progress=steps.append)
        wait_until(lambda: steps, what="the next answer to arrive, on the same connection")
        cancel.fire()
        assert following.result().simulated


# -- the server goes away --------------------------------------------------------------------------------------------


def test_restart_kill_and_absence() -> None:
    with SimServer(request_s=600, load_s=0) as sim:
        assert sim.client.version()
        sim.kill()
        assert fault_of(sim.client.version).kind == "server_down"
        sim.start()
        assert sim.client.version(), "a dead kept-alive connection must not surface"
        caught: list[TaskFault] = []
        fresh = BlockingClient(sim.url)
        run = threading.Thread(target=lambda: caught.append(fault_of(lambda: fresh.run("/api/chat", CHAT, limits=LIMITS))))
        run.start()
        wait_until(lambda: sim.state()["runners"] and sim.state()["in_flight"] == 1, what="the request to run")
        sim.kill()
        run.join(60)
        fresh.close()
        assert (caught[0].fault, caught[0].kind) == ("infra", "connection_lost")


class Canned:
    """A server that sends fixed bytes to each connection, then closes it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(self._data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


def _ok(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body) if length is None else length, body)


@pytest.mark.parametrize(
    ("data", "fault", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "infra", "garbage"),
        (b"", "infra", "connection_lost"),
        (_ok(b"null\n"), "infra", "garbage"),
        (_ok(b"[1]\n"), "infra", "garbage"),
        (_ok(b"[" * 100_000), "infra", "garbage"),
        (_ok(b'{"response":"\xff","done":true}\n'), "infra", "garbage"),
        (_ok(b'{"response":"a","done":fal'), "transient", "half_stream"),
        (_ok(b'{"response":"a","done":false}\n'), "transient", "half_stream"),
        (_ok(b'{"response":"a","done":false}\n', 500), "infra", "connection_lost"),
        (_ok(b'{"response":"a","done":"true"}\n'), "transient", "half_stream"),
        (_ok(b'{"response":"a","done":false}\n{"error":"out of memory"}\n'), "infra", "out_of_memory"),
        (_ok(b""), "transient", "half_stream"),
    ],
)
def test_strange_replies(data: bytes, fault: str, kind: str) -> None:
    canned = Canned(data)
    try:
        with BlockingClient(canned.url) as client:
            found = fault_of(lambda: client.run("/api/generate", PROMPT, limits=Limits(total_s=60)))
        assert (found.fault, found.kind) == (fault, kind), found.message
    finally:
        canned.close()


@pytest.mark.parametrize("body", [b'{"models": [{"nome": 1}]}', b'{"version": 5}', b"{}"])
def test_strange_answers_to_questions(body: bytes) -> None:
    canned = Canned(_ok(body))
    try:
        with BlockingClient(canned.url) as client:
            assert fault_of(client.ps).kind == "garbage"
    finally:
        canned.close()


def test_a_final_line_without_line_end_and_counters_is_whole() -> None:
    canned = Canned(_ok(b'{"response":"a","done":false}\n{"response":"b","done":true}'))
    try:
        with BlockingClient(canned.url) as client:
            reply = client.run("/api/generate", PROMPT, limits=LIMITS)
        assert reply.final["response"] == "ab"
        assert (reply.tokens_in, reply.tokens_out, reply.simulated) == (0, 0, False)
    finally:
        canned.close()
