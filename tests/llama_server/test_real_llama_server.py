"""The client against a real llama-server with a tiny model, where a binary is found; else skipped, and said so.

``SWARM_TEST_LLAMA_SERVER`` names the binary (default: ``llama-server`` on the PATH). The model has random weights, so its
text is noise: what is looked at are forms, counts and refusals.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_options import KNOWN_OPTIONS, LOAD_OPTIONS
from swarm.core.models.model_server import Limits, Reply
from swarm.engines.gguf import read_gguf
from swarm.engines.openai.client import OpenAIClient
from tests.helpers.blocking import wait_for
from tests.helpers.cli import user
from tests.helpers.tinygguf import KV_HEADS, LAYERS, write_tiny_gguf
from tests.helpers.wait import wait_until
from tests.ollama.conftest import free_port

VARIABLE = "SWARM_TEST_LLAMA_SERVER"
BINARY = shutil.which(os.environ.get(VARIABLE, "llama-server"))
pytestmark = [
    pytest.mark.llama_server,
    pytest.mark.skipif(BINARY is None, reason=f"no llama-server; name one in ${VARIABLE}"),
]
KEY = "s3cret"
LIMITS = Limits(total_s=60, first_token_s=50, token_gap_s=30)
START_S = 60.0
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Tell me about the sea."}], "options": {"num_predict": 12}}
ANY_VALUE: dict[str, Any] = {"stop": ["zzz"], "seed": 7, "repeat_last_n": 16, "top_k": 0, "num_keep": 2, "num_predict": 4}


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[OpenAIClient]:
    model, port = write_tiny_gguf(folder / "tiny.gguf"), free_port()
    argv = [str(BINARY), "-m", str(model), "--port", str(port), "--api-key", KEY, "-ngl", "0", *flags]
    with open(folder / f"{port}.log", "wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    client = OpenAIClient(f"http://127.0.0.1:{port}", kind="llama-server", key=KEY)
    try:
        wait_until(lambda: healthy(port) or process.poll() is not None, what="llama-server to be ready", timeout_s=START_S)
        assert process.poll() is None, (folder / f"{port}.log").read_text()[-2000:]
        yield client
    finally:
        wait_for(client.close_work())
        process.terminate()
        process.wait(30)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAIClient]:
    with serving(tmp_path_factory.mktemp("chat"), "-c", "1024", "-np", "2") as found:
        yield found


def run(client: OpenAIClient, endpoint: str, body: dict[str, Any], progress: Callable[[int], None] | None = None) -> Reply:
    return wait_for(client.run(endpoint, body, limits=LIMITS, progress=progress))


def fault(client: OpenAIClient, endpoint: str, body: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(TaskFault) as caught:
        run(client, endpoint, body)
    return caught.value.fault, caught.value.kind


def test_an_answer_whole_and_streamed(client: OpenAIClient) -> None:
    steps: list[int] = []
    body = {**CHAT, "options": {"num_predict": 12, "temperature": 0, "seed": 1}}
    whole, streamed = run(client, "/api/chat", body), run(client, "/api/chat", body, steps.append)
    for reply in (whole, streamed):
        assert 0 < reply.tokens_out <= 12
        assert reply.tokens_in > 5
        assert not reply.simulated
        assert reply.final["done_reason"] in ("stop", "length")
        assert reply.final["eval_duration"] > 0
    assert streamed.final["prompt_cached_count"] > 0
    assert steps


def test_every_option_of_ollama_is_taken(client: OpenAIClient) -> None:
    options = {name: ANY_VALUE.get(name, 0.5) for name in KNOWN_OPTIONS.difference(LOAD_OPTIONS)}
    for endpoint, body in (("/api/chat", CHAT), ("/api/generate", {"model": "m", "prompt": "x", "raw": True})):
        assert run(client, endpoint, {**body, "options": options, "think": False}).tokens_out <= 4


def test_raw_and_templated_prompts(client: OpenAIClient) -> None:
    templated = run(client, "/api/generate", {"model": "m", "prompt": "sea", "options": {"num_predict": 4}})
    raw = run(client, "/api/generate", {"model": "m", "prompt": "sea", "raw": True, "options": {"num_predict": 4}})
    assert 0 < raw.tokens_in < templated.tokens_in


@pytest.mark.parametrize("progress", [None, lambda _: None])
def test_logprobs(client: OpenAIClient, progress: Any) -> None:
    for endpoint, body in (("/api/chat", CHAT), ("/api/generate", {"model": "m", "prompt": "x", "raw": True})):
        asked = {**body, "options": {"num_predict": 3, "temperature": 0}, "logprobs": True, "top_logprobs": 2}
        found = run(client, endpoint, asked, progress).final["logprobs"]
        assert found
        assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in found)


@pytest.mark.parametrize("form", ["json", {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}])
def test_answers_in_a_form(client: OpenAIClient, form: Any) -> None:
    for endpoint, body in (("/api/chat", CHAT), ("/api/generate", {"model": "m", "prompt": "x", "raw": True})):
        final = run(client, endpoint, {**body, "format": form, "options": {"num_predict": 24}}).final
        text = final["message"]["content"] if "message" in final else final["response"]
        assert text.lstrip().startswith("{")


def test_refusals(client: OpenAIClient) -> None:
    long = [{"role": "user", "content": "word " * 2000}]
    assert fault(client, "/api/chat", {**CHAT, "messages": long}) == ("deterministic", "too_long")
    image = [{"role": "user", "content": "what?", "images": ["iVBORw0KGgo="]}]
    assert fault(client, "/api/chat", {**CHAT, "messages": image}) == ("deterministic", "bad_request")
    assert fault(client, "/api/chat", {**CHAT, "format": {"type": "nothing"}}) == ("deterministic", "bad_request")
    assert fault(client, "/api/embed", {"model": "m", "input": "x"}) == ("deterministic", "bad_request")
    stranger = OpenAIClient(client._work.base_url, kind="llama-server", key="wrong")
    assert fault(stranger, "/api/chat", CHAT) == ("infra", "forbidden")
    wait_for(stranger.close_work())


def test_embeddings(tmp_path: Path) -> None:
    with serving(tmp_path, "--embeddings", "--pooling", "mean", "-c", "512") as client:
        reply = run(client, "/api/embed", {"model": "m", "input": ["one", "another text", "one"]})
        first, second, third = reply.final["embeddings"]
        assert first == pytest.approx(third, abs=1e-4)
        assert first != second
        assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
        assert reply.tokens_in > 3
        assert fault(client, "/api/embed", {"model": "m", "input": "word " * 2000}) == ("deterministic", "too_long")


def test_a_full_shared_context_is_no_fault_of_a_request(tmp_path: Path) -> None:
    with serving(tmp_path, "-c", "256", "-np", "4", "-kvu") as client:
        body = {"model": "m", "prompt": "word " * 30, "raw": True, "options": {"num_predict": 200, "ignore_eos": True}}

        async def together() -> list[Reply | BaseException]:
            asked = (client.run("/api/generate", body, limits=LIMITS) for _ in range(4))
            return await asyncio.gather(*asked, return_exceptions=True)

        found = [one for one in wait_for(together()) if isinstance(one, TaskFault)]
        assert found
        assert {(one.fault, one.kind) for one in found} == {("infra", "does_not_fit")}
        assert run(client, "/api/chat", CHAT).tokens_out > 0, "it goes on"


def test_the_header_says_what_the_context_costs(tmp_path: Path) -> None:
    assert read_gguf(write_tiny_gguf(tmp_path / "tiny.gguf")).kv_bytes_per_token == LAYERS * KV_HEADS * 2 * 16 * 2


def test_a_swarm_works_through_a_batch(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    config = tmp_path / "swarm.toml"
    config.write_text(f"""
        [llm]
        engine = "llama-server"
        on_cpu_spill = "allow"
        [engines.llama-server]
        command = ["{BINARY}"]
        [models.tiny]
        file = "{model}"
        options = {{num_ctx = 512}}
        [[workers]]
        name = "worker-1"
        port = {free_port()}
    """)
    chat = {"model": "tiny", "messages": CHAT["messages"], "max_tokens": 5}
    raw = {"model": "tiny", "prompt": "sea", "max_tokens": 5, "logprobs": 1}
    bodies = [("/v1/chat/completions", chat), ("/v1/completions", raw)]
    lines = [{"custom_id": f"c{i}", "method": "POST", "url": url, "body": body} for i, (url, body) in enumerate(bodies * 8)]
    batch = tmp_path / "in.jsonl"
    batch.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with user(tmp_path) as person:
        person.ok("run", str(batch), "-o", "out.jsonl", "--config", str(config), timeout_s=90)
    answers = [json.loads(line)["response"]["body"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(answers) == 16
    assert all(0 < answer["usage"]["completion_tokens"] <= 5 for answer in answers)
    assert answers[1]["usage"]["prompt_tokens"] < answers[0]["usage"]["prompt_tokens"], (
        "a raw prompt has no template round it"
    )
    assert "simulated" not in answers[0]
