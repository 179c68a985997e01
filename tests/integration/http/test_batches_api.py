"""Files and batches by the official ``openai`` client, on simulated cards; killed, and asked from a shell."""

import os
import signal
import time

import httpx
import openai
import pytest

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity
from swarm.proc.env_markers import ROOT_MARKER, find_marked
from swarm.proc.ports import free_port
from swarm.queue.layout import Layout
from swarm.queue.stores.registry import read_row
from tests.helpers.cli import User
from tests.helpers.httpclients import jsonl, line
from tests.helpers.wait import wait_until

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


class Patient:
    """The official client, which is asked again while nobody listens; what it sees of a batch must never go back."""

    def __init__(self, port: int) -> None:
        self.openai = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=30, timeout=60)
        self.seen: dict[str, tuple[int, int]] = {}

    def batch(self, *records: dict, window: str = "24h", **more: object) -> str:
        file = self.openai.files.create(file=("in.jsonl", jsonl(*records)), purpose="batch")
        made = self.openai.batches.create(
            input_file_id=file.id, endpoint=more.pop("endpoint", CHAT), completion_window=window, **more
        )
        return made.id

    def get(self, batch_id: str) -> openai.types.Batch:
        now = self.openai.batches.retrieve(batch_id)
        counts = now.request_counts
        before = self.seen.get(batch_id, (0, 0))
        assert counts.completed >= before[0]
        assert counts.failed >= before[1]
        self.seen[batch_id] = (counts.completed, counts.failed)
        return now

    def wait_for(self, batch_id: str, *statuses: str) -> openai.types.Batch:
        wait_until(lambda: self.get(batch_id).status in statuses, timeout_s=120, poll_s=0.1, what=f"{batch_id} {statuses}")
        return self.get(batch_id)

    def rows(self, file_id: str | None) -> list[dict]:
        return [] if file_id is None else [httpx.Response(200, text=t).json() for t in self.text(file_id).splitlines()]

    def text(self, file_id: str) -> str:
        return self.openai.files.content(file_id).text

    def check_once_each(self, now: openai.types.Batch, ids: list[str]) -> tuple[list[dict], list[dict]]:
        good, bad = self.rows(now.output_file_id), self.rows(now.error_file_id)
        assert (len(good), len(bad)) == (now.request_counts.completed, now.request_counts.failed)
        assert sorted(row["custom_id"] for row in good + bad) == sorted(ids)
        return good, bad


@pytest.fixture(scope="module")
def swarm(tmp_path_factory):
    user = User(tmp_path_factory.mktemp("batches"))
    port = free_port()
    user.ok("up", "--simulate", "2", "--http", str(port), "--detach")
    yield user, port
    user.kill_all()
    wait_until(lambda: not user.ours(), what="the batch driver ends with its parent")


@pytest.fixture
def client(swarm):
    return Patient(swarm[1])


def pid_of(user: User, name: str = "http") -> int:
    row = read_row(Layout(str(user.root)), name)
    return row.process.pid if row is not None else 0


def drivers(user: User) -> list[ProcessIdentity]:
    ours = find_marked(**{ROOT_MARKER: str(user.root)})
    return [one for one in ours if "driver_process" in " ".join(identity.command_line(one))]


def kill_driver(user: User) -> None:
    """One is started a moment after the HTTP server."""
    wait_until(lambda: any(identity.signal(one, signal.SIGKILL) for one in drivers(user)), what="a batch driver")


