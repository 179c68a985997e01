"""Whatever is explained or alarmed about names a next step, and the commands in it exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from swarm.cli.app import app
from swarm.core.explain import Reason, explain_worker
from swarm.core.worker import WorkerStatus
from swarm.settings import Settings
from tests.helpers.cli_world import claim, healthy, lane, swarm, worker

PACKAGE = Path(__file__).parents[2] / "swarm"
SPOKEN = ("core/explain.py", "core/explain_model.py", "cli/overview.py", "cli/topscreen.py", "runtime/wiring/restart.py")
_COMMAND = re.compile(r"[`\"]swarm ([a-z-]+)(?: ([a-z-]+))?")


def commands() -> dict[str, set[str]]:
    """Every command with its sub-commands."""
    group = typer.main.get_command(app)
    return {name: set(getattr(command, "commands", {})) for name, command in group.commands.items()}


@pytest.mark.parametrize("path", SPOKEN)
def test_commands_that_are_named_exist(path):
    known = commands()
    found = _COMMAND.findall((PACKAGE / path).read_text())
    assert found
    for name, sub in found:
        assert name in known, f"{path} names `swarm {name}`"
        assert not sub or not known[name] or sub in known[name], f"{path} names `swarm {name} {sub}`"


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
