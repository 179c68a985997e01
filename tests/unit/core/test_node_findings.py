"""What ``doctor`` finds about other machines: each finding once, about whom it concerns, with its next step."""

from __future__ import annotations

import msgspec
import pytest

from swarm.config.settings import Settings
from swarm.core.doctor.diagnose import about, diagnose
from swarm.core.doctor.evidence import EngineEvidence, ProcessEvidence
from swarm.core.doctor.node_evidence import CardEvidence, NodeEvidence, RelayEvidence
from swarm.core.doctor.node_findings import version_number
from swarm.core.gpu_reading import GpuReading
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord
from swarm.core.policy.alarms import alarms
from swarm.core.worker import WorkerStatus
from swarm.views.overview import status
from tests.helpers.cli_world import Counts, far_worker, swarm
from tests.support.builders import MODEL
from tests.unit.core.test_diagnose import HEALTHY, box, quote, waiting

replace = msgspec.structs.replace
CARDS = (CardEvidence(card="gpu0", worker="box2-gpu0"), CardEvidence(card="gpu1", worker="box2-gpu1"))
URL = "http://10.0.0.2:11500"
RELAY = RelayEvidence(url=URL, cards=CARDS, version="1.0", engine_versions={"ollama": "0.12.3"})
RUNNING = ProcessEvidence(name="box2-gpu0", role="worker", alive=True)


def a_node(name: str = "box2", **relay) -> NodeEvidence:
    return NodeEvidence(name=name, relays=(replace(RELAY, **relay),))


def a_record(*cards: NodeCard, phase: NodePhase = NodePhase.UP) -> NodeRecord:
    return NodeRecord(name="box2", source="ray", address="10.0.0.2", phase=phase, reason="not seen", since="x", cards=cards)


def found(*nodes: NodeEvidence, **more):
    evidence = box(nodes=nodes, version="1.0", **more)
    return {finding.code: finding for finding in diagnose(evidence, Settings())}


def test_a_machine_that_is_well_is_no_finding():
    assert found(a_node()) == {}


@pytest.mark.parametrize(
    ("trouble", "code", "step"),
    [
        ("node_down", "node-unreachable", f"curl {URL}/node"),
        ("node_silent", "node-unreachable", "does `swarm serve --relay` run?"),
        ("wrong_token", "node-token", "token_env"),
        ("no_token", "node-token", "then `swarm up`"),
        ("wrong_wire", "node-wire", "install the same swarm on box2"),
        ("no_relay", "node-no-relay", "correct url"),
    ],
)
def test_a_relay_that_does_not_serve_us(trouble, code, step):
    (finding,) = found(a_node(trouble=trouble, said="the words", version="")).values()
    assert (finding.code, finding.severity, finding.subject) == (code, "critical", "box2")
    assert "the words" in finding.what
    assert step in finding.next
    assert about((finding,), "box2-gpu1") == (finding,)
    assert about((finding,), "worker-1") == ()


def test_a_card_that_serves_another_swarm_names_it():
    cards = (replace(CARDS[0], refused="box2: the card serves another swarm: host3:/srv/queue"), CARDS[1])
    waits = far_worker("box2-gpu0", status=WorkerStatus.UNREADY, reason="waits for its card")
    (finding,) = found(a_node(cards=cards), snapshot=swarm(*HEALTHY.snapshot.workers, waits)).values()
    assert (finding.code, finding.subject, finding.concerns) == ("node-held", "box2/gpu0", "box2-gpu0")
    assert "host3:/srv/queue" in finding.what


def test_mixed_versions_say_which_machine_has_which():
    ollama = EngineEvidence(
        name="ollama", program="ollama", path="/o", version="ollama version is 0.11.0", workers=("worker-1",)
    )
    told = found(a_node(), a_node("box3", version="1.1"), engines=(ollama,))
    assert told["swarm-versions"].evidence == ("local: 1.0", "box2: 1.0", "box3: 1.1")
    assert told["engine-versions"].subject == "ollama"
    assert told["engine-versions"].evidence == ("local: ollama version is 0.11.0", "box2: 0.12.3", "box3: 0.12.3")
    same = replace(ollama, version="ollama version is 0.12.3")
    assert found(a_node(), engines=(same,)) == {}, "one says it in a sentence, one as a number"
    assert found(a_node(), engines=(replace(ollama, workers=()),)) == {}, "installed here, and used by nobody"
    assert version_number("version: 4567 (abc)") == "4567"


def test_a_public_address_without_encryption():
    (finding,) = found(a_node(public_address="203.0.114.7")).values()
    assert (finding.code, finding.severity) == ("node-plain-http", "warning")
    assert "203.0.114.7" in finding.evidence[0]


