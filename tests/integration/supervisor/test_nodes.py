"""Workers of cards in other machines come and go with the records of their nodes, while the supervisor runs."""

from __future__ import annotations

import msgspec
import pytest

from swarm.config.settings import OllamaSettings, QueueSettings, Settings, WorkerSpec
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord
from swarm.core.placement.worker_plan import plan_workers
from swarm.errors import EngineError
from swarm.queue.stores.node_book import forget_node, node_token, read_nodes, wish_drain, write_node
from swarm.runtime.bootstrap import RunOptions
from swarm.supervisor import restarts
from swarm.supervisor.down import stop_swarm
from swarm.supervisor.main import plan_swarm
from swarm.supervisor.state import ChildState, load_plan, load_status, save_plan
from tests.helpers.supervised import Swarm
from tests.helpers.wait import runs, wait_until

HERE = {"brain", "ray", "w1", "w2"}
FAR_SPEC = WorkerSpec(name="far", url="http://box9:11500/cards/gpu0", token="t", node="box9")
FAR = plan_workers(Settings(workers=(FAR_SPEC,)), (), simulate=None)


def a_card(number: int, port: int = 7000, **more) -> NodeCard:
    usual = {"worker": f"box2-gpu{number}", "url": f"http://10.0.0.2:{port}/cards/gpu{number}"}
    return NodeCard(card=f"gpu{number}", index=number, **{**usual, **more})


def box2(*cards: NodeCard, phase: NodePhase = NodePhase.UP) -> NodeRecord:
    return NodeRecord(name="box2", source="ray", address="10.0.0.2", phase=phase, cards=cards)


def tell(one: Swarm, record: NodeRecord) -> None:
    write_node(one.queue.layout, one.queue.storage, record)


def drain(one: Swarm, name: str, *, drain: bool = True) -> None:
    wish_drain(one.queue.layout, one.queue.storage, name, drain=drain)
    one.supervisor.wake()


def names(one: Swarm) -> set[str]:
    return {child.name for child in one.supervisor.children}


def ended(one: Swarm, name: str) -> bool:
    return one.child(name).state is ChildState.EXITED


def test_a_worker_for_each_card_that_is_served_and_a_new_one_where_it_is_served_anew(swarm, root):
    one = swarm(ray="auto").up()
    before = one.running(*HERE)
    tell(one, box2(a_card(0), a_card(1), a_card(2, url="", reason="its server does not start")))
    wait_until(lambda: names(one) == {*HERE, "box2-gpu0", "box2-gpu1"}, what="its workers are kept")
    first, other = one.running("box2-gpu0", "box2-gpu1")
    plans = {plan.name: plan for plan in load_plan(root / "workers") or ()}
    assert list(plans) == ["w1", "w2", "box2-gpu0", "box2-gpu1"]
    assert (plans["box2-gpu0"].node, plans["box2-gpu0"].url) == ("box2", "http://10.0.0.2:7000/cards/gpu0")

    tell(one, box2(a_card(0, port=7001), a_card(1, uuid="GPU-1", vram_mib=1000)))
    wait_until(lambda: one.child("box2-gpu0").pid not in (None, first), what="another worker, at the new address")
    wait_until(lambda: not runs(first), what="the old one is gone")
    assert one.running("box2-gpu1") == [other], "what is learnt of a card disturbs nobody"
    assert {plan.name: plan.vram_mib for plan in one.supervisor.plans}["box2-gpu1"] == 1000

    tell(one, box2(a_card(0, url=""), a_card(1, uuid="GPU-1"), phase=NodePhase.LOST))
    wait_until(lambda: names(one) == HERE, what="a lost node has no workers")
    assert not runs(other)
    tell(one, box2(a_card(0)))
    wait_until(lambda: "box2-gpu0" in names(one), what="it is back")
    one.running("box2-gpu0")
    forget_node(one.queue.layout, "box2")
    wait_until(lambda: names(one) == HERE, what="a forgotten node has no workers")
    assert one.running(*HERE) == before
    assert [plan.name for plan in load_plan(root / "workers") or ()] == ["w1", "w2"]