def test_a_thousand_requests_from_upload_to_output_file(swarm, client):
    ids = [f"request {i}" for i in range(1000)]
    batch_id = client.batch(*(line(i, f"say {i}") for i in ids), metadata={"job": "night"})
    now = client.wait_for(batch_id, *OVER)
    assert (now.status, now.errors, now.metadata) == ("completed", None, {"job": "night"})
    good, bad = client.check_once_each(now, ids)
    assert bad == []
    assert [row["custom_id"] for row in good] == ids
    body = good[0]["response"]["body"]
    assert (good[0]["response"]["status_code"], body["object"], body["simulated"]) == (200, "chat.completion", True)
    assert now.usage.output_tokens == sum(row["response"]["body"]["usage"]["completion_tokens"] for row in good)
    assert client.openai.files.retrieve(now.output_file_id).purpose == "batch_output"
    assert batch_id in swarm[0].ok("batches")
    shown = swarm[0].json("batch", "show", batch_id)["batch"]
    assert (shown["items"], shown["left"]) == (1000, 0)
    assert client.openai.batches.list(limit=1).data[0].id == batch_id
    assert client.openai.files.delete(now.output_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.openai.files.content(now.output_file_id)


def test_embeddings_and_a_model_that_nobody_has(client):
    body = {"model": "nomic-embed-text:latest", "input": ["one", "two"]}
    embed = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": body}
    now = client.wait_for(client.batch(embed, endpoint="/v1/embeddings"), *OVER)
    ((row,), _) = client.check_once_each(now, ["e"])
    assert len(row["response"]["body"]["data"]) == 2
    bad = line("a", body={"model": "llama3.2:33b", "messages": [{"role": "user", "content": "x"}]})
    now = client.wait_for(client.batch(line("b"), bad), *OVER)
    assert now.status == "failed"
    (problem,) = now.errors.data
    assert (problem.code, problem.line, problem.param) == ("model_not_found", 2, "body.model")
    assert "llama3.2:3b" in problem.message, "near misses are named"


def test_cancelled_by_a_client_and_from_a_shell(swarm, client):
    slow = {"model": "llama3.2:3b", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4000}
    ids = [str(i) for i in range(3000)]
    one, two = (client.batch(*(line(i, body=slow) for i in ids)) for _ in range(2))
    client.wait_for(one, "in_progress")
    assert client.openai.batches.cancel(one).status == "cancelling"
    client.wait_for(two, "in_progress")
    swarm[0].ok("batch", "cancel", two)
    for batch_id in (one, two):
        now = client.wait_for(batch_id, *OVER)
        assert now.status == "cancelled"
        _, bad = client.check_once_each(now, ids)
        assert {row["error"]["code"] for row in bad} <= {"batch_cancelled"}
        assert bad


def test_expired(client):
    slow = {"model": "llama3.2:3b", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4000}
    ids = [str(i) for i in range(3000)]
    now = client.wait_for(client.batch(*(line(i, body=slow) for i in ids), window="3s"), *OVER)
    assert now.status == "expired"
    _, bad = client.check_once_each(now, ids)
    assert {row["error"]["code"] for row in bad} == {"batch_expired"}


def test_the_process_is_killed_again_and_again(swarm, client):
    """At other moments each time: while checking, submitting, working, writing."""
    user, _ = swarm
    ids = [f"id {i}" for i in range(2500)]
    batches = [client.batch(*(line(i, f"say {i}") for i in ids))]
    for round_no in range(5):
        time.sleep(0.3 * round_no)  # the place of the kill, not a wait for anything
        before = pid_of(user)
        if round_no % 2:
            kill_driver(user)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda pid=before: pid_of(user) not in (0, pid), what="another process")
        client.get(batches[0])
        batches.append(client.batch(line("a"), line("b")))
    now = client.wait_for(batches[0], *OVER)
    assert now.status == "completed"
    client.check_once_each(now, ids)
    for batch_id in batches[1:]:
        client.check_once_each(client.wait_for(batch_id, "completed"), ["a", "b"])
    kill_driver(user)  # alone: its parent starts another one
    client.check_once_each(client.wait_for(client.batch(line("last")), "completed"), ["last"])
    wait_until(lambda: len(drivers(user)) == 1, what="one driver")
    assert user.run("queue", "fsck").returncode == 0


def test_an_upload_that_is_cut_off_leaves_no_file(swarm, client):
    _, port = swarm
    before = {file.id for file in client.openai.files.list()}
    staging = swarm[0].root / ".staging"
    of_the_killed = set(staging.glob("*/content"))  # by the tests before: they stay for an hour

    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(20):
            yield b"y" * (1 << 18)
        raise OSError("the client dies")

    with pytest.raises(OSError, match="the client dies"):
        httpx.post(
            f"http://127.0.0.1:{port}/v1/files",
            content=pieces(),
            headers={"content-type": "multipart/form-data; boundary=x"},
            timeout=60,
        )
    wait_until(lambda: not set(staging.glob("*/content")) - of_the_killed, what="nothing half accepted")
    assert {file.id for file in client.openai.files.list()} == before
