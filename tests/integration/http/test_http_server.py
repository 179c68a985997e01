"""How the server ends: what runs is finished or cut, what never ends by itself is told, nobody new gets in."""

import asyncio
import logging
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from swarm.config.listen import Address
from swarm.core.worker import WorkerStatus
from swarm.errors import StorageFault
from swarm.http.access.gate import AccessGate
from swarm.http.access.guarded_protocol import with_limits
from swarm.http.server import HttpServer
from swarm.proc.listening import listening_sockets
from swarm.proc.ports import free_port
from tests.helpers.http_access import http_parts
from tests.helpers.wait import wait_until

WRITE_S = 1.0
"""A client that takes nothing for so long is cut."""


class Running:
    """A server in a thread, with a request that ends when told to and a stream that ends with the server."""

    def __init__(self, parts, grace_s: int) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()
        self.parts = parts
        self.beats: list[tuple[int, WorkerStatus]] = []
        self.trouble = ""
        self.disk_full = False

        async def slow(_request):
            self.begun.set()
            while not self.release.is_set():
                await asyncio.sleep(0.01)
            return PlainTextResponse("done")

        async def pieces():
            yield "begun\n"
            await parts.ending.wait()
            yield "ended\n"

        async def stream(_request):
            return StreamingResponse(pieces())

        async def endless():
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)

        async def flood(_request):
            self.begun.set()
            return StreamingResponse(endless())

        app = Starlette(routes=[Route("/", slow), Route("/swarm/events", stream), Route("/swarm/flood", flood)])
        gate, protocol = AccessGate(app, parts), with_limits(99, write_s=WRITE_S)
        config = uvicorn.Config(gate, http=protocol, ws="none", log_config=None, timeout_graceful_shutdown=grace_s)
        self.server = HttpServer(
            config, ending=parts.ending, beat=self._beat, root_trouble=lambda: self.trouble, log=parts.log
        )
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._sockets = listening_sockets(Address("127.0.0.1", self.port), stalled_ms=60_000, hint="")
        self._pool = ThreadPoolExecutor(8)
        self.code = self._pool.submit(lambda: self.server.run_to_end(self._sockets))

    def _beat(self, turn: int, status: WorkerStatus) -> None:
        if self.disk_full:
            raise StorageFault("the disk is full")
        self.beats.append((turn, status))

    def get(self, path: str = "/"):
        return self._pool.submit(lambda: requests.get(f"{self.url}{path}", timeout=60))

    def end(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def close(self) -> None:
        self.release.set()
        self.end()
        self.end()
        self._pool.shutdown()
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


@pytest.fixture
def running(tmp_path):
    made: list[Running] = []

    def start(grace_s: int = 60) -> Running:
        one = Running(http_parts(tmp_path / "queue"), grace_s)
        made.append(one)
        wait_until(lambda: one.beats, what="it beats")
        return one

    yield start
    for one in made:
        one.close()


def refuses(one: Running) -> bool:
    try:
        requests.get(f"{one.url}/swarm/nothing", timeout=60)
    except requests.ConnectionError:
        return True
    return False


def test_what_runs_is_finished_streams_end_and_nobody_new_gets_in(running):
    one = running()
    answer, stream = one.get(), one.get("/swarm/events")
    assert one.begun.wait(60)
    wait_until(lambda: len(one.server.server_state.tasks) == 2, what="both run")
    one.end()
    assert stream.result(60).text == "begun\nended\n"
    wait_until(lambda: refuses(one), what="nobody new gets in")
    assert not answer.done()
    assert not one.code.done()
    wait_until(lambda: one.beats[-1][1] is WorkerStatus.DRAINING, what="it goes on beating")
    one.release.set()
    assert answer.result(60).text == "done"
    assert one.code.result(60) == 0


def test_asked_twice_it_ends_at_once_and_whoever_waits_is_told(running, caplog):
    one = running()
    answer = one.get()
    assert one.begun.wait(60)
    one.end()
    one.end()
    assert one.code.result(60) == 0
    refused = answer.result(60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ending")
    assert "HTTP server cuts 1 requests" in caplog.text
    assert "Traceback" not in caplog.text


def test_who_takes_longer_than_the_grace_is_cut(running, caplog):
    one = running(grace_s=1)
    answer = one.get()
    assert one.begun.wait(60)
    one.end()
    assert one.code.result(60) == 0
    assert answer.result(60).status_code == 503
    assert "HTTP server cuts 1 requests" in caplog.text
    assert "Traceback" not in caplog.text


def test_it_ends_at_once_when_its_root_is_lost(running):
    one = running()
    answer = one.get()
    assert one.begun.wait(60)
    one.trouble = "another directory is in place of the queue root"
    assert one.code.result(60) == 0
    assert one.server.lost
    assert answer.result(60).status_code == 503


def test_a_disk_that_takes_no_heartbeat_is_said_once_and_ends_nothing(running, caplog):
    caplog.set_level(logging.INFO, "swarm.http")
    one = running()
    one.disk_full = True
    wait_until(lambda: "cannot write its heartbeat: the disk is full" in caplog.text, what="it says so")
    one.disk_full = False
    before = len(one.beats)
    wait_until(lambda: len(one.beats) > before, what="it beats again")
    wait_until(lambda: "can write its heartbeat again" in caplog.text, what="it says so")
    assert caplog.text.count("cannot write its heartbeat") == 1


FLOOD = b"GET /swarm/flood HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_client_that_takes_nothing_of_its_answer_is_cut_and_one_that_takes_its_time_is_not(running):
    one = running()
    wait_until(lambda: served_throughout(one), what="a client that reads all the time")
    wait_until(lambda: not one.server.server_state.tasks, what="the stream has ended with its client")
    one.begun.clear()
    with socket.create_connection(("127.0.0.1", one.port), timeout=60) as stuck:
        stuck.sendall(FLOOD)
        assert one.begun.wait(60)
        wait_until(lambda: not one.server.server_state.tasks, what="the stream was cut")


def served_throughout(one: Running) -> bool:
    """Twice as long as without reading. False: this test itself stood still, and so the client did not read."""
    with socket.create_connection(("127.0.0.1", one.port), timeout=60) as steady:
        steady.sendall(FLOOD)
        begun_s = read_s = time.monotonic()
        while read_s - begun_s < 2 * WRITE_S:
            piece, before_s, read_s = steady.recv(1 << 20), read_s, time.monotonic()
            if read_s - before_s > WRITE_S / 2:
                return False
            assert piece
        assert one.server.server_state.tasks
    return True
