"""The lines of a batch file, refused with OpenAI's codes; and a batch's own parameters."""

import msgspec
import pytest

from swarm.config.settings import Settings
from swarm.core.batches.life import BatchStatus
from swarm.http.batches import requests
from swarm.http.batches.requests import MOST_PROBLEMS, RequestReader, check_file
from swarm.queue.batches.api_batches import ApiBatches, ShownCounts
from swarm.queue.fsck import fsck
from tests.helpers.httpclients import http_client, jsonl, line
from tests.helpers.queues import open_queue

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "x"}]


def checked(tmp_path, data, *, most=1000, endpoint=CHAT, unknown=lambda _models: {}):
    path = tmp_path / "in.jsonl"
    path.write_bytes(data)
    work = check_file(str(path), RequestReader(Settings(), endpoint), most, unknown)
    try:
        while True:
            next(work)
    except StopIteration as done:
        return done.value


def without(name, **more):
    return {key: value for key, value in line("a", **more).items() if key != name}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", ("empty_file", None, None)),
        (b"\n \n", ("empty_file", None, None)),
        (b"{bad\n", ("invalid_json_line", 1, None)),
        (b"[1]\n", ("invalid_json_line", 1, None)),
        (b"\xff\xfe{\x00}\x00", ("invalid_json_line", 1, None)),
        (b'{"a": 1, "a": 2}\n', ("invalid_json_line", 1, None)),
        (jsonl(line("a"), without("custom_id")), ("missing_required_parameter", 2, "custom_id")),
        (jsonl(line("")), ("missing_required_parameter", 1, "custom_id")),
        (jsonl({**line("a"), "custom_id": 7}), ("invalid_type", 1, "custom_id")),
        (jsonl(line("a"), line("b"), line("a")), ("duplicate_custom_id", 3, "custom_id")),
        (jsonl(without("method")), ("missing_required_parameter", 1, "method")),
        (jsonl(line("a", method="GET")), ("invalid_method", 1, "method")),
        (jsonl(without("url")), ("missing_required_parameter", 1, "url")),
        (jsonl(line("a", url="/v1/images")), ("invalid_url", 1, "url")),
        (jsonl(line("a", url="/v1/embeddings")), ("url_mismatch", 1, "url")),
        (jsonl(without("body")), ("missing_required_parameter", 1, "body")),
        (jsonl(line("a", body=[])), ("invalid_type", 1, "body")),
        (jsonl(line("a", body={"messages": MESSAGES})), ("missing_required_parameter", 1, "body.model")),
        (jsonl(line("a", body={"model": "m"})), ("missing_required_parameter", 1, "body.messages")),
        (jsonl(line("a", body={**line("a")["body"], "n": 2})), ("invalid_parameter", 1, "body.n")),
        (jsonl(line("a", body={**line("a")["body"], "zz": 2})), ("unsupported_parameter", 1, "body.zz")),
        (jsonl(line("a", body={**line("a")["body"], "temperature": 9})), ("invalid_parameter", 1, "body.temperature")),
        (jsonl(line("a", depends_on=["b"])), ("unknown_parameter", 1, "depends_on")),
        (jsonl(line("a", notify=["script:x"])), ("unknown_parameter", 1, "notify")),
        (b'{"custom_id": "' + b"x" * (9 << 20) + b'"}\n', ("request_too_large", 1, None)),
        (jsonl(line("a", "x" * (1 << 21))), ("invalid_parameter", 1, None)),
    ],
)  # fmt: skip
def test_each_fault_with_its_code_line_and_parameter(tmp_path, data, problem):
    found = checked(tmp_path, data)
    assert [(p.code, p.line, p.param) for p in found.problems] == [problem]
    assert found.problems[0].message


def test_too_many_requests(tmp_path):
    found = checked(tmp_path, jsonl(*(line(str(i)) for i in range(6))), most=5)
    assert [p.code for p in found.problems] == ["too_many_tasks"]
    assert checked(tmp_path, jsonl(*(line(str(i)) for i in range(5))), most=5).problems == ()


def test_an_unknown_model_is_named_once_with_its_first_line(tmp_path):
    data = jsonl(line("a"), *(line(str(i), body={**line("a")["body"], "model": "lama"}) for i in range(3)))
    found = checked(
        tmp_path, data, unknown=lambda models: {"lama": "no server has the model lama"} if "lama" in models else {}
    )
    assert [(p.code, p.line, p.param) for p in found.problems] == [("model_not_found", 2, "body.model")]
    assert found.models == {"llama3.2:3b": 1, "lama": 3}


def test_problems_have_a_limit_and_good_files_none(tmp_path):
    assert len(checked(tmp_path, b"{bad\n" * 500).problems) == MOST_PROBLEMS
    bom = checked(tmp_path, b"\xef\xbb\xbf" + jsonl(line("a")) + b"\r\n" + jsonl(line("b"))[:-1])
    assert (bom.total, bom.problems, bom.models) == (2, (), {"llama3.2:3b": 2})


@pytest.mark.parametrize(
    "bad",
    [
        {"\x1b" * 20_000: 1},
        {"method": "\x1b" * 20_000},
        {"url": "\n" * 20_000},
        {"body": {**line("a")["body"], "\u202e" * 20_000: 1}},
        {"custom_id": "\x7f" * 20_000},
    ],
)
def test_what_a_client_wrote_is_quoted_in_short_on_one_line(client, tmp_path, bad):
    problems = checked(tmp_path, jsonl(*[line("a") | bad] * (MOST_PROBLEMS + 1))).problems
    assert len(problems) == MOST_PROBLEMS
    assert all((p.message + (p.param or "")).isprintable() for p in problems)
    queue = client.queue
    book = ApiBatches(queue.layout, queue.storage)
    made = client.post("/v1/batches", json=wanted(client)).json()
    book.write(msgspec.structs.replace(book.find(made["id"]), errors=problems))
    assert book.find(made["id"]).errors == problems, "the record can be read again"


