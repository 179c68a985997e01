"""Whatever a model server says of itself comes in bounded, and with nothing in it that a terminal or a log obeys."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.config.settings import LlmSettings
from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from swarm.queue.codec import encode_trail
from swarm.worker.executors.llm import LlmExecutor
from tests.helpers.blocking import AsyncServer, BlockingClient, wait_for
from tests.helpers.hostile import EVIL, MODEL, MODES, OBEYED, WORK, Answer, Hostile, as_json
from tests.helpers.worker_fakes import claim_of, llm

LIMITS = Limits(total_s=60.0, first_token_s=60.0, token_gap_s=60.0)
MOST = 1 << 53
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from([EVIL, EVIL * 10_000, "\x1b]52;c;aGk=\x07", "\r", "\u202e", "\x9b"]),
    st.integers(),
    st.sampled_from([-1, 10**30, 2**63, 2**64, -(10**30)]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
    st.booleans(),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


@pytest.fixture(scope="module")
def hostile():
    with Hostile() as server:
        yield server


@pytest.fixture(scope="module")
def client(hostile):
    with BlockingClient(hostile.url) as made:
        yield made


def check(value: object, chars: int = 210) -> None:
    """Every text harmless and bounded, every number one that can be."""
    match value:
        case str():
            assert OBEYED.search(value.replace("\n", "")) is None, ascii(value)
            assert len(value) <= chars * 10
        case bool() | None | float():
            pass
        case int():
            assert 0 <= value <= MOST
        case dict():
            for name, item in value.items():
                check(name, chars)
                check(item, chars)
        case list() | tuple():
            assert len(value) <= 10_000
            for item in value:
                check(item, chars)
        case _:
            check(msgspec.to_builtins(value), chars)


def asked(call):
    """What a call answers; a fault's message is checked and None is returned."""
    try:
        return call()
    except TaskFault as fault:
        assert OBEYED.search(fault.message) is None, ascii(fault.message)
        assert "\n" not in fault.message
        assert len(fault.message) < 8000
        return None


@pytest.fixture(scope="module")
def told():
    """A client, and a way to say what its server answers to everything."""
    with Hostile() as server, BlockingClient(server.url) as made:

        def say(answer: Answer) -> BlockingClient:
            server.answer = lambda _path, _body: answer
            return made

        yield say


def test_every_question_has_a_harmless_answer(hostile, client):
    hostile.loaded = True
    for call in (client.version, client.ps, client.tags, lambda: client.show(MODEL)):
        found = asked(call)
        assert found
        check(found, 11_000)
    names = [model.name for model in client.tags()]
    assert names[0] == MODEL
    assert all(len(name) < 2200 for name in names)
    assert {model.size_mib for model in client.tags()} == {1024, 0}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["name", "digest", "size", "size_vram", "context_length", "expires_at"]), VALUES))
def test_any_entry_of_any_list(told, entry):
    with_name = {"name": EVIL, **entry}
    for document in ({"models": [with_name]}, {"models": with_name}, {"version": entry.get("name")}, {"error": with_name}):
        client = told(as_json(document))
        for call in (client.ps, client.tags, client.version, lambda: client.show("m")):  # noqa: B023
            found = asked(call)
            if found is not None:
                check(found)


FIELDS = ("response", "message", "thinking", "done_reason", "model", "created_at", "eval_count", "total_duration", "role")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES), st.sampled_from([200, 200, 200, 302, 400, 404, 500, 503]))
def test_any_final_line(told, fields, status):
    client = told(as_json({"response": "x", "done": True, **fields}, status))
    reply = asked(lambda: client.run("/api/generate", {"model": "m", "prompt": "p"}, limits=LIMITS))
    if reply is not None:
        assert status == 200
        check([reply.tokens_in, reply.tokens_out])
        for name in ("done_reason", "model", "created_at", "eval_count", "total_duration"):
            check(reply.final.get(name), 210)
        assert isinstance(reply.final.get("response", ""), str)
        encode_trail_of(reply.final)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("endpoint", ["/api/generate", "/api/chat"])
def test_every_answer_to_work(hostile, client, mode, endpoint):
    ask = f"mode={mode}"
    request = {"messages": [{"role": "user", "content": ask}]} if endpoint == "/api/chat" else {"prompt": ask}
    before = len(hostile.requests)
    reply = asked(lambda: client.run(endpoint, {"model": MODEL, **request}, limits=LIMITS))
    assert [path for path, _ in hostile.requests[before:]] == [endpoint], "nothing is followed"
    if mode == "text":
        text = reply.final["message"]["content"] if endpoint == "/api/chat" else reply.final["response"]
        assert text == WORK["text"]["response"], "the answer itself is data, and exact"
        assert reply.tokens_out == 0
    if reply is not None:
        check([reply.tokens_in, reply.tokens_out, reply.final.get("total_duration", 0), reply.final.get("eval_count", 0)])
        encode_trail_of(reply.final)


def encode_trail_of(result):
    from swarm.core.task import Trail

    data = encode_trail(Trail(result=result))
    json.loads(b"{" + data.lstrip(b",\n"), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_what_becomes_of_it_in_a_worker(client):
    executor = LlmExecutor(AsyncServer(client), LlmSettings(timeout_s=60.0), models={}, read_image=lambda *_: b"")
    for mode in MODES:
        claim = claim_of(llm("t", request={"prompt": f"mode={mode}"}, model=MODEL, endpoint="/api/generate"))
        trail = asked(lambda claim=claim: wait_for(executor.run(claim, progress=lambda _: None)))
        if trail is not None:
            check(trail.result["usage"])
            encode_trail(trail)


def test_no_cookie_no_proxy_no_compression(hostile, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", "/dev/null")
    with BlockingClient(hostile.url) as client:
        for _ in range(3):
            client.version()
    for _, headers in hostile.requests:
        assert not {"cookie", "accept-encoding", "authorization"} & set(headers)


def test_a_redirect_is_named(client):
    for mode in ("elsewhere", "elsewhere-json"):
        with pytest.raises(TaskFault, match="HTTP 307: it sends requests elsewhere") as caught:
            client.run("/api/generate", {"model": MODEL, "prompt": f"mode={mode}"}, limits=LIMITS)
        assert (caught.value.fault, caught.value.kind) == ("infra", "redirected")
