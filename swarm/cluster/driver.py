"""The Ray driver: observe the cluster, decide (``core/nodes/cluster_plan``), apply. Ray never holds a task.

* Killed, it leaves actors and relays working; the next driver finds them. Asked to end, it ends them all.
* It restarts no actor by itself and no node: each tick starts from what Ray and the directory say.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from swarm.core.nodes.cluster_plan import NOT_SEEN, ON_ITS_WAY, lost_nodes, plan_cluster
from swarm.core.nodes.cluster_view import ClusterPlan, ClusterView, PlaceActor, SeenActor, SeenNode, SlotKey, SlotMemory
from swarm.core.nodes.node_record import RAY, NodePhase, NodeRecord
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.core.worker import WorkerStatus
from swarm.runtime.logging import LogOnce
from swarm.runtime.ports import Clock

TICK_S = 0.5
END_S = 9.0
"""For relays and servers of all nodes to end in order, before a supervisor in a hurry kills us; what is left ends by itself
when its actor has ended."""


class Cluster(Protocol):
    """The cluster; ``ray_link.RayLink``."""

    def nodes(self) -> tuple[SeenNode, ...]: ...
    def actors(self) -> tuple[SeenActor, ...]: ...
    def place(self, placed: PlaceActor) -> bool: ...
    def end(self, life: str, slot: int, reason: str) -> None: ...
    def end_all(self, timeout_s: float) -> tuple[str, ...]: ...


class NodeStore(Protocol):
    """The records of nodes. Everything raises ``StorageFault``."""

    def records(self) -> tuple[NodeRecord, ...]: ...
    def drains(self) -> frozenset[str]: ...
    def living(self, records: Iterable[NodeRecord]) -> frozenset[str]: ...
    def write(self, record: NodeRecord) -> None: ...
    def forget(self, name: str) -> None: ...


class RayDriver:
    """Fits ``loop.Actor``. ``request_stop`` may be called from signal handlers."""

    title = "Ray driver"

    def __init__(
        self,
        cluster: Cluster,
        store: NodeStore,
        clock: Clock,
        *,
        policy: RestartPolicy,
        taken: frozenset[str] = frozenset(),
        beat: Callable[[int, WorkerStatus], None],
        log: logging.Logger,
    ) -> None:
        """``taken``: names of machines that no node of the cluster may have."""
        self.finished = False
        self._taken = taken
        self._cluster, self._store, self._clock, self._policy = cluster, store, clock, policy
        self._beat, self._log = beat, log
        self._memory: Mapping[SlotKey, SlotMemory] = {}
        self._asked = threading.Event()
        self._turn = 0
        self._troubles = LogOnce(log)
        self._said: dict[str, str] = {}

    def request_stop(self) -> None:
        """End all actors, then this loop."""
        self._asked.set()

    def wait(self, timeout_s: float) -> None:
        """Until a stop is asked for, or ``timeout_s`` has passed."""
        self._asked.wait(timeout_s)

    def step(self) -> float:
        """One tick; returns the seconds until the next."""
        if self._asked.is_set():
            self._end()
            return 0.0
        self._troubles.tried("nodes", self._tick, None)
        self._turn += 1
        self._troubles.tried("heartbeat", lambda: self._beat(self._turn, WorkerStatus.IDLE), None)
        return TICK_S

    def close(self) -> None:
        """Log an orderly end."""
        self._log.info("%s shutting down", self.title)

    def abandon(self) -> None:
        """After a crash: the actors go on; the next driver finds them."""

    def _tick(self) -> None:
        every = self._store.records()
        ours = tuple(record for record in every if record.source == RAY)
        view = ClusterView(
            now_s=self._clock.mono_s(),
            now_iso=self._clock.iso(),
            nodes=self._cluster.nodes(),
            actors=self._cluster.actors(),
            records=ours,
            taken=self._taken | {record.name for record in every if record.source != RAY},
            drains=self._store.drains(),
            living=self._store.living(ours),
            memory=self._memory,
            policy=self._policy,
        )
        plan = plan_cluster(view)
        self._memory = plan.memory
        self._apply(plan, {record.name: record for record in ours})

    def _apply(self, plan: ClusterPlan, before: Mapping[str, NodeRecord]) -> None:
        for one in plan.end:
            self._log.info("ending the actor of card %d on node %s: %s", one.slot, one.life[:8], one.reason)
            self._cluster.end(one.life, one.slot, one.reason)
        for record in plan.records:
            if before.get(record.name) != record:
                self._store.write(record)
                self._say(record)
        for placed in plan.place:
            if self._cluster.place(placed):
                self._log.info("asking Ray for card %d of node %s (%s)", placed.slot, placed.name, placed.node.address)

    def _say(self, record: NodeRecord) -> None:
        served = [card.card for card in record.cards if card.url]
        waits = {card.reason for card in record.cards if not card.url and card.reason} - ON_ITS_WAY - {record.reason}
        words = f"node {record.name} ({record.address}) is {record.phase}{': ' + record.reason if record.reason else ''}"
        words += f"; serves {', '.join(served)}" if served else ""
        words += f"; {'; '.join(sorted(waits))}" if waits and record.phase is NodePhase.UP else ""
        if self._said.get(record.name) != words:
            self._said[record.name] = words
            self._log.info("%s", words)

    def _end(self) -> None:
        self._log.info("%s ends all relays of the cluster", self.title)
        unknown: tuple[str, ...] = ("unknown",)
        left = self._troubles.tried("the end", lambda: self._cluster.end_all(END_S), unknown)
        if left:
            self._log.error("actors that have not ended: %s; their relays end when nobody asks them", ", ".join(left))
        self._troubles.tried("records", self._put_out, None)
        self.finished = True

    def _put_out(self) -> None:
        """No card is to be had any more: who reads the records next must not go there. Nodes lost before are forgotten."""
        ours = [record for record in self._store.records() if record.source == RAY]
        gone = [record for record in ours if record.phase is NodePhase.LOST and record.reason == NOT_SEEN]
        for record in gone:
            self._store.forget(record.name)
        for record in lost_nodes((r for r in ours if r not in gone), "the Ray driver has ended", self._clock.iso()):
            self._store.write(record)
