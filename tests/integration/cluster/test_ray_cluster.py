"""The Ray driver on a real cluster of raylets: cards found and served, and what happens when something of it ends.

One story, since a cluster takes long to start and each card some seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.queue.layout import Layout
from swarm.queue.storage import Storage
from swarm.queue.stores.node_book import node_token, read_nodes, wish_drain
from swarm.queue.stores.registry import has_worked, read_row
from tests.helpers.ray_cluster import RayCluster, has_ray
from tests.helpers.wait import runs, wait_until

pytestmark = pytest.mark.skipif(not has_ray(), reason="Ray is not installed: pip install 'gpu-swarm[ray]'")
WAITS = "Ray has not started its actor"
SLOW_S = 180.0
"""A deadline for a machine that does much else; everything here takes a few seconds."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def cluster(home):
    with RayCluster(cards=1, env={"XDG_STATE_HOME": str(home / "state")}) as made:
        made.add("n2", cards=1)
        yield made


class Driver:
    """``swarm ray`` on a root of its own."""

    def __init__(self, home: Path, queue: str, cluster: RayCluster) -> None:
        self.root = home / queue
        self.layout = Layout(str(self.root))
        words = ["ray", "--address", cluster.address, "--simulate", "2", "--root", str(self.root)]
        with (home / "ray.out").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "swarm", *words], stdout=out, stderr=out, cwd=home, start_new_session=True
            )

    def ended(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SLOW_S)

    def lives(self) -> bool:
        assert self.process.poll() is None, (self.root.parent / "ray.out").read_text()[-2000:]
        return True

    def works(self) -> bool:
        self.lives()
        row = read_row(self.layout, "ray")
        return row is not None and row.process.pid == self.process.pid and has_worked(self.layout, "ray", row.process)

    def records(self):
        return {record.name: record for record in read_nodes(self.layout)}

    def urls(self):
        return {card.worker: card.url for record in self.records().values() for card in record.cards}

    def serves(self, *workers: str) -> dict[str, str]:
        def served():
            self.lives()
            urls = self.urls()
            return urls if set(urls) >= set(workers) and all(urls[name] for name in workers) else {}

        return wait_until(served, timeout_s=SLOW_S, what=f"cards of {workers}", poll_s=0.1)


class Drivers:
    """Those of one test: what still runs at its end is killed."""

    def __init__(self, home: Path, cluster: RayCluster) -> None:
        self._home, self._cluster = home, cluster
        self._all: list[Driver] = []

    def add(self, queue: str) -> Driver:
        self._all.append(Driver(self._home, queue, self._cluster))
        return self._all[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        for one in self._all:
            one.process.kill()
            one.process.wait()


def reason_of(driver: Driver, node: str) -> str:
    assert driver.lives()
    records = driver.records()
    return records[node].cards[0].reason if node in records else ""


def in_phase(driver: Driver, node: str, phase: str) -> None:
    wait_until(lambda: driver.records()[node].phase == phase, timeout_s=SLOW_S, what=f"{node} {phase}", poll_s=0.1)


def gone(*nodes) -> None:
    wait_until(lambda: not any(n.swarm_pids for n in nodes), timeout_s=SLOW_S, what="processes of ours there", poll_s=0.1)


def test_the_cards_of_a_cluster_over_the_life_of_everything(home, cluster):
    n1, n2 = cluster.nodes["n1"], cluster.nodes["n2"]
    with Drivers(home, cluster) as drivers:
        driver = drivers.add("queue")
        before = driver.serves("n1-gpu0", "n2-gpu0")
        card = driver.records()["n2"].cards[0]
        assert (card.uuid, card.simulated, driver.records()["n2"].address) == ("n2/SIM-GPU-0", True, "127.0.0.2")
        assert before["n2-gpu0"].startswith("http://127.0.0.2:")
        assert not any(
            node_token(driver.layout).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in n2.swarm_pids
        )

        # The driver is killed: the next one finds the same actors and relays at work.
        ours = n1.swarm_pids | n2.swarm_pids
        driver.process.kill()
        driver.process.wait()
        driver = drivers.add("queue")
        wait_until(driver.works, timeout_s=SLOW_S, what="the next driver", poll_s=0.1)
        wait_until(lambda: all(card.url for record in driver.records().values() for card in record.cards), timeout_s=SLOW_S)
        assert driver.urls() == before
        assert n1.swarm_pids | n2.swarm_pids == ours

        # An actor is killed: its relay and server end, and another one takes the card.
        (actor,) = n1.actors
        theirs = n1.swarm_pids
        os.kill(actor, signal.SIGKILL)
        wait_until(lambda: not any(map(runs, theirs)), timeout_s=SLOW_S, what="end of its relay")
        wait_until(lambda: driver.urls()["n1-gpu0"] not in ("", before["n1-gpu0"]), timeout_s=SLOW_S, poll_s=0.1)
        assert driver.urls()["n2-gpu0"] == before["n2-gpu0"]
        assert driver.records()["n1"].cards[0].restarts == 1

        # A node comes, and is lost again.
        n3 = cluster.add("n3", cards=1)
        driver.serves("n3-gpu0")
        n3.kill_raylet()
        in_phase(driver, "n3", "lost")
        assert driver.urls()["n3-gpu0"] == ""
        gone(n3)

        # Another queue waits for cards, and says so. One that is drained gives its card back: the other queue takes it.
        other = drivers.add("other")
        wait_until(lambda: WAITS in reason_of(other, "n1"), timeout_s=SLOW_S, what="the reason of who waits", poll_s=0.1)
        wish_drain(driver.layout, Storage("fast", str(driver.root)), "n2", drain=True)
        in_phase(driver, "n2", "drained")
        other.serves("n2-gpu0")
        assert WAITS in reason_of(other, "n1")

        # A driver that is asked to end has ended all that is its own, on all nodes.
        assert driver.ended() == 0
        assert set(driver.urls().values()) == {""}
        other.serves("n1-gpu0")
        assert other.ended() == 0
        gone(n1, n2, n3)
