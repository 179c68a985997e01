"""When a swarm that was started in the background counts as up, and when it will never be."""

from __future__ import annotations

import subprocess
import sys

import pytest
from msgspec.structs import replace

from swarm.config.settings import QueueSettings, Settings
from swarm.core.worker import ProcessIdentity
from swarm.errors import EngineError
from swarm.proc.identity import boot_id
from swarm.runtime.bootstrap import RunOptions
from swarm.supervisor.background import _fails_at_start, _settled, wait_until_up
from swarm.supervisor.state import ChildState, ChildStatus, SupervisorStatus, save_status


def status(**children: str) -> SupervisorStatus:
    """``w1="running"``; ``ray="backoff 2"`` after two restarts."""
    roles = {"brain": "brain", "ray": "ray", "http": "http"}
    found = []
    for name, words in children.items():
        state, _, restarts = words.partition(" ")
        role = roles.get(name, "worker")
        found.append(ChildStatus(name=name, role=role, state=ChildState(state), since="x", restarts=int(restarts or 0)))
    process = ProcessIdentity(pid=1, start_ticks=1, boot_id="b")
    return SupervisorStatus(process=process, started_at="x", written_at="x", phase="running", children=tuple(found))


@pytest.mark.parametrize(
    ("children", "up", "up_late"),
    [
        ({"w1": "running"}, True, True),
        ({"w1": "running", "w2": "backoff"}, False, False),
        ({"w1": "exited"}, True, True),
        ({"w1": "exited", "w2": "backoff"}, False, False),
        ({"ray": "running"}, False, True),
        ({"ray": "starting"}, False, False),
        ({"ray": "backoff 1"}, False, False),
        ({"ray": "running", "box2-gpu0": "running"}, True, True),
        ({"ray": "running", "box2-gpu0": "starting"}, False, False),
        ({"w1": "running", "ray": "backoff 5"}, True, True),
    ],
)
def test_up(children, up, up_late):
    found = status(brain="running", **children)
    assert (_settled(found, may_be_empty=False), _settled(found, may_be_empty=True)) == (up, up_late)


@pytest.mark.parametrize(
    ("children", "who"),
    [
        ({"w1": "backoff 2", "w2": "running"}, ""),
        ({"w1": "backoff 2", "ray": "running"}, "w1"),
        ({"ray": "backoff 1"}, ""),
        ({"ray": "backoff 2"}, "ray"),
        ({}, ""),
    ],
)
def test_what_will_never_be_up(children, who):
    assert _fails_at_start(status(brain="running", **children)) == who


def test_the_status_of_an_earlier_supervisor_with_the_same_number_is_not_believed(tmp_path):
    """In a container the numbers are the same at each start."""
    (tmp_path / "workers").mkdir()
    options = RunOptions(settings=Settings(queue=QueueSettings(root=str(tmp_path))))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        earlier = ProcessIdentity(pid=process.pid, start_ticks=1, boot_id=boot_id())
        save_status(tmp_path / "workers", replace(status(brain="running", w1="running"), process=earlier))
        with pytest.raises(EngineError, match="the supervisor reports nothing"):
            wait_until_up(options, process, timeout_s=0.2)
        process.communicate(b"\n")
