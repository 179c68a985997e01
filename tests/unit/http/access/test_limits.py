"""Limits of one request and of one client, an answer that is cut, and what is logged of all this."""

import asyncio
import logging

import pytest

from swarm.http.access import limits
from swarm.http.access.gate import AccessGate
from swarm.http.answers import ApiError
from swarm.queue.stores.tokens import revoke_token
from tests.helpers.http_access import HOST, http_parts, new_token

SECRET = "the prompt that nobody may read"


class Connection:
    """One request to the gate, driven by hand: what it is given and what comes back."""

    def __init__(self, parts, app, *, method="POST", path="/v1/chat/completions", token="", headers=()):
        self.gate = AccessGate(app, parts)
        self.given: asyncio.Queue = asyncio.Queue()
        self.sent: list[dict] = []
        pairs = [(b"host", HOST.encode()), *((b"authorization", f"Bearer {token}".encode()) for _ in range(bool(token)))]
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"q=" + SECRET.encode(),
            "headers": [*pairs, *headers],
        }

    def give(self, body=b"", more=False):
        self.given.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def run(self):
        async def send(message):
            self.sent.append(message)

        await self.gate(self.scope, self.given.get, send)

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else 0

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])


async def reads(scope, receive, send):
    """Reads all of the body, and answers, whatever the framework makes of a refusal in between."""
    try:
        while (await receive()).get("more_body"):
            pass
        status = 200
    except ApiError as error:
        status = error.status
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


async def unreachable(scope, receive, send):
    raise AssertionError("this was to be refused before")


@pytest.fixture
def parts(tmp_path):
    return http_parts(tmp_path / "queue", max_body_mib=1, max_upload_mib=3, client_requests=2)


MIB = b"x" * (1 << 20)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
def test_a_body_that_says_that_it_is_too_large_is_refused_unread_and_the_rest_discarded(parts, path):
    most = 1 if path != "/v1/files" else 4
    connection = Connection(parts, unreachable, path=path, headers=[(b"content-length", str((most << 20) + 1).encode())])
    for _ in range(most):
        connection.give(MIB, more=True)
    connection.give(b"x")
    asyncio.run(connection.run())
    assert connection.status == 413
    assert connection.headers[b"connection"] == b"close"
    assert connection.given.empty()
    assert b"larger than" in connection.sent[1]["body"]
    assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_a_body_that_grows_too_large_is_refused_whatever_the_application_makes_of_it(parts):
    connection = Connection(parts, reads, headers=[(b"transfer-encoding", b"chunked")])
    connection.give(MIB, more=True)
    connection.give(b"x", more=True)
    connection.give(b"x")
    asyncio.run(connection.run())
    assert [message["status"] for message in connection.sent if "status" in message] == [413]
    assert connection.headers[b"connection"] == b"close"


def test_a_body_just_as_large_as_allowed_passes(parts):
    connection = Connection(parts, reads, headers=[(b"transfer-encoding", b"chunked")])
    connection.give(MIB)
    asyncio.run(connection.run())
    assert connection.status == 200
    assert b"connection" not in connection.headers


def test_a_body_that_does_not_come_is_refused_and_one_that_comes_steadily_is_not(tmp_path):
    parts = http_parts(tmp_path / "queue", read_timeout_s=0.05)
    slow = Connection(parts, reads, headers=[(b"content-length", b"9")])
    slow.give(b"x", more=True)
    asyncio.run(slow.run())
    assert slow.status == 408
    assert slow.headers[b"connection"] == b"close"

    async def steady():
        connection = Connection(parts, reads, headers=[(b"content-length", b"9")])
        running = asyncio.create_task(connection.run())
        for _ in range(5):
            connection.give(b"x" * 4 * limits.SLOWEST_BYTES_PER_S, more=True)  # each buys four seconds
            await asyncio.sleep(0.03)
        connection.give()
        await running
        return connection.status

    assert asyncio.run(steady()) == 200


def test_a_body_that_drips_is_refused(tmp_path):
    parts = http_parts(tmp_path / "queue", read_timeout_s=0.2)

    async def drips():
        connection = Connection(parts, reads, headers=[(b"content-length", b"9999")])
        running = asyncio.create_task(connection.run())
        while not running.done():
            connection.give(b"x", more=True)
            await asyncio.sleep(0.02)
        return connection.status

    assert asyncio.run(asyncio.wait_for(drips(), 60)) == 408


