"""The driver with a cluster that is told what to be, the settings that relays get, and why a cluster cannot be joined."""

from __future__ import annotations

import builtins
import logging
import socket

import msgspec
import pytest

from swarm.clock import SystemClock
from swarm.cluster.connect import connect, namespace_of, refusal_of
from swarm.cluster.driver import RayDriver
from swarm.cluster.main import relay_env
from swarm.config.load import load
from swarm.config.settings import EngineSettings, ModelSettings, OllamaSettings, Settings, SimSettings
from swarm.core.nodes.cluster_view import ActorPhase, SeenActor, SeenNode
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.errors import ConfigError, EngineError

BOX = SeenNode(life="a1", name="box", address="10.0.0.1", cards=1)


class FakeCluster:
    """Takes on what it is asked to; its actors are found by the next driver."""

    def __init__(self, *nodes: SeenNode) -> None:
        self.seen, self.placed, self.ended = nodes, [], []

    def nodes(self):
        if not self.seen:
            raise EngineError("the cluster's nodes are not known: its head is away")
        return self.seen

    def actors(self):
        return tuple(SeenActor(life=p.node.life, slot=p.slot, phase=ActorPhase.WAITING) for p in self.placed)

    def place(self, placed):
        self.placed.append(placed)
        return True

    def end(self, life, slot, reason):
        self.ended.append((life, slot))

    def end_all(self, timeout_s):
        return ()


class FakeStore:
    def __init__(self, *records: NodeRecord) -> None:
        self.all = {record.name: record for record in records}
        self.writes = 0

    def records(self):
        return tuple(self.all.values())

    def drains(self):
        return frozenset()

    def living(self, _records):
        return frozenset()

    def write(self, record):
        self.writes += 1
        self.all[record.name] = record

    def forget(self, name):
        del self.all[name]


def driver_of(cluster, store, beats=None):
    def beat(turn, _status):
        (beats if beats is not None else []).append(turn)

    log = logging.getLogger("test")
    return RayDriver(cluster, store, SystemClock(), policy=RestartPolicy(), beat=beat, log=log)


def test_records_are_written_when_they_change_and_a_cluster_that_cannot_be_asked_is_asked_again(caplog):
    cluster, store, beats = FakeCluster(BOX), FakeStore(), []
    driver = driver_of(cluster, store, beats)
    driver.step()
    driver.step()
    assert (len(cluster.placed), store.writes) == (1, 2)  # about to start; Ray starts its actor
    cluster.seen = ()
    driver.step()
    driver.step()
    assert store.writes == 2
    assert beats == [1, 2, 3, 4]
    assert caplog.text.count("its head is away") == 1


def test_an_end_in_order_leaves_no_url_forgets_nodes_that_were_lost_and_leaves_other_sources_alone():
    card = NodeCard(card="gpu0", worker="box-gpu0", url="http://10.0.0.1:1/cards/gpu0")
    up = NodeRecord(name="box", source="ray", address="10.0.0.1", phase=NodePhase.UP, life="a1", cards=(card,))
    gone = msgspec.structs.replace(up, name="gone", life="b1", address="10.0.0.2")
    other = msgspec.structs.replace(up, name="theirs", source="hand")
    store = FakeStore(up, gone, other)
    driver = driver_of(FakeCluster(BOX), store)
    driver.step()
    driver.request_stop()
    driver.step()
    assert driver.finished
    assert set(store.all) == {"box", "theirs"}
    assert store.all["theirs"] == other
    assert [(r.phase, r.cards[0].url) for r in (store.all["box"],)] == [(NodePhase.LOST, "")]


def test_relays_go_by_the_settings_beside_the_queue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        ollama=OllamaSettings(binary="/opt/ollama", env={"A": "x y", "B": '"'}, stop_grace_s=3.5),
        sim=SimSettings(models=("a:1b",), overflow="refuse"),
        models={"m": ModelSettings(options={"num_ctx": 4096}, keep_alive=None)},
        engines={"mine": EngineSettings(command=("serve", "{model}", "{port}"))},
    )
    env = relay_env(settings)
    again = load(None, env, None).settings
    for section in ("ollama", "sim", "models", "engines", "llm"):
        assert getattr(again, section) == getattr(settings, section)
    assert relay_env(Settings()) == {}


def test_two_queues_never_share_a_namespace():
    assert namespace_of("a") != namespace_of("b")
    assert "secret" not in namespace_of("secret")


def test_who_cannot_join_is_told_why(monkeypatch):
    with pytest.raises(ConfigError, match="client protocol"):
        connect("ray://127.0.0.1:10001", "x")
    with pytest.raises(ConfigError, match="no address"):
        connect("somewhere", "x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"nobody listens at {address}"):
            connect(address, "x")
    real = builtins.__import__

    def without_ray(name, *words):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *words)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ConfigError) as missing:
        connect("auto", "x")
    assert missing.value.hint == "pip install 'gpu-swarm[ray]'"


def test_what_ray_says_is_put_in_plain_words():
    """Ray's own words, as it raised them here."""
    versions = "started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n", "started with:\n    Ray: 2.50.0\n    Python: 3.12.1\n"
    mixed = f"Version mismatch: The cluster was {versions[0]}This process on node 10.0.0.1 was {versions[1]}"
    assert "has Ray 2.60.0, Python 3.11.7, here is Ray 2.50.0, Python 3.12.1" in str(refusal_of("h:1", RuntimeError(mixed)))
    joined = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    joined.__cause__ = RuntimeError(
        "No node info found matching attributes: '10.0.0.9' when trying to resolve node to connect"
    )
    assert "this machine is no node" in str(refusal_of("h:1", joined))
    joined.__cause__ = RuntimeError("Failed to connect to GCS. Last connection error: InvalidAuthToken: token is missing")
    assert "another token" in str(refusal_of("h:1", joined))
    assert "no Ray cluster answers at h:1" in str(refusal_of("h:1", ConnectionError("something else")))
    nothing = refusal_of("auto", ConnectionError("Could not find any running Ray instance."))
    assert "no Ray cluster here" in str(nothing)
    assert "ray start --head" in nothing.hint
