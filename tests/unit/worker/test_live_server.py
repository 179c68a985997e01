"""A worker's socket for live requests."""

import asyncio
import socket
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from swarm.config.settings import LlmSettings
from swarm.core.faults import TaskFault
from swarm.core.task import Claim
from swarm.runtime.event_loop import EventLoop
from swarm.worker.attempt import Run
from swarm.worker.live.live_call import LiveModel
from swarm.worker.live.live_server import LiveServer
from swarm.worker.live.live_socket import BACKLOG, LiveSocket
from tests.helpers.liveclient import LiveAnswer, live_body


def test_while_the_loop_is_busy_connections_wait_and_are_served_then(tmp_path, monkeypatch):
    path = tmp_path / "live" / "w.sock"
    loop, gate = EventLoop("test"), SimpleNamespace(open=False, answering=0, draining=False)
    LiveServer(gate, None).start(LiveSocket(str(path)), loop)
    busy, free = threading.Event(), threading.Event()

    async def work():
        busy.set()
        free.wait(60)

    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.callback(free.set)
        loop.start(work())
        assert busy.wait(60)
        monkeypatch.chdir(path.parent)  # the address of a socket is short
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(BACKLOG)]
        for client in clients:
            client.setblocking(False)
            client.connect(path.name)
        free.set()
        for client in clients:
            client.settimeout(60)
            client.sendall(b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n")
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 404 ")


class Open:
    """A gate that lets everybody in."""

    answering = 0
    draining = False

    def enter(self, task, limit_s):
        run = Run(Claim(task=task, attempt=1, worker="", path="", body_size=0), limit_s=limit_s, live=True)
        run.begin()
        return run

    def wake(self):
        """No work loop is here."""

    def ended(self, run):
        """No place is kept."""


class Fails:
    """A model server whose requests all meet this fault."""

    def __init__(self, fault):
        self.fault = fault

    async def run(self, *_args, **_more):
        raise self.fault


@pytest.mark.parametrize(
    ("kind", "status"), [("server_down", 409), ("node_down", 409), ("connection_lost", 502), ("node_lost", 502)]
)
def test_a_request_that_no_server_has_seen_was_not_let_in(tmp_path, kind, status):
    """A fault is tried a few times, a refusal as long as the request may wait: until the server is back."""
    path, loop = tmp_path / "w.sock", EventLoop("test")
    model = LiveModel(Fails(TaskFault("infra", kind, "said of the server")), LlmSettings(), {})
    LiveServer(Open(), model).start(LiveSocket(str(path)), loop)
    ended = threading.Event()

    async def until_ended():
        await asyncio.to_thread(ended.wait, 60)

    with ExitStack() as stack:
        stack.callback(loop.close)
        stack.callback(ended.set)
        loop.start(until_ended())
        answer = LiveAnswer(str(path), live_body("one", {"model": "a", "messages": []}))
        (told,) = answer.lines()
        assert (answer.status, told["error"]["message"]) == (status, "said of the server")
