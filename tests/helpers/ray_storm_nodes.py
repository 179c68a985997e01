"""The machines of a storm that Ray knows: raylets on this machine, and a head without cards beside the swarm."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from swarm.core.worker import ProcessIdentity
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.node_book import read_nodes
from tests.helpers.node_network import BlackHole, of_port
from tests.helpers.node_plan import NodePlan
from tests.helpers.node_processes import NodeProcesses, shoot_one
from tests.helpers.ray_cluster import QUICK_HEALTH, RayCluster
from tests.helpers.storm_nodes import StormNodes

ALONE = "SWARM_TORTURE_ALONE"
"""Set where this process has a network of its own, so that its loopback may be cut."""


class RayNodes(StormNodes):
    """A cluster of ``plan.nodes`` raylets with cards, each with a disk of its own."""

    def __init__(self, home: str, plan: NodePlan) -> None:
        self._plan, self._home = plan, home
        self._cluster = RayCluster(cards=0, env={**QUICK_HEALTH, "SWARM_SIM_RUNNER": "none"})
        self.names = tuple(f"n{number}" for number in range(2, plan.nodes + 2))
        self.words = ("--ray", self._cluster.address, "--simulate", str(plan.cards))
        self._starting: dict[str, threading.Thread] = {}
        self._hole = BlackHole("lo") if os.environ.get(ALONE) else None

    def start(self) -> None:
        for name in self.names[:-1]:
            self.add(name)
        for thread in self._starting.values():
            thread.join()

    def add(self, node: str) -> None:
        self._starting[node] = threading.Thread(target=self._add, args=(node,), daemon=True)
        self._starting[node].start()

    def _add(self, node: str) -> None:
        try:
            self._cluster.add(node, self._plan.cards, XDG_STATE_HOME=f"{self._home}/{node}")
        except AssertionError as error:  # its processes are killed: it is started again
            print(f"{node} did not start: {str(error)[-500:]}", file=sys.stderr)

    def processes(self, node: str) -> NodeProcesses:
        return NodeProcesses(f"{self._cluster.folder.name}-{node}")

    def shoot(self, kind: str, node: str, dice: random.Random) -> bool:
        processes = self.processes(node)
        if kind == "node":
            processes.kill()
            return True
        if kind == "server":
            return shoot_one(processes.servers(), dice)
        return shoot_one(processes.where(_FITS[kind]), dice)

    def restart_head(self) -> None:
        for thread in self._starting.values():
            thread.join()
        self._cluster.restart_head(0)

    def keep_up(self, node: str) -> None:
        """A node whose raylet was killed is started anew once all of Ray there has ended."""
        if self._starting[node].is_alive() or any(self.processes(node).where(_is_ray_start)):
            return
        self.add(node)

    def cut(self, node: str) -> None:
        assert self._hole is not None
        ports = {port for url in self._urls(node) if (port := urlsplit(url).port) is not None}
        self._hole.open(self._key(node), [match for port in sorted(ports) for match in of_port(port)])

    def mend(self, node: str) -> None:
        assert self._hole is not None
        self._hole.close(self._key(node))

    def near(self, argv: list[str]) -> list[str]:
        return argv

    def end(self) -> None:
        for thread in self._starting.values():
            thread.join()

    def strays(self, node: str) -> list[ProcessIdentity]:
        """All but Ray's own: the rest must have ended with the swarm."""
        return self.processes(node).where(lambda words: not _is_rays_own(words))

    def close(self) -> None:
        self.end()
        self._cluster.close()
        for node in self.names:
            self.processes(node).kill()

    def _urls(self, node: str) -> list[str]:
        records = read_nodes(FileQueue(f"{self._home}/queue").layout)
        return [card.url for record in records if record.name == node for card in record.cards if card.url]

    def _key(self, node: str) -> int:
        return self.names.index(node) + 1


def _is_ray_start(words: list[str]) -> bool:
    return "ray.scripts.scripts" in words


def _is_raylet(words: list[str]) -> bool:
    return words[:1] != [] and words[0].endswith("/raylet")


def _is_agent(words: list[str]) -> bool:
    return words[:1] != [] and words[0].startswith(("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent"))


def _is_rays_own(words: list[str]) -> bool:
    return not words or _is_ray_start(words) or _is_raylet(words) or _is_agent(words) or "/ray/" in " ".join(words[:3])


def _is_actor(words: list[str]) -> bool:
    return words[:1] != [] and words[0].startswith("ray::") and not _is_agent(words)


def _is_relay(words: list[str]) -> bool:
    return "relay" in words or "--relay" in words


_FITS: dict[str, Callable[[list[str]], bool]] = {"raylet": _is_raylet, "actor": _is_actor, "relay": _is_relay}