def test_an_application_that_takes_its_time_does_not_count_against_the_client(tmp_path):
    parts = http_parts(tmp_path / "queue", read_timeout_s=0.2)

    async def busy(scope, receive, send):
        await receive()
        await asyncio.sleep(0.3)
        await reads(scope, receive, send)

    connection = Connection(parts, busy, headers=[(b"content-length", b"2")])
    connection.give(b"x", more=True)
    connection.give(b"x")
    asyncio.run(connection.run())
    assert connection.status == 200


def test_one_client_cannot_have_all_and_others_are_not_touched(parts):
    alice, bob = new_token(parts, "alice"), new_token(parts, "bob")
    end = asyncio.Event()

    async def waits(scope, receive, send):
        await end.wait()
        await reads(scope, receive, send)

    async def scene():
        gate = AccessGate(waits, parts)

        def connect(token):
            connection = Connection(parts, waits, token=token)
            connection.gate = gate
            connection.give()
            return connection

        begun = [connect(alice), connect(alice), connect(bob), *(connect("") for _ in range(9))]
        running = [asyncio.create_task(one.run()) for one in begun]
        await asyncio.sleep(0)
        refused = connect(alice)
        await refused.run()
        assert (refused.status, refused.headers[b"retry-after"]) == (429, b"1")
        assert b"2 requests of the token alice run already" in refused.sent[1]["body"]
        end.set()
        await asyncio.gather(*running)
        assert [one.status for one in begun] == [200] * len(begun)
        after = connect(alice)
        await after.run()
        assert after.status == 200

    asyncio.run(scene())


def test_a_stream_ends_when_the_token_of_who_reads_it_is_revoked(parts):
    token = new_token(parts, "alice", "read")

    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for n in range(4):
            if n == 2:
                revoke_token(parts.queue.layout, parts.queue.storage, "alice")
            await send({"type": "http.response.body", "body": b"%d" % n, "more_body": True})
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    connection = Connection(parts, stream, method="GET", path="/swarm/events", token=token)
    asyncio.run(connection.run())
    assert [message["body"] for message in connection.sent[1:]] == [b"0", b"1", b""]
    assert not connection.sent[-1]["more_body"]


def test_a_fault_is_answered_and_logged_without_its_text(parts, caplog):
    async def fails(scope, receive, send):
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ExceptionGroup("a group of a task", [ValueError(SECRET)]) from error

    connection = Connection(parts, fails, headers=[(b"content-length", b"0")])
    with caplog.at_level(logging.DEBUG, "swarm.http"):
        asyncio.run(connection.run())
    assert connection.status == 500
    assert SECRET.encode() not in connection.sent[1]["body"]
    assert SECRET not in caplog.text
    assert "POST /v1/chat/completions failed: ValueError at" in caplog.text


def test_a_refusal_in_a_group_of_tasks_is_a_refusal(parts):
    async def fails(scope, receive, send):
        raise ExceptionGroup("a group", [ExceptionGroup("in a group", [ApiError(404, "no such thing")])])

    connection = Connection(parts, fails)
    asyncio.run(connection.run())
    assert connection.status == 404


def test_of_a_request_its_path_status_time_and_client_are_logged_and_no_more(parts, caplog):
    token = new_token(parts, "alice")
    secret_headers = [(b"x-secret", SECRET.encode()), (b"cookie", SECRET.encode())]
    cases = [("POST", "/v1/batches", "INFO"), ("POST", "/v1/chat/completions", "DEBUG"), ("GET", "/v1/models", "DEBUG")]
    for method, path, level in cases:
        caplog.clear()
        connection = Connection(parts, reads, method=method, path=path, token=token, headers=secret_headers)
        connection.give(SECRET.encode())
        with caplog.at_level(logging.DEBUG, "swarm.http"):
            asyncio.run(connection.run())
        (record,) = caplog.records
        assert record.levelname == level
        assert record.message.startswith(f"{method} {path}: 200, ")
        assert record.message.endswith(" ms, alice")
        assert SECRET not in record.message
        assert token not in record.message


def test_what_is_refused_is_logged_with_who_it_was(parts, caplog):
    connection = Connection(parts, reads, path="/v1/files/" + "x" * 999, headers=[(b"origin", b"http://evil")])
    with caplog.at_level(logging.INFO, "swarm.http"):
        asyncio.run(connection.run())
    (record,) = caplog.records
    assert record.message.endswith(" ms, nobody")
    assert ": 403, " in record.message
    assert len(record.message) < 300
