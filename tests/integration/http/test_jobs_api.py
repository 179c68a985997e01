"""The swarm's own API tells what the commands tell, acts as they act, and refuses what it does not know by name."""

import json
from collections.abc import Iterator

import httpx
import pytest

from swarm.core.nodes.node_record import NodePhase, NodeRecord
from swarm.http.jobs.status_events import PARTS
from swarm.proc.ports import free_port
from swarm.queue.stores.node_book import drained_nodes, forget_nodes, write_node
from tests.helpers.cli import User
from tests.helpers.queues import llm
from tests.helpers.wait import wait_until

MOVES = {"at", "idle_s", "elapsed_s", "written_at", "tokens_per_s", "tokens_in_per_s", "tokens_out_per_s", "tasks_per_s"}
"""What another moment changes; ages of a look are no part of the comparison."""


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[User, httpx.Client]]:
    user = User(tmp_path_factory.mktemp("jobs"))
    port = free_port()
    user.ok("up", "--simulate", "2", "--http", str(port), "--detach")
    (user.folder / "in.jsonl").write_text("".join(f'{{"prompt": "number {n}"}}\n' for n in range(6)))
    user.ok("run", "in.jsonl", "-o", "out.jsonl", "--model", "llama3.2:1b", "--quiet")
    (user.folder / "feed.jsonl").write_text('{"prompt": "fed"}\n')
    user.ok("feed", "feed.jsonl", "--model", "llama3.2:1b", "--quiet")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield user, client
    user.kill_all()


@pytest.fixture
def user(served) -> User:
    return served[0]


@pytest.fixture
def client(served) -> httpx.Client:
    return served[1]


def steady(value):
    if isinstance(value, dict):
        return {name: steady(item) for name, item in value.items() if name not in MOVES}
    return [steady(item) for item in value] if isinstance(value, list) else value


def told(user: User, *words: str):
    done = user.look(*words, "--json")
    return steady(json.loads(done.stdout))


def batch_of(user: User) -> str:
    return next(name for name in user.queue.batches().names() if name.startswith("in-"))


def one_task(user: User) -> str:
    return next(user.queue.batches().task_ids(batch_of(user)))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("status", ("status",)),
        ("queue", ("queue", "stats")),
        ("active", ("queue", "active")),
        ("workers", ("workers",)),
        ("gpus", ("gpus",)),
        ("nodes", ("nodes",)),
        ("models", ("models",)),
        ("tasks?state=completed&limit=3", ("queue", "list", "completed", "-n", "3")),
        ("tasks?state=completed&batch={batch}", ("queue", "list", "completed", "--batch", "{batch}")),
        ("tasks/{task}", ("queue", "show", "{task}")),
        ("tasks/{task}/logs", ("logs", "--task", "{task}")),
        ("batches", ("batches",)),
        ("batches/{batch}", ("batch", "show", "{batch}")),
        ("feeds", ("feeds",)),
        ("explain/worker-1", ("explain", "worker-1")),
        ("explain/llama3.2:1b", ("explain", "llama3.2:1b")),
        ("explain/{task}", ("explain", "{task}")),
        ("logs?name=supervisor&lines=5", ("logs", "supervisor", "-n", "5")),
        ("doctor?worker=worker-1", ("doctor", "worker-1")),
    ],
)
def test_the_documents_are_those_of_the_commands(user, client, path, words):
    names = {"batch": batch_of(user), "task": one_task(user)}
    there = [word.format(**names) for word in words]

    def both() -> bool:
        answer = client.get(f"/swarm/{path.format(**names)}")
        assert answer.status_code == 200, answer.text
        return bool(steady(answer.json()) == told(user, *there))

    wait_until(both, what=f"{path} is what `swarm {' '.join(there)} --json` says")


def test_the_settings_are_told_without_their_secrets(user, client):
    told_here = client.get("/swarm/config").json()
    assert told_here["settings"]["queue"]["root"] == str(user.root)
    assert told_here["sources"]["queue.root"]


