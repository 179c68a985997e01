"""The way between a swarm and its nodes, and how it is cut: network namespaces, or without root a proxy for each node.

A cut is silent in both directions: nothing is refused or closed, and what was sent meanwhile arrives once it is mended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

PIECE_BYTES = 1 << 16


class NodeNetwork(ABC):
    """Nodes are named by whoever asks; ``close`` removes what was made."""

    near_address = "127.0.0.1"
    """Of the machine that has the queue, as the nodes see it."""

    @abstractmethod
    def near(self, argv: Sequence[str]) -> list[str]:
        """How to start this on the machine that has the queue."""

    @abstractmethod
    def on(self, node: str, argv: Sequence[str]) -> list[str]:
        """How to start this on a node."""

    @abstractmethod
    def address(self, node: str) -> str:
        """Where a server on this node is to listen."""

    @abstractmethod
    def way_to(self, node: str, port: int) -> str:
        """``host:port`` under which the swarm reaches that port of this node."""

    @abstractmethod
    def cut(self, node: str, port: int | None = None) -> None:
        """From now on nothing arrives in either direction; with ``port``: of that port's traffic alone."""

    @abstractmethod
    def mend(self, node: str) -> None:
        """As it was before."""

    @abstractmethod
    def close(self) -> None:
        """Away with it all."""


def namespaces_work() -> bool:
    """Whether network namespaces can be made here."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "nsenter"))):
        return False
    name = f"swprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], stderr=subprocess.DEVNULL, check=False).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], check=False).returncode == 0


class NamespaceNetwork(NodeNetwork):
    """One namespace for the swarm, with a bridge, and one for each node: nothing else on this machine is touched."""

    near_address = "10.77.0.1"

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = tuple(nodes)
        self._prefix = f"sw{os.getpid()}"
        self._made: list[str] = []
        self._holes: dict[str, tuple[BlackHole, BlackHole]] = {}
        """At both ends of its cable."""
        try:
            self._make("near")
            self._ip("near", "link add br0 type bridge")
            self._ip("near", f"addr add {self.near_address}/24 dev br0")
            self._ip("near", "link set br0 up")
            for number, node in enumerate(self._nodes):
                self._join(node, number)
        except BaseException:
            self.close()
            raise

    def near(self, argv: Sequence[str]) -> list[str]:
        return self._inside("near", argv)

    def on(self, node: str, argv: Sequence[str]) -> list[str]:
        return self._inside(node, argv)

    def address(self, node: str) -> str:
        return f"10.77.0.{self._nodes.index(node) + 2}"

    def way_to(self, node: str, port: int) -> str:
        return f"{self.address(node)}:{port}"

    def cut(self, node: str, port: int | None = None) -> None:
        # ARP still goes through: otherwise the kernel would report an unreachable host after some seconds.
        for hole in self._holes[node]:
            hole.open(1, ["match u32 0 0"] if port is None else of_port(port))

    def cut_towards(self, node: str) -> None:
        """Nothing reaches this node any more; what it sends leaves it, so that its kernel knows of nothing dropped."""
        self._holes[node][0].open(1, ["match u32 0 0"])

    def mend(self, node: str) -> None:
        for hole in self._holes[node]:
            hole.close(1)

    def close(self) -> None:
        while self._made:
            subprocess.run(["ip", "netns", "del", f"{self._prefix}-{self._made.pop()}"], check=False)

    def _join(self, node: str, number: int) -> None:
        self._make(node)
        port, device = f"to{number}", "eth0"
        self._ip("near", f"link add {port} type veth peer name {device} netns {self._prefix}-{node}")
        self._ip("near", f"link set {port} master br0 up")
        self._ip(node, f"addr add {self.address(node)}/24 dev {device}")
        self._ip(node, f"link set {device} up")
        self._holes[node] = (BlackHole(port, f"{self._prefix}-near"), BlackHole(device, f"{self._prefix}-{node}"))

    def _make(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", f"{self._prefix}-{name}"], check=True)
        self._made.append(name)
        self._ip(name, "link set lo up")

    def _ip(self, where: str, words: str) -> None:
        subprocess.run(["ip", "-n", f"{self._prefix}-{where}", *words.split()], check=True)

    def _inside(self, where: str, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._prefix}-{where}", *argv]


class BlackHole:
    """Swallows packets that leave through a device: of its own namespace, or of this process's."""

    def __init__(self, device: str, namespace: str = "") -> None:
        self._device = device
        self._words = ["tc", "-n", namespace] if namespace else ["tc"]
        self._open: set[int] = set()
        # Class 1:1 has a queue that no packet fits into: what a filter puts there is gone. All else passes unqueued.
        self._tc(f"qdisc add dev {device} root handle 1: htb")
        self._tc(f"class add dev {device} parent 1: classid 1:1 htb rate 1mbit")
        self._tc(f"qdisc add dev {device} parent 1:1 tbf rate 8bit burst 1 limit 1")

    def open(self, key: int, matches: Sequence[str]) -> None:
        """For packets that match one of these, in the words of tc's u32; ``key`` closes them all again."""
        self._open.add(key)
        for match in matches:
            self._tc(f"filter add dev {self._device} parent 1: protocol ip pref {key} u32 {match} flowid 1:1")

    def close(self, key: int) -> None:
        """Those pass again, if they did not."""
        if key not in self._open:
            return
        self._open.remove(key)
        self._tc(f"filter del dev {self._device} parent 1: pref {key}")

    def _tc(self, words: str) -> None:
        subprocess.run([*self._words, *words.split()], check=True, stderr=subprocess.DEVNULL)


def of_port(port: int) -> list[str]:
    """What matches the traffic of a TCP port in both directions."""
    return [f"match ip {way} {port} 0xffff" for way in ("sport", "dport")]


class ProxyNetwork(NodeNetwork):
    """All on this machine's loopback; each port of a node is reached through a proxy that can stop passing bytes on."""

    def __init__(self) -> None:
        self._proxies: dict[tuple[str, int], CutProxy] = {}

    def near(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def on(self, node: str, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def address(self, node: str) -> str:
        return "127.0.0.1"

    def way_to(self, node: str, port: int) -> str:
        proxy = self._proxies.setdefault((node, port), CutProxy(port))
        return f"127.0.0.1:{proxy.port}"

    def cut(self, node: str, port: int | None = None) -> None:
        for proxy in self._of(node, port):
            proxy.open.clear()

    def mend(self, node: str) -> None:
        for proxy in self._of(node, None):
            proxy.open.set()

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()

    def _of(self, node: str, port: int | None) -> list[CutProxy]:
        return [proxy for (name, number), proxy in self._proxies.items() if name == node and port in (None, number)]


class CutProxy:
    """Passes connections on to a port of this machine, while ``open`` is set; two threads for each connection."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.open = threading.Event()
        self.open.set()
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def close(self) -> None:
        """End it with all its connections."""
        _shut(self._listener)
        self._threads[0].join()
        self._listener.close()
        self.open.set()
        for one in self._sockets:
            _shut(one)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # shut
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                thread = threading.Thread(target=self._serve, args=(near,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, near: socket.socket) -> None:
        self.open.wait()
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
            back = threading.Thread(target=self._pass_on, args=(far, near))
            back.start()
            self._pass_on(near, far)
            back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                self.open.wait()
                sink.sendall(piece)
        self.open.wait()  # an end is no news through a cut cable either
        _shut(source)
        _shut(sink)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # its other end was faster
        one.shutdown(socket.SHUT_RDWR)
