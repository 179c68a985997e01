"""The lines operators grep for."""

from __future__ import annotations

from swarm.config.settings import Settings
from swarm.core.health.liveness import monitor_line, stuck, stuck_line
from swarm.core.task import TaskClass
from tests.support.builders import MODEL, a_card, a_claim, a_snapshot, a_worker, cpu_waiting, llm_waiting

S = Settings()


def test_the_monitor_line_as_operators_know_it():
    workers = [a_worker("w1", holding=MODEL), a_worker("w2", holding=MODEL), a_worker("w3")]
    claims = [
        a_claim("a", worker="w1", quiet_s=400),
        a_claim("b", worker="w2", quiet_s=400),
    ]
    picture = a_snapshot(workers=workers, lanes=[llm_waiting(123)], claims=claims, gpus=[a_card(n) for n in range(5)])
    assert monitor_line(picture, S) == "MONITOR: GPUs: 2/5, Workers: 3/3, Queue: 123 (llm:123), Processing: 2, Stuck: 2"


def test_an_empty_swarm_and_a_mixed_queue():
    assert monitor_line(a_snapshot(), S) == "MONITOR: GPUs: 0/0, Workers: 0/0, Queue: 0, Processing: 0, Stuck: 0"
    lanes = [llm_waiting(2, "a:1"), llm_waiting(3, "b:1"), cpu_waiting(1), cpu_waiting(4, TaskClass.SCRIPT)]
    line = monitor_line(a_snapshot(workers=[a_worker(alive=False)], lanes=lanes), S)
    assert line == "MONITOR: GPUs: 0/1, Workers: 0/1, Queue: 10 (cpu:1 llm:5 script:4), Processing: 0, Stuck: 0"
    assert a_snapshot(lanes=lanes).has_work
    assert not a_snapshot().has_work


def test_stuck_is_a_living_workers_claim_without_progress():
    def found(worker, **picture):
        return [c.task_id for c in stuck(a_snapshot(workers=[worker], claims=[a_claim(quiet_s=301)], **picture), S)]

    assert found(a_worker()) == ["t1"]
    assert found(a_worker(), grace=True) == []
    assert found(a_worker(alive=False)) == []


def test_the_stuck_line():
    line = stuck_line([a_claim("d5de16d7", worker="worker-2", elapsed_s=372, name="gsm8k 17")])
    assert line == (
        "Stuck tasks detected: [{'task_id': 'd5de16d7', 'assigned_to': 'worker-2', 'elapsed_min': 6, 'name': 'gsm8k 17'}]"
    )