def test_metrics_are_those_that_prometheus_reads(client):
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "swarm_supervisor_up 1.0" in answer.text
    assert answer.text.splitlines()[0] == client.get("/swarm/metrics").text.splitlines()[0]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "tasks/nothere", None, 404, "there is no task nothere"),
        ("GET", "tasks/..%2f..%2fetc", None, 404, ""),
        ("GET", "workers/worker-7", None, 404, "did you mean worker-"),
        ("GET", "batches/in-", None, 404, "known batches|did you mean"),
        ("GET", "explain/worker-7", None, 404, "did you mean worker-"),
        ("GET", "doctor?worker=worker-7", None, 404, "did you mean worker-"),
        ("GET", "logs?name=worker-7", None, 404, "did you mean worker-"),
        ("GET", "tasks?limt=3", None, 400, "did you mean limit?"),
        ("GET", "status?limit=3", None, 400, "takes none"),
        ("GET", "tasks?limit=0", None, 400, "limit"),
        ("GET", "logs?lines=null", None, 400, "null is no value"),
        ("GET", "tasks?limit=3&limit=4", None, 400, "given twice"),
        ("GET", "tasks?state=complet", None, 400, "did you mean completed?"),
        ("GET", "tasks?lane=nolane", None, 400, "lanes are"),
        ("GET", "logs?since=yesterday", None, 400, "write a number and a unit"),
        ("DELETE", "status", None, 405, ""),
        ("POST", "pause", {}, 400, "exactly one"),
        ("POST", "pause", {"batch": "in-", "worker": "worker-1"}, 400, "exactly one"),
        ("POST", "pause", {"wrker": "worker-1"}, 400, "wrker"),
        ("POST", "pause", {"worker": "worker-7"}, 404, "did you mean worker-"),
        ("POST", "resume", {"worker": "worker-1"}, 409, "nothing is paused"),
        ("POST", "tasks/nothere/cancel", None, 404, "there is no task"),
        ("POST", "tasks/nothere/cancel", {"reason": ""}, 400, "reason"),
        ("POST", "workers/worker-7/release", None, 404, "did you mean worker-"),
        ("POST", "processes/worker-7/restart", None, 404, "did you mean worker-"),
    ],
)
def test_what_is_wrong_is_refused_by_name(client, method, path, body, status, words):
    answer = (
        client.request(method, f"/swarm/{path}", json=body) if body is not None else client.request(method, f"/swarm/{path}")
    )
    assert answer.status_code == status, answer.text
    assert any(word in answer.text for word in words.split("|"))
    assert answer.json()["error"]["message"]


