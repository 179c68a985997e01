"""The official clients of OpenAI and Ollama, unchanged, before a whole swarm on simulated cards."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import ollama
import openai
import pytest

from swarm.proc.ports import free_port
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.queue.stores.live_demand import read_demand
from swarm.supervisor.state import load_status
from tests.helpers.cli import User
from tests.helpers.wait import wait_until

MODEL, EMBEDDER = "llama3.2:1b", "nomic-embed-text"
HELLO = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[User, str]]:
    user = User(tmp_path_factory.mktemp("live"), SWARM_LIVE__MAX_WAIT_S="120")
    port = free_port()
    user.ok("up", "--simulate", "2", "--http", str(port), "--detach")
    yield user, f"http://127.0.0.1:{port}"
    user.kill_all()


@pytest.fixture
def user(served) -> User:
    return served[0]


@pytest.fixture
def client(served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[1]}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture
def native(served) -> Iterator[ollama.Client]:
    with ollama.Client(host=served[1], timeout=120) as made:
        yield made


def say(client: openai.OpenAI, text: str = "Say something.", **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def test_a_model_that_nobody_holds_is_loaded_for_the_client(client):
    answer = say(client, max_tokens=20)
    assert answer.choices[0].message.content.startswith("[simulated]")
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens > 0
    assert answer.model_extra["simulated"] is True
    assert answer.system_fingerprint.startswith("fp_")


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = say(client, seed=1).choices[0].message.content
    chunks = list(say(client, seed=1, stream=True, stream_options={"include_usage": True}))
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.total_tokens > 0
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "stop"


def test_tools_formats_and_completions(client):
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    calls = say(client, tools=[tool]).choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather"]
    streamed = [one.choices[0] for one in say(client, tools=[tool], stream=True) if one.choices]
    assert [call.function.name for one in streamed for call in one.delta.tool_calls or ()] == ["weather"]
    assert streamed[-1].finish_reason == "tool_calls"
    text = client.completions.create(model=MODEL, prompt="Once", max_tokens=5)
    parts = [one.choices[0].text for one in client.completions.create(model=MODEL, prompt="Once", max_tokens=5, stream=True)]
    assert "".join(parts) == text.choices[0].text


def test_embeddings_in_both_forms(client, native):
    packed = client.embeddings.create(model=EMBEDDER, input=["one", "two"])  # the SDK asks for base64
    plain = client.embeddings.create(model=EMBEDDER, input=["one", "two"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.usage.prompt_tokens > 0
    assert [list(one) for one in native.embed(EMBEDDER, ["one", "two"]).embeddings] == [one.embedding for one in plain.data]


def test_lists_of_models(client, native, user):
    assert MODEL in {one.id for one in client.models.list()}
    assert client.models.retrieve("llama3.2:1b").owned_by == "swarm"
    listed = {one.model: one for one in native.list().models}
    assert listed[MODEL].size > 0
    assert {one.model for one in native.ps().models} <= set(listed)
    assert native.show(MODEL).capabilities


def test_errors_are_those_of_the_sdk(client):
    with pytest.raises(openai.NotFoundError, match="no worker has") as missing:
        client.chat.completions.create(model="lama3.2:1b", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert MODEL in missing.value.body["hint"]
    with pytest.raises(openai.BadRequestError, match="only 1") as refused:
        say(client, n=2)
    assert refused.value.param == "n"


def test_ollamas_client_chats(native):
    whole = native.chat(MODEL, HELLO, options={"seed": 1})
    parts = list(native.chat(MODEL, HELLO, options={"seed": 1}, stream=True))
    assert "".join(one.message.content for one in parts) == whole.message.content
    assert parts[-1].done and parts[-1].eval_count == whole.eval_count
    with pytest.raises(ollama.ResponseError, match="no worker has") as missing:
        native.generate("lama", "hi")
    assert missing.value.status_code == 404


def live_at(user: User) -> int:
    """Live requests at the workers, as they say themselves."""
    layout = Layout(str(user.root))
    beats = [registry.read_heartbeat(layout, name) for name in registry.names(layout)]
    return sum(beat.live.in_flight for beat in beats if beat is not None and beat.live is not None)


LONG = "Write " + "a long, long story " * 20


def test_a_client_that_leaves_a_stream_frees_its_place(client, user):
    stream = say(client, LONG, stream=True, max_tokens=100_000, extra_body={"min_p": 0.0})
    next(iter(stream))
    stream.close()
    wait_until(lambda: live_at(user) == 0, what="the worker has ended the request")


def test_killed_servers_and_workers_go_unseen_by_clients(client, user):
    """While clients ask one after the other, model servers and workers are killed: every answer is whole."""
    stop = threading.Event()
    whole = say(client, seed=3).choices[0].message.content

    answered: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            assert say(client, seed=3).choices[0].message.content == whole
            answered.append(1)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for round_no in range(6):
                kill(user, f"worker-{1 + round_no % 2}", server=round_no in (0, 3, 4))
                before = len(answered)
                wait_until(lambda n=before: len(answered) > n or any(one.done() for one in asking), what="another answer")
        finally:
            stop.set()
        for one in asking:
            one.result()
    wait_until(lambda: wanted(user) == (0, 0), what="nothing counts as waiting or in flight any more")


def wanted(user: User) -> tuple[int, int]:
    """Live requests that wait, and those at workers, as the brain is told."""
    demand = read_demand(Layout(str(user.root)))
    models = demand.models.values() if demand is not None else ()
    return sum(one.waiting for one in models), sum(one.in_flight for one in models)


def kill(user: User, worker: str, *, server: bool) -> None:
    """Kill a worker or its model server, and wait until it has been made up for."""
    layout = Layout(str(user.root))
    before = registry.read_row(layout, worker)
    status = load_status(user.root / "workers")
    assert before is not None and status is not None
    child = status.child(f"ollama-{worker}")
    assert child is not None
    killed = child.pid if server else before.process.pid
    was = registry.read_heartbeat(layout, worker)
    assert was is not None and killed is not None
    os.kill(killed, signal.SIGKILL)

    def again() -> bool:
        beat, row = registry.read_heartbeat(layout, worker), registry.read_row(layout, worker)
        if beat is None or row is None or beat.epoch != row.epoch or beat.status not in ("idle", "busy"):
            return False
        if not server:
            return row.epoch > before.epoch
        now = load_status(user.root / "workers")
        kept = now.child(f"ollama-{worker}") if now is not None else None
        return beat.seq > was.seq and kept is not None and kept.state == "running" and kept.pid != killed

    wait_until(again, what=f"{worker} takes work again")
