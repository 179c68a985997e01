"""How a server behaves on the wire: each test runs against the simulated server and, where there is one, a real Ollama."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from swarm.engines.ollama.client import OllamaClient
from tests.helpers.simserver import Cancel
from tests.helpers.wait import wait_until
from tests.ollama.conftest import MODEL, Speaker, lines_of

OPTIONS = {"num_ctx": 512, "num_predict": 5}
GENERATE, CHAT, EMBED = "/api/generate", "/api/chat", "/api/embed"
PROMPT = {"model": MODEL, "prompt": "hi there", "options": OPTIONS}
MESSAGES = {"model": MODEL, "messages": [{"role": "user", "content": "hi there"}], "options": OPTIONS}
LIMITS = Limits(total_s=60, first_token_s=60, token_gap_s=60)


def load(speaker: Speaker, **more: Any) -> Any:
    return speaker.json("POST", GENERATE, {"model": MODEL, "options": OPTIONS, "keep_alive": -1, **more})


def unload(speaker: Speaker) -> None:
    speaker.json("POST", GENERATE, {"model": MODEL, "keep_alive": 0})
    wait_until(lambda: not speaker.ps(), timeout_s=60, what="the model to be gone")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "text"),
    [
        ("GET", "/", 200, "text/plain; charset=utf-8", b"Ollama is running"),
        ("GET", "/api/version", 200, "application/json; charset=utf-8", b'"version"'),
        ("HEAD", "/api/version", 200, "application/json; charset=utf-8", b""),
        ("HEAD", "/api/tags", 200, "application/json; charset=utf-8", b""),
        ("HEAD", "/api/ps", 405, "text/plain", b""),
        ("GET", "/nope", 404, "text/plain", b"404 page not found"),
        ("POST", "/api/version", 405, "text/plain", b"405 method not allowed"),
        ("GET", "/api/generate", 405, "text/plain", b"405 method not allowed"),
    ],
)
def test_paths_and_methods(speaker: Speaker, method: str, path: str, status: int, kind: str, text: bytes) -> None:
    found = speaker.ask(method, path)
    assert (found[0], found[1]["content-type"]) == (status, kind)
    assert text in found[2]
    assert ("allow" in found[1]) == (status == 405)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("192.168.1.9", 200), ("evil.example.com", 403), ("8.8.8.8", 403), ("box.internal", 200)],
)
def test_foreign_hosts_are_refused_without_a_word(speaker: Speaker, host: str, status: int) -> None:
    found = speaker.ask("GET", "/api/version", headers={"Host": host})
    assert found[0] == status
    if status == 403:
        assert found[2] == b""


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (GENERATE, {"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
        (CHAT, {"model": "nope", "messages": [{"role": "user", "content": "x"}]}, 404, "model 'nope' not found"),
        (EMBED, {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ("/api/show", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/show", {}, 400, "model is required"),
        (GENERATE, {"prompt": "x"}, 404, "model '' not found"),
        (CHAT, {"messages": []}, 400, "model is required"),
        (EMBED, {"input": "x"}, 404, "model '' not found"),
        (GENERATE, {"model": "nope", "keep_alive": 0}, 404, "model 'nope' not found"),
        (GENERATE, b"", 400, "missing request body"),
        (GENERATE, b"{nope", 400, ""),
        (GENERATE, b"[1]", 400, ""),
        (GENERATE, {"model": "a b//:::c", "prompt": "x"}, 400, "invalid model name"),
        (GENERATE, {**PROMPT, "options": {"num_ctx": "big"}}, 500, 'option "num_ctx" must be of type integer'),
        (GENERATE, {**PROMPT, "options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
        (GENERATE, {**PROMPT, "options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
        (GENERATE, {**PROMPT, "options": "x"}, 400, "cannot unmarshal"),
        (GENERATE, {**PROMPT, "stream": "x"}, 400, "cannot unmarshal"),
        (GENERATE, {**PROMPT, "prompt": 5}, 400, "cannot unmarshal"),
        (CHAT, {**MESSAGES, "messages": "x"}, 400, "cannot unmarshal"),
        (GENERATE, {**PROMPT, "keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
        (GENERATE, {**PROMPT, "keep_alive": "x"}, 400, 'time: invalid duration "x"'),
        (GENERATE, {**PROMPT, "keep_alive": True}, 400, "Unsupported type: 'bool'"),
        (GENERATE, {**PROMPT, "format": "xml"}, 500, "invalid format"),
        (GENERATE, {**PROMPT, "think": True}, 400, f'"{MODEL}" does not support thinking'),
        (GENERATE, {**PROMPT, "prompt": "x " * 3000, "truncate": False}, 400, "the input length exceeds the context length"),
        (EMBED, {"model": MODEL, "input": 5, "options": OPTIONS}, 400, "invalid input type"),
    ],
)
def test_refusals(speaker: Speaker, path: str, body: Any, status: int, text: str) -> None:
    found = speaker.ask("POST", path, body)
    assert found[0] == status, found[2]
    assert text in json.loads(found[2])["error"]


@pytest.mark.parametrize("options", [{"unknown": 1}, {"num_ctx": 512.5}, {"seed": 1.0}, {"stop": ["x"]}])
def test_options_that_are_taken(speaker: Speaker, options: dict[str, Any]) -> None:
    found = speaker.json("POST", GENERATE, {**PROMPT, "options": OPTIONS | options, "stream": False})
    assert found["done"] is True


@pytest.mark.parametrize(("path", "body"), [(GENERATE, PROMPT), (CHAT, MESSAGES)])
def test_a_stream(speaker: Speaker, path: str, body: dict[str, Any]) -> None:
    status, headers, raw = speaker.ask("POST", path, body)
    assert (status, headers["content-type"], headers["transfer-encoding"]) == (200, "application/x-ndjson", "chunked")
    *pieces, last = lines_of(raw)
    assert all(piece["done"] is False and piece["model"] == MODEL for piece in pieces)
    assert all("done_reason" not in piece and "eval_count" not in piece for piece in pieces)
    assert last["done"] is True
    assert last["done_reason"] in ("stop", "length")
    assert 0 < last["eval_count"] <= OPTIONS["num_predict"]
    assert last["total_duration"] >= last["eval_duration"] > 0
    assert last["prompt_eval_count"] > 0
    assert ("context" in last) == (path == GENERATE)
    text = last["message"]["content"] if path == CHAT else last["response"]
    assert text == "", "the last line has no text of its own"


def test_a_whole_answer(speaker: Speaker) -> None:
    status, headers, raw = speaker.ask("POST", CHAT, {**MESSAGES, "stream": False})
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert json.loads(raw)["message"]["role"] == "assistant"


def test_embeddings(speaker: Speaker) -> None:
    found = speaker.json("POST", EMBED, {"model": MODEL, "input": ["a", "b"], "options": OPTIONS})
    assert len(found["embeddings"]) == 2
    assert sum(x * x for x in found["embeddings"][0]) == pytest.approx(1, abs=1e-3)
    assert found["prompt_eval_count"] > 0
    assert speaker.json("POST", EMBED, {"model": MODEL, "input": [], "options": OPTIONS})["embeddings"] == []


def test_load_and_unload(speaker: Speaker) -> None:
    unload(speaker)
    answer = load(speaker)
    assert (answer["done"], answer["done_reason"], answer["response"]) == (True, "load", "")
    assert "total_duration" not in answer
    (held,) = speaker.ps()
    assert (held["name"], held["model"]) == (f"{MODEL}:latest", f"{MODEL}:latest")
    assert held["size"] > 0
    assert held["size_vram"] == 0, "on the CPU, and told although it is zero"
    assert held["context_length"] == OPTIONS["num_ctx"]
    assert datetime.fromisoformat(held["expires_at"]).year > 2300, "for ever"
    gone = speaker.json("POST", GENERATE, {"model": MODEL, "keep_alive": 0})
    assert (gone["done"], gone["done_reason"]) == (True, "unload")
    wait_until(lambda: not speaker.ps(), timeout_s=60, what="the model to be gone")
    assert speaker.json("POST", GENERATE, {"model": MODEL, "keep_alive": 0})["done_reason"] == "unload"


def test_a_load_is_not_listed_before_it_is_done(speaker: Speaker) -> None:
    unload(speaker)
    answered: list[float] = []
    listed: list[float] = []
    thread = threading.Thread(target=lambda: (load(speaker), answered.append(time.monotonic())))
    thread.start()
    while thread.is_alive():
        if speaker.ps():
            listed.append(time.monotonic())
    thread.join()
    assert not listed or listed[0] > answered[0] - 0.1


def test_hanging_up_aborts_the_load(speaker: Speaker) -> None:
    body = json.dumps({"model": MODEL, "options": OPTIONS, "keep_alive": -1}).encode()
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    loaded = True
    while loaded:  # before this process came to hang up
        unload(speaker)
        with socket.create_connection(("127.0.0.1", speaker.port)) as raw:
            raw.sendall(head.encode() + body)
            loaded = bool(select.select([raw], [], [], 0.03)[0])
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        assert speaker.ps() == []


@pytest.mark.parametrize("phase", ["before the head", "in mid-stream"])
def test_a_cancel_from_another_thread_hangs_up(speaker: Speaker, client: OllamaClient, phase: str) -> None:
    unload(speaker)
    cancel, seen = Cancel(), threading.Event()

    def fire() -> None:
        if phase == "in mid-stream":
            seen.wait(60)
        else:
            time.sleep(0.02)  # it loads the model: nothing of a reply has come
        cancel.fire()

    firing = threading.Thread(target=fire)
    body = {**MESSAGES, "options": {**OPTIONS, "num_predict": 100}}
    with slow(speaker), pytest.raises(TaskFault) as caught:
        firing.start()
        client.run(CHAT, body, limits=LIMITS, cancel=cancel, progress=lambda _: seen.set())
    firing.join()
    assert caught.value.fault == "cancelled"
    assert seen.is_set() == (phase == "in mid-stream")
    assert client.run(CHAT, MESSAGES, limits=LIMITS).final["done"] is True


def test_ordered_out_while_busy(speaker: Speaker, client: OllamaClient) -> None:
    load(speaker)
    seen = threading.Event()
    limits = Limits(total_s=60, first_token_s=60, token_gap_s=60)
    body = {**MESSAGES, "options": {**OPTIONS, "num_predict": 100}, "keep_alive": -1}
    with slow(speaker):
        run = threading.Thread(target=lambda: client.run(CHAT, body, limits=limits, progress=lambda _: seen.set()))
        run.start()
        assert seen.wait(60)
        speaker.json("POST", GENERATE, {"model": MODEL, "keep_alive": 0})
        for held in speaker.ps():
            assert datetime.fromisoformat(held["expires_at"]) <= datetime.now(UTC), "past: ordered out, but busy"
        run.join(60)
    wait_until(lambda: not speaker.ps(), timeout_s=60, what="the model to be gone")


def test_the_context_is_bounded_by_the_model_and_from_below(speaker: Speaker) -> None:
    load(speaker, options={"num_ctx": 10_000_000})
    assert speaker.ps()[0]["context_length"] < 1_000_000
    load(speaker, options={"num_ctx": 2})
    assert speaker.ps()[0]["context_length"] == 4


@pytest.mark.parametrize(
    ("options", "reloads"),
    [({"num_thread": 1}, True), ({"num_batch": 64}, True), ({"num_gpu": 0}, True), ({"num_gpu": -1}, False),
     ({"temperature": 0.5}, False), ({"num_ctx": 256}, True)],
)  # fmt: skip
def test_which_options_load_anew(speaker: Speaker, options: dict[str, Any], *, reloads: bool) -> None:
    load(speaker)
    before = speaker.runners()
    speaker.json("POST", GENERATE, {**PROMPT, "options": OPTIONS | options, "stream": False})
    assert (speaker.runners() != before) == reloads


def test_a_dead_runner_is_listed_until_a_request_wants_it(speaker: Speaker) -> None:
    load(speaker)
    (runner,) = speaker.runners()
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: not speaker.runners(), what="the runner to be dead")
    assert [held["name"] for held in speaker.ps()] == [f"{MODEL}:latest"], "the server does not notice"
    assert speaker.json("POST", GENERATE, {**PROMPT, "stream": False})["done"] is True, "loaded anew, without a word"
    (fresh,) = speaker.runners()
    assert fresh != runner


def test_a_runner_that_dies_under_a_request(speaker: Speaker, client: OllamaClient) -> None:
    load(speaker)
    body = {**MESSAGES, "options": {**OPTIONS, "num_predict": 400}}
    with slow(speaker):
        faults = [fault_while_killing(speaker, client, body) for _ in range(3)]
    found = next(fault for fault in faults if fault is not None)
    assert (found.fault, found.kind) == ("infra", "runner_died"), found.message
    assert client.run(CHAT, MESSAGES, limits=LIMITS).final["done"] is True, "the next request starts a new one"


def fault_while_killing(speaker: Speaker, client: OllamaClient, body: dict[str, Any]) -> TaskFault | None:
    """Kill the runner at the first piece of the answer. None: noise may end before that, and then nothing fails."""

    def kill(_: int) -> None:
        for pid in speaker.runners():
            os.kill(pid, signal.SIGKILL)

    try:
        client.run(CHAT, body, limits=LIMITS, progress=kill)
    except TaskFault as fault:
        return fault
    return None


@contextmanager
def slow(speaker: Speaker) -> Iterator[None]:
    """Answers of the simulated server take half a second; the real one is slow enough by itself."""
    if not speaker.json("GET", "/api/version")["version"].endswith("-simulated"):
        yield
        return
    speaker.ask("POST", "/sim/knobs", {"request_s": 0.5})
    yield
    speaker.ask("POST", "/sim/knobs", {"request_s": 0.02})


@pytest.mark.parametrize("path", [CHAT, GENERATE, EMBED])
def test_long_prompts_are_refused_not_cut(client: OllamaClient, path: str) -> None:
    def body(text: str) -> dict[str, Any]:
        said = {CHAT: {"messages": [{"role": "user", "content": text}]}, GENERATE: {"prompt": text}, EMBED: {"input": text}}
        return {"model": MODEL, "options": OPTIONS, "truncate": False, **said[path]}

    assert client.run(path, body("hi"), limits=LIMITS).tokens_in > 0
    with pytest.raises(TaskFault) as caught:
        client.run(path, body("x " * 3000), limits=LIMITS)
    assert (caught.value.fault, caught.value.kind) == ("deterministic", "too_long"), caught.value.message
    assert "num_ctx" in caught.value.message


def test_the_client_speaks_to_it(client: OllamaClient) -> None:
    assert client.version()
    assert [model.name for model in client.tags()] == [f"{MODEL}:latest"]
    details = client.show(MODEL.upper())
    assert details.context_length > 0
    assert "completion" in details.capabilities
    assert client.load(MODEL, options=OPTIONS, timeout_s=60).done_reason == "load"
    (held,) = client.ps()
    assert held.spilled, "nothing of it is on a card"
    reply = client.run(CHAT, MESSAGES, limits=LIMITS)
    assert reply.tokens_out > 0
    assert reply.tokens_in > 0
    assert client.run(GENERATE, PROMPT, limits=LIMITS).final["done"] is True
    with pytest.raises(TaskFault) as caught:
        client.run(CHAT, {**MESSAGES, "model": "nope"}, limits=LIMITS)
    assert (caught.value.fault, caught.value.kind) == ("deterministic", "model_missing")
