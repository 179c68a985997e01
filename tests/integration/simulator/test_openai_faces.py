"""The simulated llama-server and vLLM speak as the real ones do: fields, errors, streams, loads that fail."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.simserver import SimServer
from tests.helpers.tinygguf import write_tiny_gguf
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
CHAT = "/v1/chat/completions"


def chat(text: str = "What is 2 + 2?", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def llama(*flags: str, **knobs: Any) -> SimServer:
    return SimServer("llama-server", "-m", MODEL, *flags, **knobs)


def vllm(*flags: str, **knobs: Any) -> SimServer:
    return SimServer("openai", MODEL, *flags, **knobs)


def said(server: SimServer, path: str, body: dict[str, Any] | None = None) -> Any:
    status, answer = server.ask(path, body)
    assert status == 200, answer
    return json.loads(answer)


def error(server: SimServer, path: str, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    status, answer = server.ask(path, body, **headers)
    document = json.loads(answer)["error"]
    assert status == document["code"] >= 400
    return document


def events(server: SimServer, path: str, body: dict[str, Any]) -> list[Any]:
    """The documents of a stream, which must end as such streams end."""
    _, answer = server.ask(path, {**body, "stream": True})
    lines = answer.decode().removesuffix("\n\n").split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("face", [llama, vllm])
def test_a_chat_is_the_same_whole_and_as_a_stream(face: Any) -> None:
    with face() as sim:
        whole = said(sim, CHAT, chat())
        text = whole["choices"][0]["message"]["content"]
        assert text.startswith("[simulated]") and whole["choices"][0]["finish_reason"] == "stop"
        assert whole["simulated"] and whole["object"] == "chat.completion"
        chunks = events(sim, CHAT, chat(stream_options={"include_usage": True}))
        assert "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks[:-1]) == text
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] > 0
        assert all("usage" not in one for one in events(sim, CHAT, chat())), "only for those who ask for it"
        short = said(sim, CHAT, chat(max_tokens=3))
        assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (3, "length")
        tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
        called = said(sim, CHAT, chat(tools=[tool]))["choices"][0]
        assert (called["finish_reason"], called["message"]["tool_calls"][0]["function"]["name"]) == ("tool_calls", "add")
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert set(json.loads(said(sim, CHAT, chat(response_format=form))["choices"][0]["message"]["content"])) == {"n"}
        plain = said(sim, "/v1/completions", {"model": MODEL, "prompt": "hello"})
        assert plain["object"] == "text_completion" and plain["choices"][0]["text"].startswith("[simulated]")


@pytest.mark.parametrize("face", [llama, vllm])
def test_faults_strike_on_every_face(face: Any) -> None:
    with face(poison=("half=half_stream", "bad=bad_line", "late=error_line", "busy=busy", "cut=length_cut")) as sim:
        assert not sim.ask(CHAT, chat("half", stream=True))[1].endswith(b"data: [DONE]\n\n")
        assert b"simulated nonsense" in sim.ask(CHAT, chat("bad", stream=True))[1]
        assert b'data: {"error":{' in sim.ask(CHAT, chat("late", stream=True))[1]
        assert error(sim, CHAT, chat("late"))["code"] == 500
        assert error(sim, CHAT, chat("busy"))["code"] == 503
        assert said(sim, CHAT, chat("cut"))["choices"][0]["finish_reason"] == "length"
        assert sim.state()["faults"] == {"half_stream": 1, "bad_line": 1, "error_line": 2, "busy": 1, "length_cut": 1}
        sim.set(impostor="html")
        assert sim.ask("/health")[1].startswith(b"<html>")


def test_llama_server_tells_of_its_slots_and_of_what_it_reuses() -> None:
    with llama("-np", "3", "-c", "6144", "-kvu", "-a", "mine", "--metrics", request_s=0.0) as sim:
        assert (said(sim, "/props")["total_slots"], said(sim, "/props")["model_alias"]) == (3, "mine")
        assert [slot["n_ctx"] for slot in said(sim, "/slots")] == [6144] * 3, "one context for all"
        assert said(sim, "/v1/models")["data"][0]["meta"]["n_ctx"] == 6144
        common = "Some rules that all questions share. " * 20
        first, second = (said(sim, "/completion", {"prompt": f"{common}{n} has its own end"}) for n in range(2))
        assert first["timings"]["cache_n"] == 0
        assert second["id_slot"] == first["id_slot"], "the slot that knows the beginning"
        assert second["timings"]["cache_n"] == len(common) // 4
        assert second["timings"]["cache_n"] + second["timings"]["prompt_n"] == second["tokens_evaluated"]
        other = said(sim, "/completion", {"prompt": "Something else entirely " * 20})
        assert (other["timings"]["cache_n"], other["id_slot"] == first["id_slot"]) == (0, False), (
            "else the least recently used"
        )
        state = sim.state()
        assert state["prompt_tokens_reused"] == len(common) // 4
        assert f"prompt_tokens_cached_total {len(common) // 4}" in sim.ask("/metrics")[1].decode()
        assert len(said(sim, "/tokenize", {"content": "a" * 40})["tokens"]) == 10
    with llama("-np", "3", "-c", "6144", "--no-slots") as sim:
        assert error(sim, "/slots")["type"] == "not_supported_error"
        assert said(sim, "/props")["default_generation_settings"]["n_ctx"] == 2048, "each slot has its own part"
        assert error(sim, "/metrics")["code"] == 501


def test_llama_server_refuses_in_its_own_words() -> None:
    with llama(load_s=600, wait=False) as sim:
        wait_until(lambda: _answers(sim), what="HTTP")
        assert error(sim, "/health") == {"code": 503, "message": "Loading model", "type": "unavailable_error"}
    with llama("-c", "2048", "-np", "1", "--api-key", "secret,other") as sim:
        assert error(sim, CHAT, chat())["type"] == "authentication_error"
        key = {"Authorization": "Bearer other"}
        long = error(sim, CHAT, chat("x" * 8200), **key)
        assert (long["type"], long["n_prompt_tokens"], long["n_ctx"]) == ("exceed_context_size_error", 2050, 2048)
        assert error(sim, "/v1/embeddings", {"input": "x"}, **key)["type"] == "not_supported_error"
        assert error(sim, CHAT, {}, **key)["message"] == "'messages' is required"
        assert error(sim, "/nothing", **key)["type"] == "not_found_error"
        assert sim.terminate() == 0


def _answers(sim: SimServer) -> bool:
    try:
        return bool(sim.ask("/health"))
    except OSError:
        return False


def test_llama_server_loads_a_file_if_it_is_one_and_fits(tmp_path: Path) -> None:
    good = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "bad.gguf").write_text("not a model")
    with SimServer("llama-server", "-m", str(good)) as sim:
        assert said(sim, "/v1/models")["data"][0]["id"] == "tiny.gguf"
    with SimServer("llama-server", "-m", str(good), "-ngl", "99", env={"CUDA_VISIBLE_DEVICES": "-1"}) as sim:
        assert sim.state()["runners"][0]["vram_mib"] == 0, "where no card is to be seen, it runs on the CPU"
    for flags, words in (
        (("-m", str(tmp_path / "bad.gguf")), "invalid magic characters: 'not ', expected 'GGUF'"),
        (("-m", str(tmp_path / "missing.gguf")), "No such file or directory"),
        (("-m", "qwen2.5:32b", "-c", "200000", "-np", "4"), "failed to allocate buffer for kv cache"),
        (("-m", "qwen2.5:32b", "--vram-mib", "9000"), "unable to allocate CUDA0 buffer"),
    ):
        with SimServer("llama-server", *flags, overflow="refuse", wait=False) as sim:
            assert sim.process is not None and sim.process.wait(60) == 1
            assert words in sim.log() and "exiting due to model loading error" in sim.log()


def test_embeddings_come_in_packs_in_the_order_of_the_texts() -> None:
    with SimServer("llama-server", "-m", "nomic-embed-text", "--embeddings") as sim:
        texts = [f"text {n}" for n in range(5)]
        answer = said(sim, "/v1/embeddings", {"input": texts})
        assert [one["index"] for one in answer["data"]] == list(range(5))
        single = said(sim, "/v1/embeddings", {"input": texts[3], "encoding_format": "base64"})
        packed = base64.b64decode(single["data"][0]["embedding"])
        assert list(struct.unpack(f"<{len(packed) // 4}f", packed)) == pytest.approx(answer["data"][3]["embedding"])
        assert error(sim, "/v1/embeddings", {"input": ["fine", ""]})["type"] == "invalid_request_error"
        assert error(sim, CHAT, chat())["message"].startswith("the current context does not support logits")


def test_a_runner_of_llama_server_is_the_server_itself(tmp_path: Path) -> None:
    with llama(poison=("dies=kill_runner",), card_dir=str(tmp_path)) as sim:
        (entry,) = tmp_path.glob("*.json")
        assert json.loads(entry.read_text())["pid"] == sim.pid
        with pytest.raises(OSError, match=r"."):
            sim.ask(CHAT, chat("dies"))
        assert sim.process is not None and sim.process.wait(60) == -signal.SIGKILL


def test_vllm_names_its_models_and_has_no_slots() -> None:
    with SimServer(
        "openai", "serve", MODEL, "--served-model-name", "mine", "--api-key", "k", "--max-model-len", "1024"
    ) as sim:
        assert sim.ask("/health") == (200, b"")
        assert sim.ask("/v1/models")[0] == 401
        key = {"Authorization": "Bearer k"}
        (model,) = json.loads(sim.ask("/v1/models", **key)[1])["data"]
        assert (model["id"], model["max_model_len"], model["owned_by"]) == ("mine", 1024, "vllm")
        assert error(sim, CHAT, chat(), **key)["type"] == "NotFoundError"
        long = error(sim, CHAT, {**chat("x" * 4000, max_tokens=100), "model": "mine"}, **key)
        assert long["type"] == "BadRequestError" and "maximum context length is 1024 tokens" in long["message"]
        assert error(sim, "/slots", **key)["code"] == 404
    with vllm("--report-usage", "false") as sim:
        assert "usage" not in said(sim, CHAT, chat())
        assert all("usage" not in one for one in events(sim, CHAT, chat(stream_options={"include_usage": True})))
    with SimServer("openai", models=(MODEL, "nomic-embed-text")) as sim:
        assert [one["id"] for one in said(sim, "/v1/models")["data"]] == [MODEL, "nomic-embed-text"]
        assert len(said(sim, "/v1/embeddings", {"model": "nomic-embed-text", "input": ["a", "b"]})["data"]) == 2


def test_vllm_does_not_listen_before_it_can_work_and_ends_with_its_engine() -> None:
    with SimServer("openai", "qwen2.5:32b", "--vram-mib", "8000", wait=False) as sim:
        assert sim.process is not None and sim.process.wait(60) == 1
        assert "CUDA out of memory" in sim.log()
    with vllm(poison=("dies=kill_runner", "bystander=hang_mid")) as sim, ThreadPoolExecutor(1) as pool:
        running = pool.submit(error, sim, CHAT, chat("a bystander"))
        wait_until(lambda: sim.state()["in_flight"] == 1, what="the bystander")
        assert "EngineCore encountered an issue" in error(sim, CHAT, chat("dies"))["message"]
        assert "EngineCore encountered an issue" in running.result()["message"]
        assert sim.process is not None and sim.process.wait(60) == 1


def test_more_tokens_at_once_than_the_memory_holds_end_the_runner_or_the_requests() -> None:
    with llama("-np", "4", oom_tokens=200, request_s=30) as sim, ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda n: _tried(sim, n), range(4)):
            pass
        assert sim.process is not None and sim.process.wait(60) == -signal.SIGABRT
        assert "CUDA error: out of memory" in sim.log()
    with llama("-np", "4", "-c", "300", "-kvu", request_s=0.5) as sim, ThreadPoolExecutor(4) as pool:

        def one_too_many() -> bool:
            answers = list(pool.map(lambda n: sim.ask(CHAT, chat(f"{n}" * 400)), range(4)))
            assert {status for status, _ in answers} <= {200, 500}
            return any(b"Context size has been exceeded." in answer for _, answer in answers)

        wait_until(one_too_many, what="requests that meet")
        assert said(sim, CHAT, chat()), "the server goes on"


def _tried(sim: SimServer, n: int) -> None:
    with contextlib.suppress(OSError):
        sim.ask(CHAT, chat(f"{n}" * 200))
