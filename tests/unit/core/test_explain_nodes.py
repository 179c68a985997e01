"""What ``explain`` says of workers whose cards are in other machines."""

from __future__ import annotations

import msgspec
import pytest

from swarm.config.settings import QueueSettings, Settings
from swarm.core.explain.tasks import explain_task, explain_worker
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord
from swarm.core.task import Task, TaskClass, TaskState
from swarm.core.worker import WorkerStatus
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage
from swarm.queue.stores.node_book import write_node
from swarm.views import documents, explanations
from tests.helpers.cli_world import MODEL, MemoryQueue, claim, far_worker, swarm, two_nodes, worker

S = Settings()
URL = "http://10.0.0.2:11800/cards/gpu0"


def record(phase: NodePhase = NodePhase.UP, **card: str) -> NodeRecord:
    one = NodeCard(**({"card": "gpu0", "worker": "box2-gpu0", "url": URL} | card))
    return NodeRecord(
        name="box2",
        source="ray",
        address="10.0.0.2",
        phase=phase,
        reason="Ray does not see it",
        since="2026-02-07T12:00:00.000+01:00",
        cards=(one,),
    )


def told(view, node=None):
    return {reason.code: reason for reason in explain_worker(view, swarm(view), S, node=node)}


def test_a_worker_here_says_nothing_of_nodes():
    assert "node" not in told(worker("worker-1"))


def test_where_the_card_is_what_serves_it_and_why_it_waits():
    why = "waits for its card: nothing listens at http://10.0.0.2:11800: is the relay running there?"
    found = told(far_worker("far", status=WorkerStatus.UNREADY, reason=why))
    assert why in found["unready"].text
    assert found["node"].text == (
        "Its card gpu0 is on node box2, reached through the relay at http://10.0.0.2:11800, and is served by ollama 0.12.3."
    )
    assert found["node"].next_step == "swarm logs --node box2 -n 30"


@pytest.mark.parametrize(
    ("node", "code", "words", "step"),
    [
        (record(NodePhase.LOST), "node_lost", "is lost since 2026-02-07 12:00:00: Ray does not see it", "swarm doctor"),
        (record(NodePhase.DRAINING), "node_draining", "nothing more is begun", "swarm nodes resume box2"),
        (record(NodePhase.DRAINED), "node_drained", "its cards were given back", "swarm nodes resume box2"),
        (
            record(url="", reason="no GPU is free"),
            "card_unserved",
            "No relay serves gpu0 of node box2: no GPU",
            "swarm doctor",
        ),
    ],
)
def test_how_its_machine_is_comes_first(node, code, words, step):
    view = far_worker("box2-gpu0", alive=False)
    first = explain_worker(view, swarm(view), S, node=node)[0]
    assert first.code == code
    assert words in first.text
    assert first.next_step.startswith(step)


def test_a_card_for_which_no_worker_runs_is_explained_by_its_name(tmp_path):
    layout = Layout(str(tmp_path))
    write_node(layout, Storage("fast", str(tmp_path)), record(url="", reason="swarm 1.2 is installed there"))
    settings = Settings(queue=QueueSettings(root=str(tmp_path)))
    found = documents.explain("box2-gpu0", swarm(), settings, MemoryQueue())
    assert (found.kind, found.state) == ("worker", "none")
    assert "swarm 1.2 is installed there" in found.reasons[0].text
    with_worker = explanations.worker(far_worker("box2-gpu0"), swarm(far_worker("box2-gpu0")), settings)
    assert with_worker.reasons[0].code == "card_unserved"


def test_a_task_names_the_machine_unless_the_workers_name_begins_with_it():
    task = Task(task_id="t1", task_class=TaskClass.LLM, model=MODEL)
    for name, shown in (("far", "far (node box2) works on"), ("box2-gpu0", "box2-gpu0 works on")):
        picture = swarm(far_worker(name, task_id="t1"), claims=(claim("t1", name),))
        assert explain_task(task, TaskState.PROCESSING, picture, S)[0].text.startswith(shown)
    by_model = explanations.model(MODEL, msgspec.structs.replace(two_nodes(), lanes=()), S)
    assert any(reason.text.startswith("box2-gpu1 holds it") for reason in by_model.reasons)
