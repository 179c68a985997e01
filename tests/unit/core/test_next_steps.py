"""Whatever is explained or alarmed about names a next step, and the commands in it exist."""

from __future__ import annotations

import pytest

from swarm.config.settings import Settings
from swarm.core.explain.reason import Reason
from swarm.core.explain.tasks import explain_worker
from swarm.core.worker import WorkerStatus
from tests.helpers.cli_world import claim, healthy, lane, swarm, worker
from tests.helpers.spoken import fault_of, in_sources, named_in

WANTS_MORE = {"swarm submit", "swarm feed", "swarm queue pause", "swarm queue resume"}
"""They parse without another word, and then ask for one."""


def test_every_command_that_a_text_names_can_be_typed():
    spoken = list(in_sources())
    assert len(spoken) > 200
    faults = {}
    for one in spoken:
        fault = fault_of(one.command)
        if fault is not None and not one.whole and "Missing" in fault:
            continue  # spoken of, not told to be typed
        if fault is None and one.whole and one.command in WANTS_MORE:
            fault = "ends with a question"
        if fault is not None:
            faults[f"{one.place}: {one.command}"] = fault
    assert not faults


def test_what_cannot_be_typed_is_found():
    assert fault_of("swarm explain worker-1") is None
    assert fault_of("swarm queue list failed -n 5") is None
    for command in ("swarm explian x", "swarm queue lst", "swarm explain", "swarm queue list -n x", "swarm logs --nope"):
        assert fault_of(command), command
    assert named_in("see `swarm up`; swarm logs x -n 3; or swarm explain y") == [
        "swarm up",
        "swarm logs x -n 3",
        "swarm explain y",
    ]


def test_a_reason_without_a_next_step_cannot_be_made():
    with pytest.raises(TypeError):
        Reason("code", "text")  # type: ignore[call-arg]


@pytest.mark.parametrize("brain", [True, False])
@pytest.mark.parametrize(
    "snapshot",
    [
        healthy(),
        swarm(worker("worker-1")),
        swarm(worker("worker-1", model=None), lanes=(lane(5),)),
        swarm(worker("worker-1"), lanes=(lane(5, "other:1b"),)),
        swarm(worker("worker-1", alive=False), claims=(claim("t1", "worker-1"),)),
        *(swarm(worker("worker-1", status=status)) for status in WorkerStatus),
    ],
)
def test_every_worker_is_explained_with_a_next_step(snapshot, brain):
    for view in snapshot.workers:
        reasons = explain_worker(view, snapshot, Settings(), brain_alive=brain)
        assert reasons
        assert all(reason.next_step.startswith("swarm ") for reason in reasons), reasons


def test_a_dead_worker_without_a_brain_is_told_to_start_all():
    dead = worker("worker-1", alive=False)
    assert explain_worker(dead, swarm(dead), Settings(), brain_alive=False)[0].next_step == "swarm up"
    assert explain_worker(dead, swarm(dead), Settings())[0].next_step == "swarm doctor worker-1"
