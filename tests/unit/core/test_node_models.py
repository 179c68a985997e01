"""Placement over several machines: a model is loaded where it lies on the disk, and where it does not is said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import Settings
from swarm.core.doctor.diagnose import diagnose
from swarm.core.doctor.evidence import BoxEvidence, DiskEvidence
from swarm.core.explain.models import explain_model
from swarm.core.placement.demand import no_demand
from swarm.core.placement.fit import misfit, nowhere
from swarm.core.placement.placement import desired
from swarm.core.policy.alarms import alarms
from swarm.core.worker import ModelTally, WorkerStatus
from tests.support.builders import a_card, a_snapshot, a_worker, llm_waiting

S = Settings()
BIG, SMALL = "qwen2.5:32b", "llama3.2:1b"


def two_nodes(**more):
    """``worker-1`` and ``worker-2`` here with one model, ``box2-gpu0`` with both."""
    mine = [a_worker(f"worker-{n}", gpu=n, servable=[SMALL], **more) for n in (1, 2)]
    return [*mine, a_worker("box2-gpu0", gpu=3, node="box2", servable=[SMALL, BIG], **more)]


def loads(workers, *lanes):
    return {name: want.model for name, want in desired(a_snapshot(workers=workers, lanes=lanes), S).items()}


def test_a_load_goes_to_the_node_that_has_the_model():
    assert loads(two_nodes(), llm_waiting(50, BIG)) == {"worker-1": None, "worker-2": None, "box2-gpu0": BIG}
    both = loads(two_nodes(), llm_waiting(50, BIG), llm_waiting(50, SMALL))
    assert both == {"worker-1": SMALL, "worker-2": SMALL, "box2-gpu0": BIG}


def test_the_only_card_for_a_model_is_not_spent_on_one_that_could_go_elsewhere():
    """Neither by a small model that comes first nor, below, by the fast card that this is."""
    learned = {SMALL: ModelTally(completed=90, busy_s=9.0, tokens_out=9000)}
    slow = {SMALL: ModelTally(completed=90, busy_s=90.0, tokens_out=9000)}
    mine = a_worker("worker-1", servable=[SMALL], learned=slow)
    box2 = a_worker("box2-gpu0", gpu=3, node="box2", servable=[SMALL, BIG], learned=learned)
    lanes = llm_waiting(500, SMALL), llm_waiting(5, BIG)
    assert loads([mine, box2], *lanes) == {"worker-1": SMALL, "box2-gpu0": BIG}
    assert loads([mine, box2], lanes[0])["box2-gpu0"] == SMALL


def test_a_busy_card_of_that_node_is_taken_before_a_cold_one_elsewhere():
    mine, yours = two_nodes()[0], a_worker("box2-gpu0", gpu=3, node="box2", holding=SMALL, servable=[SMALL, BIG])
    assert loads([mine, yours], llm_waiting(50, BIG)) == {"worker-1": None, "box2-gpu0": BIG}


def test_what_nobody_lists_is_tried_as_on_one_machine():
    """A server may have got it since it was asked."""
    assert loads(two_nodes(), llm_waiting(50, "new:1b"))["worker-1"] == "new:1b"


def test_a_node_that_says_nothing_or_is_lost_has_nothing():
    silent = a_worker("box2-gpu0", gpu=3, node="box2")
    mine = a_worker("worker-1", servable=[SMALL])
    assert loads([mine, silent], llm_waiting(50, SMALL)) == {"worker-1": SMALL, "box2-gpu0": None}
    lost = a_worker("box2-gpu0", gpu=3, node="box2", servable=[BIG], alive=False)
    assert loads([mine, lost], llm_waiting(50, BIG)) == {"worker-1": BIG}, "else nobody would ever say that it is missing"


def test_one_card_of_a_node_speaks_for_the_others():
    """The disk is the node's; what a worker lists is what its own cards have room for."""
    small, large = a_worker("box2-gpu0", gpu=3, node="box2"), a_worker("box2-gpu1", gpu=4, node="box2", servable=[BIG])
    picture = a_snapshot(workers=[small, large, a_worker("worker-1")], lanes=[llm_waiting(5, BIG)])
    assert misfit(small, no_demand(BIG, picture), picture, S) is None


