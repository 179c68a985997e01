"""A server that others may reach, as a process: tokens at once, hosts, sizes, slow and broken requests, and its logs."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from swarm.http.access.guarded_protocol import HEAD_BYTES
from swarm.proc.ports import free_port
from tests.helpers.cli import User
from tests.helpers.wait import wait_until

SECRET = "the-prompt-that-nobody-may-read"


class Entry:
    """The server and how it is reached."""

    def __init__(self, user: User, port: int) -> None:
        self.user = user
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def token(self, name: str, scope: str = "submit") -> str:
        return json.loads(self.user.ok("token", "create", name, "--scope", scope, "--json"))["token"]

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as sock:
            yield sock

    def raw(self, data: bytes) -> bytes:
        """What is answered to these bytes, until the server closes the connection."""
        with self.connected() as sock:
            sock.sendall(data)
            return everything(sock)


def everything(sock: socket.socket) -> bytes:
    found = b""
    try:
        while chunk := sock.recv(65536):
            found += chunk
    except ConnectionResetError:
        pass
    return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(scope="module")
def entry(tmp_path_factory) -> Iterator[Entry]:
    settings = {"MAX_BODY_MIB": "1", "READ_TIMEOUT_S": "3", "MAX_CONNECTIONS": "40", "PROXIES": '["127.0.0.1"]'}
    env = {f"SWARM_HTTP__{name}": value for name, value in settings.items()}
    user = User(tmp_path_factory.mktemp("entry"), **env, SWARM_LOGGING__LEVEL="DEBUG")
    port = free_port()
    refused = user.run("http", "--listen", f"0.0.0.0:{port}")
    assert refused.returncode == 2
    assert "error: the HTTP server needs a token before it starts" in refused.stderr
    assert "`swarm token create NAME`" in refused.stderr
    also = user.run("up", "--simulate", "1", "--http", f"0.0.0.0:{port}")
    assert (also.returncode, "needs a token before it starts" in also.stderr) == (2, True)
    made = Entry(user, port)
    made.token("first", "admin")
    process = user.start("http", "--listen", f"0.0.0.0:{port}")
    try:
        assert process.stdout.readline() == f"HTTP server on http://0.0.0.0:{port}\n", process.communicate()
        yield made
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_tokens_are_valid_at_once_and_no_longer_than_until_they_are_revoked(entry):
    headers = {"authorization": f"Bearer {entry.token('alice', 'read')}"}
    path = f"{entry.url}/swarm/nothing"
    assert requests.get(path, timeout=60).status_code == 401
    assert requests.get(path, headers=headers, timeout=60).status_code == 404
    assert requests.post(f"{entry.url}/v1/nothing", headers=headers, timeout=60).status_code == 403
    entry.user.ok("token", "revoke", "alice")
    assert requests.get(path, headers=headers, timeout=60).status_code == 401


def test_hosts(entry):
    for host, wanted in ((f"127.0.0.1:{entry.port}", 200), (socket.gethostname(), 200), ("evil.example.org", 403)):
        assert requests.get(f"{entry.url}/healthz", headers={"host": host}, timeout=60).status_code == wanted
    assert status(entry.raw(b"GET /healthz HTTP/1.0\r\n\r\n")) == 400


def test_a_body_that_is_too_large_is_refused_and_the_client_sees_the_answer(entry):
    headers = {"authorization": f"Bearer {entry.token('large')}"}
    answer = requests.post(f"{entry.url}/v1/chat/completions", data=b"x" * (8 << 20), headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_an_upload_by_somebody_unknown_is_refused_and_the_client_sees_the_answer(entry):
    answer = requests.post(f"{entry.url}/v1/files", data=b"x" * (8 << 20), timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_behind_a_proxy_that_speaks_tls_the_cookie_is_for_tls_only(entry, scheme, secure):
    form = {"token": entry.token(f"by-{scheme}")}
    passed_on = {"x-forwarded-proto": scheme, "x-forwarded-for": "10.0.0.1", "origin": entry.url}
    answer = requests.post(f"{entry.url}/login", data=form, headers=passed_on, timeout=60, allow_redirects=False)
    assert answer.status_code == 303
    assert ("; Secure" in answer.headers["set-cookie"]) is secure


HEAD = b"POST /login HTTP/1.1\r\nHost: localhost\r\n"


def test_a_body_that_does_not_come_is_not_waited_for(entry):
    answer = entry.raw(HEAD + b"Content-Length: 100\r\n\r\ntoken=")
    assert status(answer) == 408
    assert b"connection: close" in answer.lower()


def test_a_head_that_does_not_come_is_not_waited_for(entry):
    with entry.connected() as sock:  # nor is a connection without a word
        assert status(entry.raw(HEAD)) == 408
        assert everything(sock) == b""


def test_a_head_that_is_too_large(entry):
    header = b"x: " + b"y" * HEAD_BYTES + b"\r\n"
    for data in (HEAD + header + b"\r\n", HEAD + header, HEAD + b"x: y\r\n" * HEAD_BYTES):
        assert status(entry.raw(data)) == 431
    many = HEAD + b"a: b\r\n" * 100 + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    assert status(entry.raw(many)) == 401


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_request(entry, data):
    assert status(entry.raw(data)) == 400


def test_more_connections_than_allowed_are_refused_and_those_there_are_go_on(entry):
    with requests.Session() as session:
        assert session.get(f"{entry.url}/healthz", timeout=60).ok
        idle = [socket.create_connection(("127.0.0.1", entry.port)) for _ in range(60)]
        try:
            wait_until(lambda: sum(map(readable, idle)) >= 20, what="some are answered at once")
            refused = [sock for sock in idle if readable(sock)]
            assert len(refused) >= 20
            assert {status(everything(sock)) for sock in refused} == {503}
            assert session.get(f"{entry.url}/healthz", timeout=60).ok
        finally:
            for sock in idle:
                sock.close()
    wait_until(lambda: requests.get(f"{entry.url}/healthz", timeout=60).ok, what="it takes new ones again")


def readable(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(60)


def test_no_log_holds_a_prompt_a_token_or_a_query(entry):
    token = entry.token("secretive")
    headers = {"authorization": f"Bearer {token}", "x-note": SECRET}
    body = {"model": "m", "messages": [{"role": "user", "content": SECRET}]}
    for path in ("/v1/chat/completions", "/api/chat", "/v1/files", "/nothing"):
        requests.post(f"{entry.url}{path}?q={SECRET}", json=body, headers=headers, timeout=60)
        requests.post(f"{entry.url}{path}", data=SECRET, headers={"authorization": f"Bearer {token}x"}, timeout=60)
    requests.post(f"{entry.url}/login", data={"token": token}, timeout=60, allow_redirects=False)
    entry.raw(HEAD + SECRET.encode() + b"\r\n\r\n")
    logs = "".join(path.read_text() for path in (entry.user.root / "logs").iterdir())
    assert re.search(r"\] INFO  POST /v1/files: \d+, [\d.]+ ms, secretive\n", logs)
    assert SECRET not in logs
    assert token not in logs