def test_a_node_lost_for_long_and_its_cards():
    record = a_record(NodeCard(card="gpu0", worker="box2-gpu0"), phase=NodePhase.LOST)
    assert found(NodeEvidence(name="box2", record=record, phase_s=20.0)) == {}, "it may be on its way back"
    (finding,) = found(NodeEvidence(name="box2", record=record, phase_s=7200.0)).values()
    assert (finding.code, finding.concerns) == ("node-lost", "box2-gpu0")
    assert "lost for 120 min: not seen" in finding.what


def test_a_card_without_a_worker_says_why():
    cards = (
        NodeCard(card="gpu0", worker="box2-gpu0", url=f"{URL}/cards/gpu0"),
        NodeCard(card="gpu1", worker="box2-gpu1", reason="no GPU of it is free"),
    )
    node = NodeEvidence(name="box2", record=a_record(*cards))
    (finding,) = found(node, processes=(*HEALTHY.processes, RUNNING)).values()
    assert (finding.code, finding.subject) == ("card-unserved", "box2/gpu1")
    assert "no GPU of it is free" in finding.what
    assert found(node, supervisor_phase="ended") == {}, "nothing runs, so nobody is missed"


def test_a_ray_driver_that_does_not_run_is_one_finding():
    ray = ProcessEvidence(
        name="ray",
        role="ray",
        alive=False,
        state="backoff",
        reason="starts again in 8 s",
        last_exit="exit code 1",
        last_words=quote("there is no Ray cluster at 10.0.0.1:6379"),
    )
    (finding,) = found(processes=(*HEALTHY.processes, ray)).values()
    assert (finding.code, finding.severity) == ("ray-unreachable", "critical")
    assert any("no Ray cluster at 10.0.0.1:6379" in proof for proof in finding.evidence)


def test_a_hot_card_concerns_the_worker_of_its_machine():
    hot = GpuReading(index=0, uuid="box2/0", name="x", node="box2", temperature_c=99)
    workers = (*HEALTHY.snapshot.workers, far_worker("box2-gpu0"))
    (finding,) = found(cards=(*HEALTHY.cards, hot), snapshot=swarm(*workers)).values()
    assert (finding.subject, finding.concerns) == ("box2/gpu-0", "box2-gpu0")
    assert finding.next.startswith("on box2: ")


def test_a_model_that_only_another_machine_has_is_not_missing():
    far = far_worker("box2-gpu0", model=None)
    far = replace(far, heartbeat=replace(far.heartbeat, servable=("other:1b",)))
    picture = swarm(*HEALTHY.snapshot.workers, far, lanes=(waiting("other:1b"),))
    assert "model-missing" not in found(snapshot=picture)
    assert "model-missing" in found(snapshot=replace(picture, workers=HEALTHY.snapshot.workers))
    assert MODEL != "other:1b"


def test_a_machine_none_of_whose_workers_is_usable_is_one_alarm_and_one_finding():
    why = "model server not usable: nothing listens there"
    far = [far_worker(f"box2-gpu{n}", n, status=WorkerStatus.UNREADY, reason=why) for n in range(2)]
    picture = swarm(*HEALTHY.snapshot.workers, *far)
    (alarm,) = alarms(picture, Settings())
    assert alarm.key == "node-unready:box2"
    assert alarm.reason == f"none of the 2 workers of node box2 takes llm work: {why}"
    (finding,) = found(snapshot=picture).values()
    assert (finding.code, finding.subject) == ("unready", "box2")
    assert list(found(a_node(trouble="node_down", said="x"), snapshot=picture)) == ["node-unreachable"]
    half = swarm(*HEALTHY.snapshot.workers, far[0], far_worker("box2-gpu1", 1))
    assert [alarm.key for alarm in alarms(half, Settings())] == ["unready:box2-gpu0"]


def test_a_machine_that_is_not_reached_has_no_lost_cards():
    """Its workers say so; what is wrong with the card itself is said of the card."""
    far = far_worker("box2-gpu0", status=WorkerStatus.UNREADY, reason="nothing listens")
    cut = GpuReading(index=0, uuid="box2/0", name="x", node="box2", fault="nothing listens", unreached=True)
    dead = replace(cut, fault="GPU is lost", unreached=False)
    for card, codes in ((cut, ["unready"]), (dead, ["card-lost", "unready"])):
        picture = swarm(*HEALTHY.snapshot.workers, far, gpus=(card,))
        assert sorted(found(cards=(*HEALTHY.cards, card), snapshot=picture)) == codes
        told = [alarm.text for alarm in status(picture, Counts(), Settings(), brain=True).alarms]
        assert any("GPU 0 of box2" in text for text in told) == (card is dead)


def test_who_does_not_know_the_token_asks_nothing_and_finds_nothing_while_workers_do():
    unknown = a_node(trouble="no_token", said="the variable TOKEN is not set", not_asked=True)
    assert found(unknown) == {}
    assert str(unknown) == "box2: not asked: the variable TOKEN is not set"
    assert str(a_node()) == "box2: 1 of 1 relays answer; swarm 1.0; ollama 0.12.3"
