"""The machines of a storm over nodes, and those whose relays are started by hand."""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from swarm.core.worker import ProcessIdentity
from swarm.proc.ports import free_port
from tests.helpers.node_network import NodeNetwork
from tests.helpers.node_plan import NodePlan
from tests.helpers.node_processes import NodeProcesses, shoot_one


class StormNodes(ABC):
    """Nodes by their names; the last one is not there before it is added."""

    names: tuple[str, ...]
    words: tuple[str, ...] = ()
    """Of ``swarm up``."""
    config: str = ""
    """What the swarm's configuration says of them."""

    @abstractmethod
    def start(self) -> None:
        """All but the last."""

    @abstractmethod
    def add(self, node: str) -> None:
        """Start it, for the first time or again."""

    @abstractmethod
    def processes(self, node: str) -> NodeProcesses:
        """Whatever runs there."""

    @abstractmethod
    def shoot(self, kind: str, node: str, dice: random.Random) -> bool:
        """SIGKILL to a process there of that kind; False: there is none."""

    @abstractmethod
    def keep_up(self, node: str) -> None:
        """Start again what a machine's own start would."""

    def restart_head(self) -> None:
        """All nodes lose what holds them together, where there is such a thing."""
        raise NotImplementedError

    @abstractmethod
    def cut(self, node: str) -> None:
        """Silence between the swarm and this node."""

    @abstractmethod
    def mend(self, node: str) -> None:
        """The end of it."""

    def check(self) -> list[str]:
        """What is wrong with the nodes while all runs well."""
        return []

    @abstractmethod
    def near(self, argv: list[str]) -> list[str]:
        """How to start this on the machine that has the queue."""

    @abstractmethod
    def end(self) -> None:
        """In order, what is not the swarm's own to end."""

    def strays(self, node: str) -> list[ProcessIdentity]:
        """What runs there and must not once all has ended in order."""
        return self.processes(node).all()

    @abstractmethod
    def close(self) -> None:
        """Kill all that is left, and remove what was made."""

    def workers(self, node: str, cards: int) -> frozenset[str]:
        """Names of the workers of its cards."""
        return frozenset(f"{node}-gpu{card}" for card in range(cards))


_STATUS = """
import json, sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=json.loads(sys.argv[2])), timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


class HandNode(NamedTuple):
    """One machine with its relay."""

    home: Path
    """Its disk: the relay's root and configuration."""
    port: int
    processes: NodeProcesses


class HandNodes(StormNodes):
    """Relays started by hand, in namespaces or behind proxies."""

    def __init__(self, home: str, plan: NodePlan, network: NodeNetwork, config: str) -> None:
        """``config``: of the relays, as text."""
        self._plan = plan
        self._network = network
        self.names = self.names_of(plan)
        self._nodes = {name: _prepare(Path(home) / name, config) for name in self.names}
        self._relays: dict[str, subprocess.Popen[bytes]] = {}
        self.config = "".join(self._worker(name, card) for name in self.names for card in range(plan.cards))

    @staticmethod
    def names_of(plan: NodePlan) -> tuple[str, ...]:
        """Of its nodes."""
        return tuple(f"box{number}" for number in range(2, plan.nodes + 2))

    def start(self) -> None:
        for name in self.names[:-1]:
            self.add(name)

    def add(self, node: str) -> None:
        one = self._nodes[node]
        listen = f"{self._network.address(node)}:{one.port}"
        words = ["serve", "--relay", "--listen", listen, "--node", node, "--simulate", str(self._plan.cards)]
        words += ["--root", f"{one.home}/root", "--config", f"{one.home}/config.toml"]
        env = {**os.environ, "SWARM_SIM_RUNNER": "none", **one.processes.marker}
        with open(f"{one.home}/relay.out", "ab") as out:
            argv = self._network.on(node, [sys.executable, "-m", "swarm", *words])
            self._relays[node] = subprocess.Popen(argv, stdout=out, stderr=out, env=env, start_new_session=True)

    def processes(self, node: str) -> NodeProcesses:
        return self._nodes[node].processes

    def shoot(self, kind: str, node: str, dice: random.Random) -> bool:
        if kind == "server":
            return shoot_one(self.processes(node).servers(), dice)
        relay = self._relays.get(node)
        if relay is None or relay.poll() is not None:
            return False
        if kind == "node":
            self.processes(node).kill()
        relay.kill()
        relay.wait()
        return True

    def keep_up(self, node: str) -> None:
        if self._relays[node].poll() is not None:
            self.add(node)

    def cut(self, node: str) -> None:
        self._network.cut(node)

    def mend(self, node: str) -> None:
        self._network.mend(node)

    def near(self, argv: list[str]) -> list[str]:
        return self._network.near(argv)

    def check(self) -> list[str]:
        """Whoever has no token of theirs, or another one, is refused."""
        found = []
        for name, headers in itertools.product(self._relays, ({}, {"Authorization": "Bearer of-another-machine-than-this"})):
            url = f"http://{self._network.way_to(name, self._nodes[name].port)}/node"
            argv = self._network.near([sys.executable, "-c", _STATUS, url, json.dumps(headers)])
            status = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
            if status != "401":
                found.append(f"{url} answered {status} to {headers or 'no token'}")
        return found

    def end(self) -> None:
        for relay in self._relays.values():
            relay.terminate()
        for relay in self._relays.values():
            relay.wait(60)

    def close(self) -> None:
        for one in self._nodes.values():
            one.processes.kill()
        for relay in self._relays.values():
            relay.wait()
        self._network.close()

    def _worker(self, name: str, card: int) -> str:
        node = self._nodes[name]
        url = f"http://{self._network.way_to(name, node.port)}/cards/gpu{card}"
        token = (node.home / "root/token").read_text().strip()
        return f'[[workers]]\nname = "{name}-gpu{card}"\nnode = "{name}"\nurl = "{url}"\ntoken = "{token}"\n'


def _prepare(home: Path, config: str) -> HandNode:
    """Its disk, with a token as the relay would make it, and ports of its own."""
    root = home / "root"
    root.mkdir(parents=True, mode=0o700)
    token = root / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_urlsafe(32), encoding="ascii")
    (home / "config.toml").write_text(config, encoding="utf-8")
    return HandNode(home, free_port(), NodeProcesses(str(home)))
