"""A cut between a swarm and its nodes is silent, and what was sent meanwhile arrives afterwards."""

import select
import socket
import subprocess
import sys

import pytest

from tests.helpers.node_network import NamespaceNetwork, NodeNetwork, ProxyNetwork, namespaces_work
from tests.helpers.wait import wait_until

ECHO = """
import socket, sys, threading
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
def echo(one):
    while piece := one.recv(100):
        one.sendall(piece)
print("listens", flush=True)
while True:
    threading.Thread(target=echo, args=server.accept()[:1], daemon=True).start()
"""
ASK = """
import socket, sys
host, port = sys.argv[1].split(":")
one = socket.create_connection((host, int(port)))
for line in sys.stdin:
    one.sendall(line.encode())
    print(one.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture(params=["proxies", "namespaces"])
def network(request):
    if request.param == "namespaces" and not namespaces_work():
        pytest.skip("network namespaces cannot be made here")
    made: NodeNetwork = ProxyNetwork() if request.param == "proxies" else NamespaceNetwork(["box2", "box3"])
    yield made
    made.close()


def test_a_cut_is_silent_and_mended_without_loss(network):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    echo = [sys.executable, "-c", ECHO, network.address("box2"), str(port)]
    with subprocess.Popen(network.on("box2", echo), **pipes) as server:
        assert server.stdout.readline() == b"listens\n"
        ask = [sys.executable, "-c", ASK, network.way_to("box2", port)]
        with subprocess.Popen(network.near(ask), bufsize=0, **pipes) as client:
            client.stdin.write(b"before\n")
            assert client.stdout.readline() == b"before\n"
            network.cut("box2")
            client.stdin.write(b"during\n")
            assert not _answers(client)
            network.mend("box2")
            wait_until(lambda: _answers(client), what="the answer to what was sent during the cut")
            assert client.stdout.readline() == b"during\n"
            assert client.poll() is None
            client.stdin.close()
        server.kill()


def _answers(client: subprocess.Popen) -> bool:
    return bool(select.select([client.stdout], [], [], 1.0)[0])