def test_verbs_do_what_the_commands_do_and_twice_is_once(user, client):
    paused = client.post("/swarm/pause", json={"worker": "worker-2"})
    assert paused.json() == client.post("/swarm/pause", json={"worker": "worker-2"}).json()
    assert [one["name"] for one in paused.json()["pauses"]] == ["worker-2"]
    assert client.post("/swarm/resume", json={"worker": "worker-2"}).json() == {"pauses": []}

    assert client.post("/swarm/pause", json={"all": True}).status_code == 200
    task_id = user.queue.enqueue(llm(model="llama3.2:1b"))
    cancelled = client.post(f"/swarm/tasks/{task_id}/cancel", json={"reason": "no need"}).json()
    assert cancelled == {"done": [{"task_id": task_id, "outcome": "cancelled"}], "refused": []}
    assert client.get(f"/swarm/tasks/{task_id}").json()["error"]["message"] == "no need"
    again = client.post(f"/swarm/tasks/{task_id}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert "back in lane" in client.post(f"/swarm/tasks/{task_id}/retry").text
    assert client.post("/swarm/resume", json={"all": True}).status_code == 200
    wait_until(lambda: client.get(f"/swarm/tasks/{task_id}").json()["state"] == "completed", what="the task is done")

    batch = batch_of(user)
    assert client.post(f"/swarm/batches/{batch}/cancel").json() == {"batch_id": batch, "cancelled": 0, "asked": 0}
    assert client.post(f"/swarm/batches/{batch}/retry").json() == {"batch_id": batch, "put_back": 0}
    assert client.post("/swarm/workers/worker-1/release").json() == {"released": []}

    assert client.post("/swarm/nodes/box2/drain").status_code == 404
    assert client.post("/swarm/nodes/local/drain").status_code == 409
    record = NodeRecord(name="box2", source="ray", address="10.0.0.2", phase=NodePhase.UP)
    write_node(user.queue.layout, user.queue.storage, record)
    for _ in range(2):
        assert client.post("/swarm/nodes/box2/drain").json()["nodes"][0]["node"] == "box2"
    assert drained_nodes(user.queue.layout) == {"box2"}
    assert "is used again" in client.post("/swarm/nodes/box2/resume").text
    assert drained_nodes(user.queue.layout) == set()
    forget_nodes(user.queue.layout)
    assert "ollama-worker-2 restarted" in client.post("/swarm/processes/ollama-worker-2/restart").text


def events_of(response: httpx.Response) -> Iterator[tuple[str, str, object]]:
    """Id, name and document of each event."""
    id_ = name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            id_ = value
        elif field == "event":
            name = value
        elif field == "data":
            yield id_, name, json.loads(value)


def until_event(events: Iterator[tuple[str, str, object]], wanted) -> str:
    """The id of the first event that is wanted."""
    return next(id_ for id_, name, document in events if wanted(name, document))


def test_events_hold_the_parts_of_the_status_and_go_on_where_a_client_left(user, client):
    status = client.get("/swarm/status").json()
    parts = {}
    with client.stream("GET", "/swarm/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
        for id_, name, document in events:
            parts[name] = document
            last = id_
            if set(parts) >= {*PARTS, "batches"}:
                break
        for name, fields in PARTS.items():
            assert set(parts[name]) == set(fields)
        assert {field for part in PARTS.values() for field in part} <= set(status)
        before = parts["queue"]["queue"]["completed"]
        task_id = user.queue.enqueue(llm(model="llama3.2:1b"))
        last = until_event(events, lambda name, said: name == "queue" and said["queue"]["completed"] > before)
    wait_until(lambda: not client.get("/swarm/active").json()["tasks"], what=f"{task_id} has left its worker")
    with client.stream("GET", "/swarm/events", headers={"Last-Event-ID": last}) as response:
        seen = []
        user.queue.pause("worker", "worker-2")
        for id_, name, document in events_of(response):
            assert number_of(id_) > number_of(last)
            seen.append(name)
            if name == "alarms" and any("paused" in alarm["text"] for alarm in document["alarms"]):
                break
        assert "status" not in seen  # it has not changed
    user.queue.resume("worker", "worker-2")


def number_of(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


def up_to(events: Iterator[tuple[str, str, object]], wanted) -> Iterator[tuple[str, str, object]]:
    """Events up to the first that is wanted, with it."""
    for one in events:
        yield one
        if wanted(one[2]):
            return


def test_a_log_is_followed_from_its_last_entries_on(user, client):
    path = user.root / "logs" / "worker-1.log"
    last = client.get("/swarm/logs?name=worker-1&lines=1").json()["lines"][-1]
    with client.stream("GET", "/swarm/logs?follow&name=worker-1&lines=1") as response:
        events = events_of(response)
        assert next(events)[2]["source"] == last["source"] == "worker-1"
        for name in ("worker-2", "worker-1"):
            with path.with_name(f"{name}.log").open("a") as log:
                log.write(f"[2026-11-29T12:00:00.000+00:00] [{name}] INFO  said by {name}\n")
        said = [document for _, _, document in up_to(events, lambda said: said["text"].endswith("said by worker-1"))]
        assert {one["source"] for one in said} == {"worker-1"}
    assert client.get("/swarm/logs?text=said by worker-2").json()["lines"][0]["source"] == "worker-2"
