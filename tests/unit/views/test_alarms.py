"""What `swarm status` says first, and what it reckons."""

from __future__ import annotations

import pytest

from swarm.config.settings import Settings
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.task import TaskState
from swarm.core.worker import WorkerStatus
from swarm.views.overview import alarms, status, throughput
from swarm.views.queue_rows import queue_stats
from swarm.views.task_rows import task_row
from swarm.views.worker_rows import worker_lines
from tests.helpers.cli_world import Counts, Located, brain, card, claim, healthy, swarm, worker

SETTINGS = Settings()
BUSY = Counts(pending={"llm@llama3.2:3b": 123})


def said(snapshot: SwarmSnapshot, counts: Counts = BUSY, *, brain: bool = True) -> list[tuple[str, str]]:
    return [(a.level, a.text) for a in alarms(snapshot, queue_stats(counts, stuck_tasks=0), SETTINGS, brain=brain)]


def test_a_healthy_swarm_has_none():
    assert said(healthy()) == []


def test_every_alarm_says_what_to_do():
    sick = swarm(
        worker("worker-1", 0, task_id="t1", alive=False),
        worker("worker-2", 1, status=WorkerStatus.UNREADY, reason="server down"),
        gpus=(card(0, fault="lost"), card(1, temperature_c=91)),
    )
    found = alarms(sick, queue_stats(BUSY, stuck_tasks=0), SETTINGS, brain=False)
    assert len(found) >= 5
    assert all(a.next for a in found)
    assert [a.level for a in found] == sorted((a.level for a in found), key=lambda level: level != "critical")


@pytest.mark.parametrize(
    ("snapshot", "counts", "level", "words", "brain"),
    [
        (swarm(), BUSY, "critical", "nothing is running; 123 tasks waiting", False),
        (swarm(), Counts(), "warning", "nothing is running; 0 tasks", False),
        (swarm(worker("w")), BUSY, "critical", "the brain is not running", False),
        (swarm(), BUSY, "critical", "no worker is alive", True),
        (swarm(worker("v"), worker("w", 1, task_id="t", alive=False)), BUSY, "critical", "w is dead and held 1 task", True),
        (swarm(worker("w", quiet_s=90)), BUSY, "critical", "last heartbeat 90s ago", True),
        (swarm(worker("w", quiet_s=20)), BUSY, "warning", "last heartbeat 20s ago", True),
        (swarm(worker("w", status=WorkerStatus.UNREADY, reason="server down")), BUSY, "warning", "server down", True),
        (swarm(worker("w"), gpus=(card(0, fault="GPU is lost"),)), BUSY, "critical", "GPU is lost", True),
        (swarm(worker("w"), gpus=(card(0, temperature_c=90),)), BUSY, "warning", "GPU 0 is hot: 90", True),
        (swarm(worker("w"), claims=(claim("t", "w", quiet_s=400.0),)), BUSY, "warning", "no progress for 6m40s", True),
        (swarm(worker("w", model=None)), BUSY, "warning", "no worker holds a model", True),
        (swarm(worker("w")), Counts(oldest_pending_s=900.0), "warning", "waiting for 15m00s", True),
        (swarm(worker("w")), Counts(drop_ins=2), "warning", "2 drop-in files", False),
    ],
)  # fmt: skip
def test_each_condition_is_told(snapshot, counts, level, words, brain):
    told = said(snapshot, counts, brain=brain)
    assert any(found == level and words in text for found, text in told), told


def test_a_condition_is_told_once():
    texts = [text for _, text in said(swarm(worker("w", quiet_s=90)))]
    assert len([t for t in texts if "heartbeat" in t]) == 1


def test_the_brain_and_servers_are_no_workers():
    assert [line.name for line in worker_lines(swarm(brain(), *healthy().workers), SETTINGS)] == ["worker-1", "worker-2"]


def test_a_dead_worker_keeps_no_model_and_no_pid():
    (line,) = worker_lines(swarm(worker("w", alive=False)), SETTINGS)
    assert (line.state, line.model, line.pid) == ("dead", None, None)


@pytest.mark.parametrize(
    ("reason", "held", "state"),
    [("", {}, "stopped"), ("crashed in main loop; see its log", {}, "dead"), ("", {"task_id": "t"}, "dead")],
)
def test_who_said_goodbye_and_left_nothing_behind_has_stopped_not_died(reason, held, state):
    picture = swarm(worker("v"), worker("w", 1, alive=False, status=WorkerStatus.STOPPED, reason=reason, **held))
    line = next(line for line in worker_lines(picture, SETTINGS) if line.name == "w")
    assert line.state == state
    assert reason in line.reason
    assert ("process lock" in line.reason) == (state == "dead")
    assert any("w is" in text for _, text in said(picture)) == bool(held)


def test_throughput_is_unknown_while_nothing_runs():
    idle = throughput(swarm(worker("w")), SETTINGS)
    assert (idle.tasks_per_s, idle.eta_s) == (None, None)


def test_running_means_a_brain_or_a_worker_lives():
    assert status(swarm(), Counts(), SETTINGS, brain=True).running
    assert status(swarm(worker("w")), Counts(), SETTINGS, brain=False).running
    assert not status(swarm(worker("w", alive=False)), Counts(), SETTINGS, brain=False).running


def test_a_task_that_cannot_be_read_is_listed_by_its_place():
    row = task_row(Located(task_id="t", state=TaskState.PENDING, lane="llm@hf.co%2Fa%2Fb:latest", attempt=2), None)
    assert (row.task_class, row.model, row.attempt) == ("llm", "hf.co/a/b:latest", 2)
