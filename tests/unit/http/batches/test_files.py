"""`/v1/files`: whole or not at all; names are names, never paths; lists by pages."""

import os
from contextlib import suppress

import msgspec
import pytest

from swarm.config.settings import HttpSettings, Settings
from swarm.queue.fsck import fsck
from swarm.queue.stores.file_store import FileStore, sortable_id
from tests.helpers.crashpoints import failing, watched
from tests.helpers.http_access import HOST
from tests.helpers.httpclients import http_client, jsonl, line
from tests.helpers.queues import open_queue


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


@pytest.fixture
def client(queue):
    with http_client(queue) as client:
        yield client


def upload(client, content=b"{}\n", name="in.jsonl", **fields):
    return client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "batch", **fields})


def error_of(answer):
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]


def left(queue):
    return os.listdir(queue.layout.staging), FileStore(queue.layout, queue.storage).names()


def test_the_life_of_a_file(client, queue):
    content = jsonl(*(line(str(i), "x" * 3000) for i in range(1000)))
    made = upload(client, content, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}).json()
    assert (made["object"], made["bytes"], made["purpose"]) == ("file", len(content), "batch")
    assert (made["filename"], made["expires_at"] - made["created_at"]) == ("in.jsonl", 3600)
    assert client.get(f"/v1/files/{made['id']}").json() == made
    got = client.get(f"/v1/files/{made['id']}/content")
    assert got.content == content
    assert "attachment" in got.headers["content-disposition"]
    with open(f"{queue.layout.files}/{made['id']}/file.json") as file:
        assert '"in.jsonl"' in file.read(), "readable with cat and jq"
    assert client.delete(f"/v1/files/{made['id']}").json() == {"id": made["id"], "object": "file", "deleted": True}
    assert error_of(client.get(f"/v1/files/{made['id']}")) == (404, "file_not_found", "id")
    assert left(queue) == ([], [])


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_a_client_that_goes_before_the_first_piece_leaves_nothing_open(client, queue, version):
    made = upload(client).json()["id"]
    path = f"/v1/files/{made}/content"
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": version}, "http_version": "1.1", "method": "GET"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": [(b"host", HOST.encode())]}
    scope |= {"scheme": "http", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        started.append(message["status"])
        raise ConnectionResetError

    started = []
    with suppress(Exception):  # whatever is made of the lost connection
        client.portal.call(client.app, scope, receive, send)
    assert started == [200]
    assert f"{queue.layout.files}/{made}/content" not in open_paths()


def open_paths():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


@pytest.mark.parametrize("name", ["../../../etc/passwd", "a/b", "\x00\x1b[2J", "..", "ünïcode.jsonl", "x" * 3000])
def test_the_name_of_a_client_is_no_path(client, queue, name):
    made = upload(client, name=name).json()
    assert os.listdir(queue.layout.files) == [made["id"]]
    assert made["filename"].isprintable()
    assert len(made["filename"]) <= 255
    assert client.get(f"/v1/files/{made['id']}/content").status_code == 200


@pytest.mark.parametrize("name", ["..", "../control", "%2e%2e%2fcontrol", "file-1", "file-" + "0" * 36 + "/../x", "x" * 300])
def test_an_id_is_no_path_either(client, name):
    assert client.get(f"/v1/files/{name}").status_code == 404
    assert client.get(f"/v1/files/{name}/content").status_code == 404
    assert client.delete(f"/v1/files/{name}").status_code in (404, 405)


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ({"files": {"file": ("a", b"x")}}, (400, "missing_required_parameter", "purpose")),
        ({"data": {"purpose": "batch"}, "files": {"other": b"x"}}, (400, "missing_required_parameter", "file")),
        ({"data": {"purpose": "fine-tune"}, "files": {"file": ("a", b"x")}}, (400, "invalid_purpose", "purpose")),
        ({"data": {"purpose": "batch"}, "files": {"file": ("a", b"")}}, (400, "empty_file", "file")),
        ({"data": {"purpose": "batch"}, "files": [("file", ("a", b"x"))] * 2}, (400, None, "file")),
        ({"data": {"purpose": "batch"}}, (400, None, None)),
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, (400, None, None)),
        ({"content": b"--x\r\nrubbish", "headers": {"content-type": "multipart/form-data; boundary=x"}}, (400, None, None)),
        ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=x"}}, (400, None, None)),
        (
            {"data": {"purpose": "batch", "expires_after[seconds]": "3600"}, "files": {"file": ("a", b"x")}},
            (400, "invalid_value", "expires_after[anchor]"),
        ),
        ({"data": {"purpose": "b" * 9999}, "files": {"file": ("a", b"x")}}, (400, None, "purpose")),
    ],
)
def test_what_is_refused_leaves_nothing(client, queue, form, wanted):
    assert error_of(client.post("/v1/files", **form)) == wanted
    assert left(queue) == ([], [])