@given(st.lists(st.tuples(st.sets(st.sampled_from(["a:1", "b:1"])), st.sampled_from([None, "a:1"])), min_size=1, max_size=5))
def test_one_machine_never_lacks_anything(machine):
    """Placement there is what it was: servers of one machine may have disks of their own."""
    workers = [a_worker(f"worker-{n}", gpu=n, servable=sorted(has), holding=held) for n, (has, held) in enumerate(machine)]
    unknown = [a_worker(f"worker-{n}", gpu=n, holding=held) for n, (_, held) in enumerate(machine)]
    lanes = (llm_waiting(9, "a:1"), llm_waiting(5, "b:1"))
    assert loads(workers, *lanes) == loads(unknown, *lanes)


def test_it_is_explained_with_the_command_that_helps():
    picture = a_snapshot(workers=two_nodes(), lanes=[llm_waiting(50, BIG)])
    found = {r.code: r for r in explain_model(BIG, picture, S)}
    words = f"Not on worker-2: local lists no model {BIG} for its cards, box2 does."
    assert (found["not_on_node"].text, found["not_on_node"].next_step) == (words, f"swarm models pull {BIG} --node local")


def test_doctor_names_idle_cards_whose_node_lacks_what_waits():
    busy = a_worker("worker-1", gpu=1, servable=[SMALL], holding=SMALL)
    idle = a_worker("worker-2", gpu=2, servable=[SMALL])
    box2 = a_worker("box2-gpu0", gpu=3, node="box2", servable=[SMALL, BIG], holding=BIG)
    lanes = [llm_waiting(50, BIG), llm_waiting(9, SMALL)]

    def found(*workers):
        disk = DiskEvidence(path="/q", free_mib=50_000, total_mib=100_000, free_inodes=10**6)
        picture = a_snapshot(workers=workers, lanes=lanes)
        evidence = BoxEvidence(root="/q", root_exists=True, disk=disk, open_files=65536, snapshot=picture)
        return [f for f in diagnose(evidence, S) if f.code == "model-not-on-node"]

    assert [(f.subject, f.evidence, f.next) for f in found(busy, idle, box2)] == [
        (f"local {BIG}", ("idle there: worker-2",), f"swarm models pull {BIG} --node local")
    ]
    assert not found(busy, box2), "no card is idle"


def test_a_wait_ends_where_the_only_node_that_has_it_cannot_hold_it():
    tally = {BIG: ModelTally(size_mib=40_000)}
    mine, yours = a_worker("worker-1"), a_worker("box2-gpu0", gpu=1, node="box2", servable=[BIG], learned=tally)
    picture = a_snapshot(workers=[mine, yours], lanes=[llm_waiting(5, BIG)], gpus=[a_card(0, total_mib=80_000), a_card(1)])
    assert "local lists no model" in (nowhere(BIG, picture, S) or "")
    fits = a_snapshot(workers=[mine, yours], lanes=[llm_waiting(5, BIG)], gpus=[a_card(1, total_mib=80_000)])
    assert nowhere(BIG, fits, S) is None


def test_the_alarm_about_room_is_about_the_machines_that_have_the_model():
    tally = {BIG: ModelTally(size_mib=40_000)}
    mine, yours = a_worker("worker-1"), a_worker("box2-gpu0", gpu=1, node="box2", servable=[BIG], learned=tally)
    cards = [a_card(0, total_mib=80_000), a_card(1)]
    (alarm,) = alarms(a_snapshot(workers=[mine, yours], lanes=[llm_waiting(5, BIG)], gpus=cards), S)
    assert alarm.key == f"fits-nowhere:{BIG}"
    assert "the card of box2-gpu0 has 24576 MiB" in alarm.reason
    assert "the others' machines do not have it" in alarm.reason
    hot = a_worker("box2-gpu0", gpu=1, node="box2", servable=[BIG], status=WorkerStatus.UNREADY, reason="hot")
    found = alarms(a_snapshot(workers=[mine, hot], lanes=[llm_waiting(5, BIG)], gpus=cards), S)
    assert [alarm.key for alarm in found] == ["unready:box2-gpu0"]
