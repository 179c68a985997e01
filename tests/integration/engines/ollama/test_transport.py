"""A server may trickle, stay silent, close a kept connection: limits hold, and a cancel cuts at once."""

from __future__ import annotations

import itertools
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from tests.helpers.blocking import BlockingClient
from tests.helpers.simserver import Cancel, SimServer
from tests.helpers.wait import wait_until

LIMITS = Limits(total_s=60.0)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
ANSWER = b'{"version":"1.2.3"}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


class Scripted:
    """A server whose n-th connection is served by ``serve(connection, n)``."""

    def __init__(self, serve) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard: list[bytes] = []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection, number), daemon=True).start()

    def _one(self, connection: socket.socket, number: int) -> None:
        with connection:
            try:
                self._serve(self, connection, number)
            except OSError:
                return  # the client hung up

    def hear(self, connection: socket.socket) -> bool:
        """Read one request; False: the connection ended."""
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0 or len(got) - end - 4 < _length(got[:end]):
            data = connection.recv(65536)
            if not data:
                return False
            got += data
        self.heard.append(got)
        return True


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)content-length: (\d+)", head)
    return int(found.group(1)) if found else 0


def trickled(data: bytes, rest: bytes):
    """Sends ``data``, then ``rest`` one byte at a time, for ever; with no ``rest`` it stays silent."""

    def serve(server: Scripted, connection: socket.socket, _number: int) -> None:
        server.hear(connection)
        connection.sendall(data)
        for byte in itertools.cycle(rest):
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        server.hear(connection)

    return serve


BEFORE_THE_FIRST_LINE = {
    "silence before the head": trickled(b"", b""),
    "a status line without end": trickled(b"HTTP/1.1 200 ", b"a"),
    "a header without end": trickled(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "informational heads without end": trickled(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's size without end": trickled(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "a line without end": trickled(HEAD + b'{"response":"', b"a"),
    "silence after the head": trickled(HEAD, b""),
}
SLOW = {**BEFORE_THE_FIRST_LINE, "silence in the body": trickled(HEAD + b'{"response":"a","done":false}\n', b"")}


def run(client: BlockingClient, limits: Limits, cancel: Cancel | None = None) -> TaskFault:
    with pytest.raises(TaskFault) as caught:
        client.run("/api/generate", {"model": "m"}, limits=limits, cancel=cancel)
    return caught.value


@pytest.mark.parametrize("serve", SLOW.values(), ids=SLOW)
def test_a_server_that_trickles_does_not_outlast_the_limits(serve):
    with Scripted(serve) as server, BlockingClient(server.url) as client:
        assert run(client, Limits(total_s=0.3)).kind == "timeout"
        assert client_version_times_out(client)
        if serve in BEFORE_THE_FIRST_LINE.values():
            assert run(client, Limits(first_token_s=0.3, token_gap_s=60)).kind == "first_token_timeout"
        else:
            assert run(client, Limits(first_token_s=60, token_gap_s=0.3)).kind == "token_gap_timeout"


def client_version_times_out(client: BlockingClient) -> bool:
    with pytest.raises(TaskFault) as caught:
        client.version(timeout_s=0.3)
    return caught.value.kind == "timeout"


@pytest.mark.parametrize("serve", SLOW.values(), ids=SLOW)
def test_a_cancel_cuts_at_once_whatever_is_awaited(serve):
    with Scripted(serve) as server, BlockingClient(server.url) as client:
        cancel = Cancel()

        def fire() -> None:
            wait_until(lambda: server.heard, what="the request to arrive")
            time.sleep(0.1)
            cancel.fire()

        firing = threading.Thread(target=fire)
        firing.start()
        began_s = time.monotonic()
        assert run(client, Limits(), cancel).fault == "cancelled"
        assert time.monotonic() - began_s < 30, "the limits are minutes"
        firing.join()


@pytest.mark.parametrize(
    ("data", "total_s", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, 60.0, "garbage"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n", 60.0, "garbage"),
        (b"HTTP/1.1 307 \r\nLocation: http://[\r\nTransfer-Encoding: chunked\r\n\r\n", 1.0, "timeout"),
    ],
    ids=["a long header", "many headers", "a redirect whose body does not come"],
)
def test_a_head_has_limits(data, total_s, kind):
    def serve(server: Scripted, connection: socket.socket, _number: int) -> None:
        server.hear(connection)
        connection.sendall(data)
        server.hear(connection)

    with Scripted(serve) as server, BlockingClient(server.url) as client:
        assert run(client, Limits(total_s=total_s)).kind == kind


def ask_on_a_kept_connection(pause_s: float) -> tuple[int, str]:
    """How often the second request is sent, and what becomes of it, when the kept connection ends below it."""

    def serve(server: Scripted, connection: socket.socket, number: int) -> None:
        while server.hear(connection):
            if number == 0 and len(server.heard) > 1:
                time.sleep(pause_s)
                return
            connection.sendall(WHOLE)

    with Scripted(serve) as server, BlockingClient(server.url) as client:
        assert client.version() == "1.2.3"
        try:
            became = client.version()
        except TaskFault as fault:
            became = fault.kind
        return len(server.heard) - 1, became


def test_a_kept_connection_that_ends_at_once_is_replaced(monkeypatch):
    monkeypatch.setattr("swarm.engines.control_http.STALE_WINDOW_S", 60.0)  # at once, whatever this machine calls so
    assert ask_on_a_kept_connection(0.0) == (2, "1.2.3")


def test_what_breaks_later_broke_under_the_request_and_is_not_sent_again():
    assert ask_on_a_kept_connection(0.6) == (1, "connection_lost")


def test_a_fresh_connection_that_ends_at_once_is_not_tried_again():
    def serve(server: Scripted, connection: socket.socket, _number: int) -> None:
        server.hear(connection)

    with Scripted(serve) as server, BlockingClient(server.url) as client:
        assert run(client, Limits()).kind == "connection_lost"
        assert len(server.heard) == 1


def test_cancels_at_any_moment_hit_no_request_but_their_own():
    body = {"model": "llama3.2:3b", "prompt": "hi", "options": {"num_predict": 3}}
    faults: list[str] = []

    def ask_often(client: BlockingClient, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            cancel = Cancel()
            timer = threading.Timer(rng.uniform(0.0, 0.04), cancel.fire)
            if rng.random() < 0.5:
                timer.start()
            try:
                client.run("/api/generate", body, limits=LIMITS, cancel=cancel)
                cancel.fire()  # late: its connection may serve another request by now
            except TaskFault as fault:
                if fault.fault != "cancelled" or cancel.reason is None:
                    faults.append(fault.message)
            timer.cancel()

    with SimServer(request_s=0.005, env={"OLLAMA_NUM_PARALLEL": "8"}) as sim:
        sim.client.run("/api/generate", body, limits=LIMITS)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda seed: ask_often(sim.client, seed), range(8)))
        wait_until(lambda: sim.state()["in_flight"] == 0, what="the server to drop what was cancelled")
    assert faults == []