def test_so_many_models_have_room_in_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "MOST_MODELS", 2)
    named = [line(f"{i}", body={**line("a")["body"], "model": f"m{i % 3}"}) for i in (0, 1, 3, 2, 5)]
    found = checked(tmp_path, jsonl(*named))
    assert [(p.code, p.line, p.param) for p in found.problems] == [("too_many_models", 4, "body.model")]


@pytest.fixture
def client(tmp_path):
    queue = open_queue(tmp_path)
    with http_client(queue) as client:
        client.queue = queue
        made = client.post("/v1/files", files={"file": ("in.jsonl", jsonl(line("a")))}, data={"purpose": "batch"})
        client.file_id = made.json()["id"]
        yield client


def wanted(client, **more):
    return {"input_file_id": client.file_id, "endpoint": CHAT, "completion_window": "24h", **more}


def test_a_batch_is_on_record_when_the_answer_comes(client):
    made = client.post("/v1/batches", json=wanted(client, metadata={"a": "b"})).json()
    assert (made["object"], made["status"], made["metadata"]) == ("batch", "validating", {"a": "b"})
    assert made["expires_at"] - made["created_at"] == 86400
    assert made["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert (made["output_file_id"], made["errors"], made["usage"]) == (None, None, None)
    assert client.get(f"/v1/batches/{made['id']}").json() == made
    assert client.get("/v1/batches").json()["data"] == [made]
    used = client.delete(f"/v1/files/{client.file_id}")
    assert (used.status_code, used.json()["error"]["code"]) == (400, "file_in_use")
    cancelling = client.post(f"/v1/batches/{made['id']}/cancel").json()
    assert cancelling["status"] == "cancelling"
    assert cancelling["cancelling_at"] >= made["created_at"]
    assert client.post(f"/v1/batches/{made['id']}/cancel").json() == cancelling


@pytest.mark.parametrize("way", ["get", "list", "cancel"])
def test_a_batch_that_ends_while_it_is_read_keeps_its_counts(client, monkeypatch, way):
    made = client.post("/v1/batches", json=wanted(client)).json()
    book = ApiBatches(client.queue.layout, client.queue.storage)
    book.show(made["id"], ShownCounts(completed=2))
    read = ApiBatches.shown

    def ended_before(own, batch_id):
        if (open_one := book.find(batch_id)).status is BatchStatus.VALIDATING:
            book.end(msgspec.structs.replace(open_one, status=BatchStatus.COMPLETED, total=3, completed=3))
        return read(own, batch_id)

    monkeypatch.setattr(ApiBatches, "shown", ended_before)
    path = {"get": f"/v1/batches/{made['id']}", "list": "/v1/batches", "cancel": f"/v1/batches/{made['id']}/cancel"}[way]
    answer = (client.post if way == "cancel" else client.get)(path).json()
    told = answer["data"][0] if way == "list" else answer
    assert (told["status"], told["request_counts"]) == ("completed", {"total": 3, "completed": 3, "failed": 0})


def test_a_damaged_record_hides_no_other_batch(client):
    damaged, sound = (client.post("/v1/batches", json=wanted(client)).json() for _ in range(2))
    path = f"{client.queue.layout.batches}/{damaged['id']}.open.json"
    with open(path, "w") as record:
        record.write("{")
    assert client.get("/v1/batches").json()["data"] == [sound]
    assert [(f.kind, f.path) for f in fsck.look(client.queue.layout, agree_s=0)] == [("batch", path)]


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"endpoint": None}, "missing_required_parameter", "endpoint"),
        ({"endpoint": "/v1/images"}, "invalid_value", "endpoint"),
        ({"endpoint": 3}, "invalid_type", "endpoint"),
        ({"input_file_id": "file-none"}, "file_not_found", "input_file_id"),
        ({"input_file_id": "../control"}, "file_not_found", "input_file_id"),
        ({"completion_window": None}, "missing_required_parameter", "completion_window"),
        *(
            ({"completion_window": bad}, "invalid_value", "completion_window")
            for bad in ("soon", "0h", "31d", "-1h", "24h\n")
        ),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "invalid_value", "metadata"),
        ({"metadata": {"k" * 65: ""}}, "invalid_value", f"metadata.{'k' * 64}"),
        ({"metadata": {"k": "v" * 513}}, "invalid_value", "metadata.k"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "invalid_value", "output_expires_after[anchor]"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "invalid_value", "output_expires_after[seconds]"),
        ({"colour": "red"}, "unknown_parameter", "colour"),
    ],
)
def test_bad_parameters_of_a_batch(client, change, code, param):
    answer = client.post("/v1/batches", json=wanted(client, **change))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"], error["param"]) == (400, "invalid_request_error", code, param)
    assert client.get("/v1/batches").json()["data"] == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_none(client, body):
    answer = client.post("/v1/batches", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("name", ["batch_none", "..", "../x", "x" * 300])
def test_an_unknown_batch(client, name):
    assert client.get(f"/v1/batches/{name}").status_code == 404
    assert client.post(f"/v1/batches/{name}/cancel").status_code == 404
