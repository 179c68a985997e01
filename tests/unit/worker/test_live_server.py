"""A worker's socket for live requests."""

import socket
import threading
from contextlib import ExitStack
from types import SimpleNamespace

from swarm.runtime.event_loop import EventLoop
from swarm.worker.live.live_server import LiveServer
from swarm.worker.live.live_socket import BACKLOG, LiveSocket


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
