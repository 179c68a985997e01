"""Live requests through the whole HTTP server, before scripted workers."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from swarm.config.settings import WorkerSettings
from swarm.core.lanes import Pause, Pauses
from swarm.queue.coordination import change_pauses
from swarm.queue.stores.live_demand import read_demand
from tests.helpers.fake_live_worker import MODEL, Refuse, Say, chat_lines
from tests.helpers.wait import wait_until

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}


def events(answer):
    return [one.removeprefix("data: ") for one in answer.text.split("\n\n") if one]


def said(answer):
    return answer.json()["choices"][0]["message"]["content"]


def test_a_request_reaches_the_worker_as_it_would_from_a_batch(bench):
    with bench.worker().running() as worker, bench.serving() as client:
        body = CHAT | {
            "temperature": 0.5,
            "max_tokens": 9,
            "stop": "x",
            "seed": 1,
            "response_format": {"type": "json_object"},
        }
        assert said(client.post("/v1/chat/completions", json=body)) == "one two three"
        answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "hi"})
        assert answer.json()["choices"][0]["text"] == "one two"
    chat, completion = worker.asked
    options = {"temperature": 0.5, "num_predict": 9, "stop": ["x"], "seed": 1}
    assert chat["request"] == {"model": MODEL, "messages": CHAT["messages"], "format": "json", "options": options}
    assert chat["endpoint"], chat["timeout_s"] > 0
    assert completion["endpoint"] == "/api/generate"


def test_a_stream_begins_with_the_role_and_ends_with_done(bench):
    with bench.worker().running(), bench.serving() as client:
        answer = client.post("/v1/chat/completions", json=STREAM)
    found = events(answer)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert msgspec.json.decode(found[0])["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert found[-1] == "[DONE]"


def test_ollama_streams_unless_told_otherwise(bench):
    with bench.worker().running(), bench.serving() as client:
        lines = client.post("/api/chat", json=CHAT).text.splitlines()
        assert [msgspec.json.decode(line)["done"] for line in lines] == [False, False, False, True]
        whole = client.post("/api/generate", json={"model": MODEL, "prompt": "hi", "stream": False}).json()
        assert (whole["response"], whole["eval_count"]) == ("one two", 3)
        assert client.post("/api/embed", json={"model": MODEL, "input": ["a", "b"]}).json()["embeddings"] == [
            [0.0, 0.5],
            [1.0, 0.5],
        ]
        assert client.post("/api/embeddings", json={"model": MODEL, "prompt": "a"}).json()["embedding"] == [0.0, 0.5]
        loaded = client.post("/api/generate", json={"model": MODEL}).json()
        assert (loaded["done"], loaded["done_reason"]) == (True, "load")


@pytest.mark.parametrize(
    ("url", "body", "param", "words"),
    [
        ("/v1/chat/completions", CHAT | {"n": 2}, "n", "only 1"),
        ("/v1/chat/completions", CHAT | {"temperatur": 1}, "temperatur", "did you mean"),
        ("/v1/chat/completions", CHAT | {"stream": "yes"}, "stream", "true or false"),
        ("/v1/chat/completions", CHAT | {"stream_options": {}}, "stream_options", "stream: true"),
        ("/v1/chat/completions", STREAM | {"stream_options": {"x": 1}}, "stream_options.x", "not supported"),
        ("/v1/chat/completions", CHAT | {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "must be"),
        ("/v1/chat/completions", {"messages": []}, "model", "missing"),
        ("/v1/embeddings", {"model": MODEL, "input": [[1, 2]]}, "input[0]", "token numbers"),
        ("/v1/embeddings", {"model": MODEL, "input": "x", "stream": True}, "stream", "not streamed"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(bench, url, body, param, words):
    with bench.worker().running() as worker, bench.serving() as client:
        answer = client.post(url, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert words in error["message"]
    assert worker.asked == []


@pytest.mark.parametrize(("body", "words"), [(b"{", "no JSON"), (b"[1]", "JSON object"), (b"\xff", "no JSON")])
def test_a_body_that_is_no_object(bench, body, words):
    with bench.worker().running(), bench.serving() as client:
        answer = client.post("/v1/chat/completions", content=body)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (400, True)
        assert "error" in client.post("/api/chat", content=body).json()


def test_an_unknown_model_is_refused_at_once_with_near_misses(bench):
    with bench.worker().running(), bench.serving() as client:
        answer = client.post("/v1/chat/completions", json=CHAT | {"model": "lama3.2:3b"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert MODEL in answer.json()["error"]["hint"]
        assert client.get(f"/v1/models/{MODEL}").json()["id"] == MODEL
        assert client.get("/v1/models/lama3.2:3b").status_code == 404
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["llama3.1:8b", MODEL]


def test_without_workers_and_while_paused(bench):
    with bench.serving() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    change_pauses(bench.queue.layout, bench.queue.storage, lambda _: Pauses((Pause("all"),)))
    with bench.worker().running(), bench.serving() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "paused")
        assert "swarm queue resume" in answer.json()["error"]["hint"]


FAULT = Refuse(502, kind="server_down")
BREAKS = Say(breaks=True)
CUT = Say(chat_lines("one ")[:1])


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("met", [FAULT, BREAKS, Say(), Refuse(409), Refuse(409, kind="unready")])
def test_what_fails_before_the_first_byte_is_asked_elsewhere(bench, met, streamed):
    with bench.worker("w1").running() as one, bench.worker("w2").running() as two, bench.serving() as client:
        one.script.append(met)
        answer = client.post("/v1/chat/completions", json=CHAT | {"stream": streamed})
        assert (answer.status_code, "three" in answer.text) == (200, True)
        assert answer.headers["x-swarm-worker"] == "w2"
    (first,), (second,) = one.asked, two.asked
    assert first["request"] == second["request"]
    assert first["id"] != second["id"]


def test_a_worker_that_is_not_heard_of_any_more_is_given_up(bench):
    bench.settings = msgspec.structs.replace(bench.settings, worker=WorkerSettings(heartbeat_stale_s=1.0))
    with bench.worker("w1").running() as one, bench.worker("w2").running() as two, bench.listening() as client:
        one.script.append(Say(holds=True))
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(client.post, "/v1/chat/completions", json=CHAT)
            wait_until(lambda: (one.beat(), two.beat(), one.in_flight)[-1], what="the first one has it", poll_s=0.1)
            wait_until(lambda: (two.beat(), asked.done())[1], what="the other worker answers", poll_s=0.1)
        assert said(asked.result()) == "one two three"
        wait_until(lambda: one.cancelled == 1, what="the first one is told")


def test_a_whole_answer_that_breaks_off_is_asked_elsewhere_too(bench):
    with bench.worker("w1").running() as one, bench.worker("w2").running() as two, bench.serving() as client:
        one.script.append(CUT)
        assert said(client.post("/v1/chat/completions", json=CHAT)) == "one two three"
    assert (len(one.asked), len(two.asked)) == (1, 1)


def test_after_the_first_byte_a_fault_is_an_event_of_the_stream(bench):
    first = chat_lines("one ")[:1]
    fails = Say(first, error={"fault": "infra", "kind": "server_down", "message": "the server is gone"}, holds=True)

    def last_line(url, body):
        worker.let_go.clear()
        with client.stream("POST", url, json=body) as answer:
            lines = answer.iter_lines()
            assert "one " in "".join(next(lines) for _ in range(3 if "v1" in url else 1))
            worker.let_go.set()
            return [line for line in lines if line][-1].removeprefix("data: ")

    with bench.worker().running() as worker, bench.listening() as client:
        worker.script += [fails, Say(first, holds=True), fails]
        error = msgspec.json.decode(last_line("/v1/chat/completions", STREAM))["error"]
        assert (error["code"], error["message"]) == ("server_down", "the server is gone")
        assert msgspec.json.decode(last_line("/v1/chat/completions", STREAM))["error"]["code"] == "half_stream"
        assert msgspec.json.decode(last_line("/api/chat", CHAT)) == {"error": "the server is gone"}
    assert len(worker.asked) == 3


@pytest.mark.parametrize("first", [(), chat_lines("one ")[:1]])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_cancels_its_request_at_the_worker(bench, first, streamed):
    with bench.worker().running() as worker, bench.listening() as client:
        worker.script.append(Say(first, holds=True))
        leaving = threading.Thread(target=leave, args=(client, worker, CHAT | {"stream": streamed}))
        leaving.start()
        wait_until(lambda: worker.cancelled == 1, what="the request is cancelled")
        leaving.join()
        assert said(client.post("/v1/chat/completions", json=CHAT)) == "one two three"


def leave(client, worker, body):
    """Ask, and hang up once the worker has the request."""
    raw = socket.create_connection((client.base_url.host, client.base_url.port))
    content = msgspec.json.encode(body)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
    raw.sendall(head.encode() + content)
    wait_until(lambda: worker.in_flight == 1, what="the worker has the request")
    raw.close()


def test_a_client_that_goes_while_it_waits_leaves_the_queue(bench):
    with bench.worker(limit=1).running() as worker, bench.listening() as client, ThreadPoolExecutor() as pool:
        worker.script.append(Say(chat_lines("one "), holds=True))
        first = pool.submit(client.post, "/v1/chat/completions", json=CHAT)
        wait_until(lambda: worker.in_flight == 1, what="the worker has the request")
        raw = socket.create_connection((client.base_url.host, client.base_url.port))
        content = msgspec.json.encode(CHAT)
        raw.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        wait_until(lambda: waiting(bench) == 1, what="it waits")
        raw.close()
        wait_until(lambda: waiting(bench) == 0, what="it waits no longer")
        worker.let_go.set()
        assert first.result().status_code == 200
    assert len(worker.asked) == 1


def waiting(bench):
    """How many wait, as the brain is told."""
    demand = read_demand(bench.queue.layout)
    return 0 if demand is None else sum(one.waiting for one in demand.models.values())


def test_never_more_at_a_worker_than_its_limit(bench):
    with bench.worker(limit=2).running() as worker, bench.listening() as client, ThreadPoolExecutor(16) as pool:
        sent = [pool.submit(client.post, "/v1/chat/completions", json=CHAT) for _ in range(16)]
        assert {one.result().status_code for one in sent} == {200}
        assert worker.most_in_flight <= 2
        assert len(worker.asked) == 16
    assert read_demand(bench.queue.layout) is None, "an HTTP server that ends wants nothing any more"


def test_a_full_queue_refuses_at_once(bench):
    bench.set(queue_max=1)
    with bench.worker(limit=1).running() as worker, bench.listening() as client, ThreadPoolExecutor() as pool:
        worker.script.append(Say(chat_lines("one "), holds=True))
        running = pool.submit(client.post, "/v1/chat/completions", json=CHAT)
        wait_until(lambda: worker.in_flight == 1, what="the worker has the request")
        queued = pool.submit(client.post, "/v1/chat/completions", json=CHAT)
        wait_until(lambda: waiting(bench) == 1, what="one waits")
        refused = client.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert "all places" in refused.json()["error"]["message"]
        worker.let_go.set()
        assert {running.result().status_code, queued.result().status_code} == {200}


def test_a_model_that_is_installed_waits_for_its_load(bench):
    with bench.worker(model=None).running() as worker, bench.listening() as client, ThreadPoolExecutor() as pool:
        asked = pool.submit(client.post, "/v1/chat/completions", json=CHAT)
        wait_until(lambda: waiting(bench) == 1, what="the brain is told")
        assert read_demand(bench.queue.layout).models.keys() == {MODEL}
        worker.model = MODEL
        worker.beat()
        assert said(asked.result()) == "one two three"


def test_a_fault_of_the_request_goes_to_the_client(bench):
    with bench.worker("w1").running() as one, bench.worker("w2").running() as two, bench.serving() as client:
        one.script.append(Refuse(422, kind="bad_request", fault="deterministic", message="too long", elsewhere=False))
        answer = client.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "too long")
    assert (len(one.asked), len(two.asked)) == (1, 0)


def test_a_fault_that_no_other_worker_would_mend_goes_to_the_client(bench):
    with bench.worker("w1").running() as one, bench.worker("w2").running() as two, bench.serving() as client:
        one.script.append(Refuse(502, kind="timeout", elsewhere=False))
        answer = client.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert (len(one.asked), len(two.asked)) == (1, 0)


def test_tries_are_bounded(bench):
    with bench.worker("w1").running() as one, bench.worker("w2").running() as two, bench.serving() as client:
        one.script += [FAULT] * 9
        two.script += [FAULT] * 9
        answer = client.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "server_down")
    assert (len(one.asked), len(two.asked)) == (2, 1), "never the same one twice in a row"


def test_who_waits_too_long_is_told_why(bench):
    bench.set(max_wait_s=0.3)
    with bench.worker(model=None).running(), bench.serving() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (429, "model_loading")
        assert int(answer.headers["retry-after"]) > 0
        assert "No brain is running: no task is released, loaded or requeued" in error["message"]
        assert "worker-1 will load it at the brain's next tick" in error["message"]
        assert error["hint"] == "`swarm up`"
