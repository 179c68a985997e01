"""Reasons for idling in the words operators grep for, and the circuit breaker."""

from __future__ import annotations

from swarm.core.explain.idle import idle_reason, suits
from swarm.core.health.circuit_breaker import TRIP_AFTER, Breaker, after_infra_fault, after_success, position


def test_empty():
    reason = idle_reason({}, worker="worker-1", model=None, closed="")
    assert reason.line == "Queue empty"


def test_the_incident_line():
    reason = idle_reason({"llm@llama3.2:3b": 125}, worker="worker-1", model=None, closed="")
    words = "No suitable tasks - Queue: [llm:125], Preferred: ['resource', 'script', 'cpu', 'llm'], Model loaded: False"
    assert reason.line.startswith(words)
    assert reason.text == "125 llm tasks wait for llama3.2:3b; no model is loaded here"


def test_a_hot_worker_names_its_model_and_prefers_it():
    waiting = {"llm@b:latest": 3, "resource@worker-2": 1}
    reason = idle_reason(waiting, worker="worker-1", model="a:latest", closed="")
    assert "Preferred: ['resource', 'llm', 'script', 'cpu'], Model loaded: True (a:latest)" in reason.line
    assert reason.text == "3 llm tasks wait for b:latest; 1 resource tasks are for other workers; loaded here is a:latest"


def test_the_reason_does_not_change_with_every_count():
    keys = {idle_reason({"llm@a:latest": n}, worker="w", model=None, closed="").key for n in (1, 2, 125)}
    assert len(keys) == 1
    assert idle_reason({"llm@a:latest": 1}, worker="w", model=None, closed="server down").key not in keys


def test_suits():
    assert suits({"cpu": 1}, ("script", "cpu"))
    assert not suits({"llm@a:latest": 1}, ("script", "cpu"))


def test_breaker_trips_tries_and_closes():
    breaker = Breaker()
    for n in range(TRIP_AFTER):
        assert position(breaker, 0.0) == "closed"
        breaker = after_infra_fault(breaker, float(n) / 10)
    assert position(breaker, 0.3) == "open"
    assert position(breaker, 5.0) == "trial"
    again = after_infra_fault(breaker, 5.0)
    assert position(again, 6.5) == "open", "each failed trial waits twice as long"
    assert position(after_success(again), 6.5) == "closed"


def test_one_fault_that_a_probe_confirms_is_enough():
    breaker = after_infra_fault(Breaker(), 0.0, proven=True)
    assert position(breaker, 0.5) == "open"
    assert position(breaker, 1.0) == "trial"
    assert position(after_infra_fault(breaker, 1.0), 2.5) == "open", "once open, each failed trial counts"


def test_a_server_that_is_back_waits_no_longer_than_a_quarter_of_a_minute():
    breaker = Breaker()
    for n in range(50):
        breaker = after_infra_fault(breaker, 100.0 * n, proven=True)
    assert position(breaker, 100.0 * 49 + 15.0) == "trial"


def test_late_faults_of_other_slots_do_not_lengthen_the_pause():
    breaker = Breaker()
    for _ in range(10):
        breaker = after_infra_fault(breaker, 0.0)
    assert position(breaker, 1.0) == "trial"
