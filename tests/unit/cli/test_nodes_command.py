"""``swarm nodes``: machines, this one first; which are drained, and what is refused."""

from __future__ import annotations

import json

import msgspec
import pytest

from swarm.cli.render import to_plain
from swarm.config.settings import Settings, WorkerSpec
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord, NodesSeen
from swarm.core.placement.worker_plan import plan_workers
from swarm.core.worker import WorkerStatus
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.node_book import drained_nodes, write_node
from swarm.views.node_rows import node_lines, nodes_table
from tests.helpers.cli import in_process
from tests.helpers.cli_world import card, far_worker, swarm, two_nodes

SETTINGS = Settings()
URL = "http://10.0.0.2:11800/cards/gpu{}"
PLANS = plan_workers(
    Settings(workers=tuple(WorkerSpec(name=f"box2-gpu{n}", url=URL.format(n), token="t", node="box2") for n in (0, 1))),
    (),
    simulate=None,
)
CARDS = tuple(
    NodeCard(card=f"gpu{n}", worker=f"box3-gpu{n}", url=url, reason=reason)
    for n, (url, reason) in enumerate([("http://10.0.0.3:7000/cards/gpu0", ""), ("", "its server does not start")])
)
BOX3 = NodeRecord(
    name="box3",
    source="ray",
    address="10.0.0.3",
    phase=NodePhase.UP,
    since="2026-02-07T21:00:00.000+01:00",
    version="0.1.0",
    engine_versions={"ollama": "0.12.3"},
    cards=CARDS,
)


def lines(snapshot, *, plans=PLANS, records=(), drains=(), driver=True):
    found = node_lines(snapshot, SETTINGS, plans, NodesSeen(tuple(records), frozenset(drains)), driver=driver)
    return {line.name: line for line in found}


def test_this_machine_comes_first_with_its_own_cards_and_workers():
    found = lines(two_nodes())
    assert list(found) == ["local", "box2"]
    assert [(one.card, one.worker) for one in found["local"].cards] == [("gpu0", "worker-1"), ("gpu1", "worker-2")]
    assert found["local"].workers == ("worker-1", "worker-2")
    far = found["box2"]
    assert (far.source, far.phase, far.address) == ("config", "up", "10.0.0.2:11800")
    assert (far.workers, far.engine_versions) == (("box2-gpu0", "box2-gpu1"), {"ollama": "0.12.3"})
    text = to_plain([nodes_table(tuple(found.values()))])
    assert [line.split()[:3] for line in text.splitlines()[1:]] == [["local", "local", "up"], ["box2", "config", "up"]]


def test_a_configured_machine_is_lost_while_none_of_its_workers_reaches_its_card():
    waits = [
        far_worker(f"box2-gpu{n}", n, status=WorkerStatus.UNREADY, reason="waits for its card: no route") for n in (0, 1)
    ]
    assert lines(swarm(*waits))["box2"].phase == "lost"
    assert "waits for its card" in lines(swarm(*waits))["box2"].reason
    assert lines(swarm(waits[0], far_worker("box2-gpu1", 1)))["box2"].phase == "up"
    assert lines(swarm())["box2"].phase == "unknown"


def test_a_machine_is_draining_until_its_last_worker_has_ended():
    one = far_worker("box2-gpu0", 0, status=WorkerStatus.DRAINING)
    assert lines(swarm(one), drains={"box2"})["box2"].phase == "draining"
    gone = far_worker("box2-gpu0", 0, status=WorkerStatus.STOPPED, alive=False)
    drained = lines(swarm(gone), drains={"box2", "box9"})
    assert drained["box2"].phase == "drained"
    assert "swarm nodes resume box2" in drained["box2"].reason
    assert (drained["box9"].phase, drained["box9"].cards) == ("drained", ())


def test_what_a_node_source_found_is_told_as_it_says():
    found = lines(swarm(far_worker("box3-gpu0", 0, node="box3")), records=(BOX3,))["box3"]
    assert (found.source, found.phase, found.version, found.since) == ("ray", "up", "0.1.0", BOX3.since)
    assert [(one.card, one.state, one.reason) for one in found.cards] == [
        ("gpu0", "ready", ""),
        ("gpu1", None, "its server does not start"),
    ]
    assert lines(swarm(), records=(BOX3,), drains={"box3"})["box3"].phase == "draining"
    assert "Ray driver is not running" in lines(swarm(), records=(BOX3,), driver=False)["box3"].reason
    lost = msgspec.structs.replace(BOX3, phase=NodePhase.LOST, reason="it does not answer")
    assert (lines(swarm(), records=(lost,))["box3"].phase, lines(swarm(), records=(lost,))["box3"].reason) == (
        "lost",
        "it does not answer",
    )


def test_a_card_without_a_uuid_is_its_machines():
    """Drivers without UUIDs call cards by their index, which other machines have as well."""
    snapshot = swarm(far_worker("box2-gpu0", 0), gpus=(card(0, uuid="0"), card(0, uuid="box2/0", node="box2")))
    assert [(one.card, one.worker) for one in lines(snapshot)["local"].cards] == [("gpu0", None)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SWARM_ROOT", str(tmp_path / "queue"))
    queue = FileQueue(str(tmp_path / "queue")).prepare()
    write_node(queue.layout, queue.storage, BOX3)
    entry = [{"name": "far", "url": URL.format(0), "token": "s3cret", "node": "box2"}]
    monkeypatch.setenv("SWARM_WORKERS", json.dumps(entry))
    return queue


def test_draining_and_resuming(root):
    code, said = in_process("nodes", "--json")
    assert code == 0
    assert [(one["name"], one["phase"]) for one in json.loads(said)["nodes"]] == [
        ("local", "up"),
        ("box2", "unknown"),
        ("box3", "up"),
    ]
    assert "s3cret" not in said
    code, said = in_process("nodes", "drain", "box2", "box3", "box2")
    assert (code, drained_nodes(root.layout)) == (0, {"box2", "box3"})
    assert "box2: is left out when the swarm comes up" in said
    assert "box2: is drained already" in in_process("nodes", "drain", "box2")[1]
    code, said = in_process("nodes", "resume", "box2", "--json")
    assert json.loads(said) == {"nodes": [{"node": "box2", "outcome": "is used again when the swarm comes up"}]}
    assert drained_nodes(root.layout) == {"box3"}
    assert "draining" in in_process("nodes")[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [("local", "local is this machine"), ("box4", "did you mean box3"), ("../x", "there is no other machine")],
)
def test_what_cannot_be_drained_is_refused_and_nothing_is_changed(root, name, said):
    code, told = in_process("nodes", "drain", "box2", name)
    assert code != 0
    assert said in told
    assert drained_nodes(root.layout) == set()