@pytest.mark.parametrize("configured", [False, True], ids=["of a record", "of the configuration"])
def test_a_drained_node_finishes_its_work_and_is_used_again_when_it_is_resumed(swarm, root, configured):
    name, node = ("far", "box9") if configured else ("box2-gpu0", "box2")
    one = swarm(ray="auto", mode="steady", plans=FAR).up()
    tell(one, box2(a_card(0)))
    wait_until(lambda: name in names(one), what="the worker is kept")
    (pid,) = one.running(name)
    drain(one, node)
    wait_until(lambda: one.child(name).state is ChildState.STOPPING, what="it drains")
    assert runs(pid), "what it runs is finished"
    one.die()

    two = swarm(ray="auto", mode="steady", plans=FAR).up()
    wait_until(lambda: two.child(name).state is ChildState.STOPPING, what="it is adopted, and asked again")
    assert two.child(name).pid == pid
    (root / "done").touch()
    wait_until(lambda: ended(two, name), what="it has ended")
    wait_until(lambda: load_status(root / "workers").child(name).state is ChildState.EXITED, what="the status says so")
    assert f"swarm nodes resume {node}" in two.child(name).reason
    with pytest.raises(EngineError, match=f"its node {node} is drained"):
        list(restarts.restart(two.settings, [name], now=False))
    two.down()

    (root / "done").unlink()
    three = swarm(ray="auto", mode="plain", plans=FAR).up()
    tell(three, box2(a_card(0)))
    wait_until(lambda: name in names(three) and ended(three, name), what="over restarts too")
    assert sum(line.startswith(f"{name} ") for line in three.lines("lives")) == 1, "it was not started"
    drain(three, node, drain=False)
    three.running(name)


def test_a_killed_supervisors_remote_workers_are_adopted_and_restarted_as_asked(swarm, root):
    one = swarm(ray="auto", plans=FAR).up()
    tell(one, box2(a_card(0)))
    wait_until(lambda: "box2-gpu0" in names(one), what="its worker is kept")
    before = one.running("brain", "ray", "far", "box2-gpu0")
    one.die()
    two = swarm(ray="auto", plans=FAR).up()
    assert two.running("brain", "ray", "far", "box2-gpu0") == before
    restarts.request_restart(root, "box2-gpu0")
    two.supervisor.wake()
    wait_until(lambda: two.child("box2-gpu0").pid not in (None, before[-1]), what="it was restarted")
    two.running("box2-gpu0")


def test_down_ends_remote_workers_before_the_driver_with_and_without_a_supervisor(swarm, root):
    one = swarm(ray="auto").up()
    token = node_token(one.queue.layout, one.queue.storage)
    drain(one, "box7")
    tell(one, box2(a_card(0)))
    wait_until(lambda: "box2-gpu0" in names(one), what="its worker is kept")
    one.running()
    one.die()
    ended = stop_swarm(one.settings, now=False)
    assert {line.split()[1] for line in ended if line.startswith("worker ")} == {"w1", "w2", "box2-gpu0"}
    assert [line.split()[0] for line in one.lines("ends")][-2:] == ["ray", "brain"]
    assert read_nodes(one.queue.layout) == (), "who finds nodes finds them anew"
    assert node_token(one.queue.layout) == token
    assert (root / "nodes" / "box7.drain").exists()


def test_without_their_source_records_are_nobodys(swarm):
    one = swarm()
    tell(one, box2(a_card(0)))
    one.up()
    one.running()
    assert names(one) == HERE - {"ray"}


def test_a_record_that_cannot_be_used_is_reported_and_harms_nobody(swarm, caplog):
    one = swarm(ray="auto").up()
    cards = (
        a_card(0, worker="../w1"),
        a_card(1, worker="brain"),
        a_card(2, worker="w2"),
        a_card(3, url="ftp://x"),
        a_card(4),
    )
    tell(one, box2(*cards))
    wait_until(lambda: "box2-gpu4" in names(one), what="the good one is kept")
    assert names(one) == {*HERE, "box2-gpu4"}
    for words in ("'../w1' is no name", "'brain' is no name", "card gpu2 is worker w2 already", "'ftp://x' is no address"):
        assert words in caplog.text


def test_simulated_servers_of_a_killed_supervisor_keep_their_ports_beside_cards_of_other_machines(root, monkeypatch):
    settings = Settings(queue=QueueSettings(root=str(root)), workers=(FAR_SPEC,))
    monkeypatch.setattr("swarm.supervisor.main.is_free", lambda _host, port: port != 20000)  # they run on
    moved = msgspec.structs.replace(settings, ollama=OllamaSettings(base_port=20000))
    save_plan(root / "workers", plan_workers(moved, (), simulate=2))
    plans, _ = plan_swarm(RunOptions(settings=settings, simulate=2))
    assert [(plan.name, plan.port) for plan in plans] == [("worker-1", 20000), ("worker-2", 20001), ("far", None)]