def test_a_file_that_is_too_large(queue):
    settings = msgspec.structs.replace(Settings(), http=HttpSettings(max_upload_mib=1))
    with http_client(queue, settings=settings) as client:
        assert upload(client, b"x" * (1 << 20)).status_code == 200

        def pieces():
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(33):
                yield b"y" * (1 << 15)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert error_of(client.post("/v1/files", content=pieces(), headers=headers)) == (413, "file_too_large", "file")
        assert error_of(upload(client, b"x" * ((1 << 20) + (1 << 18)))) == (413, "file_too_large", "file")
    assert len(left(queue)[1]) == 1
    assert left(queue)[0] == []


def test_a_full_disk_is_said_and_leaves_nothing(client, queue):
    for k in range(40):
        with watched(queue.layout.root, failing("ENOSPC", k, lasting=True)):
            answer = upload(client, b"x" * (3 << 20))
        if answer.status_code == 200:
            break
        assert error_of(answer) == (507, "insufficient_storage", None)
        assert "free some space" in answer.json()["error"]["hint"]
        assert left(queue) == ([], [])
    assert k > 3
    assert answer.status_code == 200


def test_a_disk_in_other_trouble(client, queue):
    with watched(queue.layout.root, failing("EIO", 2, lasting=False)):
        assert error_of(upload(client)) == (503, "storage_fault", None)
    assert left(queue) == ([], [])


def test_lists_by_pages(client):
    ids = [upload(client).json()["id"] for _ in range(5)]
    assert ids == sorted(ids), "ids rise with time"
    page = client.get("/v1/files?limit=2").json()
    assert ([f["id"] for f in page["data"]], page["has_more"], page["object"]) == (ids[:2:-1], True, "list")
    assert (page["first_id"], page["last_id"]) == (ids[4], ids[3])
    page = client.get(f"/v1/files?limit=2&after={page['last_id']}").json()
    assert [f["id"] for f in page["data"]] == [ids[2], ids[1]]
    assert client.delete(f"/v1/files/{ids[1]}").status_code == 200
    page = client.get(f"/v1/files?after={ids[1]}").json()
    assert ([f["id"] for f in page["data"]], page["has_more"]) == ([ids[0]], False), "a place that is gone is a place"
    assert client.get("/v1/files?order=asc&limit=1").json()["data"][0]["id"] == ids[0]
    assert client.get("/v1/files?purpose=batch_output").json()["data"] == []
    assert len(client.get("/v1/files?purpose=batch").json()["data"]) == 4
    assert error_of(client.get("/v1/files?limit=0")) == (400, "invalid_value", "limit")
    assert error_of(client.get("/v1/files?limit=x")) == (400, "invalid_value", "limit")
    assert error_of(client.get("/v1/files?order=up")) == (400, "invalid_value", "order")


def test_fsck_knows_the_directory(client, queue):
    made = upload(client).json()["id"]
    assert fsck.look(queue.layout, agree_s=0) == ()
    os.unlink(f"{queue.layout.files}/{made}/content")
    os.mkfifo(f"{queue.layout.files}/pipe")
    found = fsck.look(queue.layout, agree_s=0)
    assert {(f.kind, f.action.value) for f in found} == {("file", "none"), ("odd", "aside")}


@pytest.mark.parametrize("text", ["{", "x" * (1 << 17)])
def test_a_damaged_record_is_named_hides_no_other_and_can_be_deleted(client, queue, text):
    damaged, sound = upload(client).json(), upload(client).json()
    record = f"{queue.layout.files}/{damaged['id']}/file.json"
    with open(record, "w") as file:
        file.write(text)
    assert client.get("/v1/files").json()["data"] == [sound]
    assert "delete the file" in client.get(f"/v1/files/{damaged['id']}").json()["error"]["hint"]
    assert [(f.kind, f.path, f.action.value) for f in fsck.look(queue.layout, agree_s=0)] == [("file", record, "none")]
    assert client.delete(f"/v1/files/{damaged['id']}").json()["deleted"]
    assert left(queue) == ([], [sound["id"]])
    assert fsck.look(queue.layout, agree_s=0) == ()


def test_ids_cannot_be_guessed():
    assert len({sortable_id("file-")[17:] for _ in range(100)}) == 100
