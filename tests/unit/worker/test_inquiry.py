"""What a worker does about a fault that may be the request's or the server's, against a queue and a server in memory."""

from __future__ import annotations

import logging
import threading

import pytest

from swarm.clock import SystemClock
from swarm.core.faults import TaskFault
from swarm.core.health import circuit_breaker as breaker
from swarm.core.task import Attempt, TaskError, TaskState
from swarm.core.worker import WorkerStatus
from swarm.errors import StorageFault
from tests.helpers.worker_fakes import Harness, Work, llm, load

CRASH = TaskFault("infra", "runner_died", "CUDA error")
HTML = TaskFault("infra", "garbage", "no JSON")
GARBAGE = TaskFault("infra", "probe_broken", "the probe got garbage")


@pytest.fixture(autouse=True)
def _logs(caplog):
    caplog.set_level(logging.DEBUG)


class Answers:
    """A prober that says what the test wants, and remembers."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.probes = []
        self.repairs = []
        self.gate = threading.Event()
        self.gate.set()

    def probe(self, model, endpoint, *, limit_s, cancel):
        self.probes.append((model, endpoint, limit_s))
        stopped = threading.Event()
        cancel.on_cancel(stopped.set)
        while not self.gate.wait(0.002):
            if stopped.is_set():
                return TaskFault("cancelled", "stopping", "stopped")
        return self.faults.pop(0) if self.faults else None

    def broke(self, fault, task, began_s):
        self.repairs.append((fault.kind, task))
        return False


class EmbedsOnly(Answers):
    """Of a server that has one endpoint and speaks HTML at the others."""

    def probe(self, model, endpoint, *, limit_s, cancel):
        super().probe(model, endpoint, limit_s=limit_s, cancel=cancel)
        return None if endpoint == "/api/embed" else HTML


def faults_of(swarm, task_id):
    return [attempts[-1].fault for name, _, _, attempts in swarm.queue.retries if name == task_id]


def test_a_request_whose_successor_is_answered_is_to_blame_without_any_probe(caplog):
    swarm = Harness(prober=(prober := Answers())).warm()
    swarm.work.fail("bad", *[HTML] * 9)
    swarm.queue.put(llm("bad"), llm("good"))
    swarm.until(lambda: len(swarm.queue.retries) == 1)
    (_, delay_s, counts, attempts) = swarm.queue.retries[0]
    assert (counts, attempts[0].fault, attempts[0].error.type) == (True, "poison", "garbage")
    assert "the server answered others after it" in attempts[0].error.message
    assert delay_s > 0
    assert swarm.queue.ended["good"][0] is TaskState.COMPLETED
    assert not prober.probes
    assert "Circuit open" not in caplog.text


def test_where_nobody_else_asks_a_probe_tells_and_poison_ends_with_the_evidence():
    swarm = Harness(prober=(prober := Answers())).warm()
    swarm.work.fail("bad", *[HTML] * 9)
    swarm.queue.put(llm("bad", endpoint="/api/embed"))
    swarm.until(lambda: "bad" in swarm.queue.ended)
    state, trail = swarm.queue.ended["bad"]
    assert state is TaskState.FAILED
    assert trail.error.type == "poison"
    assert "broke the same server 3 times" in trail.error.message
    assert trail.error.message.count("the server answered a probe after it") == 3
    assert [past.fault for past in trail.attempts] == ["poison"] * 3
    assert prober.probes[0][:2] == ("a", "/api/embed")
    assert not prober.repairs


def test_a_server_that_fails_the_probe_is_out_of_service_at_once_and_back_after_the_next(caplog, monkeypatch):
    monkeypatch.setattr(breaker, "BACKOFF_BASE_S", 0.3)
    swarm = Harness(prober=(prober := Answers(GARBAGE, GARBAGE))).warm()
    swarm.work.fail("t1", CRASH)
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: "Circuit open" in caplog.text)
    swarm.queue.put(*(llm(f"t{n}") for n in range(2, 8)))
    swarm.until(lambda: swarm.state.status is WorkerStatus.UNREADY)
    assert "a probe failed too: the probe got garbage" in swarm.state.reason
    swarm.until(lambda: len(swarm.queue.ended) == 7)
    assert faults_of(swarm, "t1") == ["infra"]
    assert [counts for _, _, counts, _ in swarm.queue.retries] == [False], "the others were not used to find out"
    assert len(prober.probes) == 3
    assert prober.repairs == [("runner_died", "t1"), ("probe_broken", None)], "each failed probe climbs the ladder"
    assert "Circuit closed" in caplog.text


def test_a_trial_asks_what_the_model_has_answered(caplog, monkeypatch):
    monkeypatch.setattr(breaker, "BACKOFF_BASE_S", 0.05)
    swarm = Harness(prober=(prober := EmbedsOnly())).warm()
    swarm.queue.put(llm("e1", endpoint="/api/embed"))
    swarm.until(lambda: "e1" in swarm.queue.ended)
    swarm.work.fail("t1", *[TaskFault("infra", "server_down", "x")] * breaker.TRIP_AFTER)
    swarm.queue.put(llm("t1", endpoint="/api/chat"))
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert "Circuit open" in caplog.text
    assert {endpoint for _, endpoint, _ in prober.probes} == {"/api/embed"}


def test_a_trial_finds_the_endpoint_that_a_server_has(caplog, monkeypatch):
    monkeypatch.setattr(breaker, "BACKOFF_BASE_S", 0.05)
    swarm = Harness(prober=EmbedsOnly()).warm()
    swarm.work.fail("t1", HTML)
    swarm.queue.put(llm("t1", endpoint="/api/chat"))
    swarm.until(lambda: "Circuit open" in caplog.text)
    swarm.queue.put(llm("e1", endpoint="/api/embed"))
    swarm.until(lambda: {"e1", "t1"} <= set(swarm.queue.ended))


def test_a_few_requests_in_a_row_are_enough_to_ask(caplog):
    swarm = Harness(prober=(prober := Answers(GARBAGE))).warm()
    for n in range(1, 9):
        swarm.work.fail(f"t{n}", CRASH)
    swarm.queue.put(*(llm(f"t{n}") for n in range(1, 9)))
    swarm.until(lambda: "Circuit open" in caplog.text)
    taken = len(swarm.queue.claim_log)
    assert taken <= breaker.TRIP_AFTER
    assert prober.probes
    swarm.until(lambda: len(swarm.queue.retries) == taken)
    assert {counts for _, _, counts, _ in swarm.queue.retries} == {False}


def test_those_that_fail_together_are_suspects_and_the_likeliest_runs_alone():
    swarm = Harness(slots=4, prober=Answers()).warm()
    names = [f"t{n}" for n in range(4)]
    for name in names:
        swarm.work.fail(name, CRASH)
    swarm.work.gate.clear()
    swarm.queue.put(*map(llm, names))
    swarm.until(lambda: len(swarm.work.running) == 4)
    swarm.work.gate.set()
    swarm.until(lambda: len(swarm.queue.retries) == 4)
    assert {attempts[-1].fault for *_, attempts in swarm.queue.retries} == {"suspect"}
    assert {counts for _, _, counts, _ in swarm.queue.retries} == {False}
    assert sum(attempts[-1].alone for *_, attempts in swarm.queue.retries) == 1
    swarm.until(lambda: len(swarm.queue.ended) == 4)
    assert {state for state, _ in swarm.queue.ended.values()} == {TaskState.COMPLETED}


def suspect(worker="worker-2", fault="suspect", **more):
    error = TaskError("runner_died", "x")
    return Attempt(attempt=1, worker=worker, outcome="retried", fault=fault, alone=True, error=error, **more)


def test_what_runs_alone_waits_for_the_others_and_keeps_them_out():
    swarm = Harness(slots=3, prober=Answers()).warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: swarm.work.running == {"t1"})
    swarm.queue.pending["llm@a:latest"].append((llm("s1"), 0, (suspect(),)))
    swarm.queue.put(llm("t2"), llm("t3"))
    swarm.until(lambda: "s1" in swarm.queue.claim_log)
    for _ in range(10):
        swarm.turn()
    assert swarm.work.running == {"t1"}
    assert "t2" not in swarm.queue.claim_log
    swarm.work.gate.set()
    swarm.until(lambda: len(swarm.queue.ended) == 4)


def test_what_runs_alone_is_first_proven_a_server_that_works_or_goes_to_another(caplog):
    swarm = Harness(prober=(prober := Answers(GARBAGE))).warm()
    swarm.queue.pending["llm@a:latest"].append((llm("s1"), 0, (suspect(),)))
    swarm.until(lambda: swarm.queue.released == ["s1"])
    assert prober.probes[0][:2] == ("a:latest", "/api/chat"), "asked what it is going to ask"
    assert "Circuit open" in caplog.text
    assert "s1" not in swarm.queue.ended


def test_alone_on_a_proven_server_that_it_leaves_broken_it_is_to_blame(caplog):
    swarm = Harness(prober=Answers(None, GARBAGE)).warm()
    swarm.work.fail("s1", CRASH)
    swarm.queue.pending["llm@a:latest"].append((llm("s1"), 0, (suspect(),)))
    swarm.until(lambda: swarm.queue.retries)
    assert faults_of(swarm, "s1") == ["poison"]
    assert "Circuit open" in caplog.text, "and the server is broken all the same"


def test_it_is_left_to_another_server_for_a_while():
    swarm = Harness(prober=Answers()).warm()
    swarm.queue.others = ("worker-2",)
    now = SystemClock()
    mine = suspect("worker-1", "poison", ended_at=now.iso())
    long_ago = suspect("worker-1", "poison", ended_at=now.iso(-60.0))
    theirs = suspect("worker-2", "poison", ended_at=now.iso())
    for task_id, past in (("mine", mine), ("old", long_ago), ("theirs", theirs)):
        swarm.queue.pending["llm@a:latest"].append((llm(task_id), 1, (past,)))
    swarm.until(lambda: {"old", "theirs"} <= set(swarm.queue.ended))
    left = next(one for one in swarm.queue.retries if one[0] == "mine")
    assert (left[2], left[3]) == (False, (mine,)), "untouched and uncounted"
    swarm.queue.others = ()
    swarm.until(lambda: "mine" in swarm.queue.ended)
    assert swarm.state.cleared == {"worker-1": 2, "worker-2": 1}


def test_what_cannot_be_left_to_another_server_for_the_disk_is_released_once_it_can(monkeypatch, caplog):
    swarm = Harness(prober=Answers()).warm()
    swarm.queue.others = ("worker-2",)

    def retry(*_args, **_more):
        raise StorageFault("No space left on device")

    monkeypatch.setattr(swarm.queue, "retry", retry)
    mine = suspect("worker-1", "poison", ended_at=SystemClock().iso())
    swarm.queue.pending["llm@a:latest"].append((llm("mine"), 1, (mine,)))
    swarm.until(lambda: swarm.queue.released == ["mine"])
    assert "The disk refuses: No space left" in caplog.text
    assert not (swarm.queue.held or swarm.worker.slots.runs)


def test_a_slow_request_stays_a_timeout_and_a_silent_server_is_no_fault_of_the_request():
    swarm = Harness(prober=Answers(None, GARBAGE), limit_s=0.2).warm()
    swarm.work.fail("slow", TaskFault("transient", "timeout", "too long"))
    swarm.queue.put(llm("slow"))
    swarm.until(lambda: swarm.queue.retries)
    assert faults_of(swarm, "slow") == ["transient"]
    swarm.work.fail("silent", TaskFault("transient", "timeout", "too long"))
    swarm.queue.put(llm("silent"))
    swarm.until(lambda: len(swarm.queue.retries) == 2)
    assert faults_of(swarm, "silent") == ["infra"]


@pytest.mark.parametrize("kind", ["server_down", "load_failed"])
def test_what_is_plainly_the_servers_is_not_asked_about(kind):
    swarm = Harness(prober=(prober := Answers())).warm()
    swarm.work.fail("t1", TaskFault("infra", kind, "x"))
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert faults_of(swarm, "t1") == ["infra"]
    assert not prober.probes


def judged(prober, **how):
    """A worker that is finding out about one fault, its probe hanging."""
    swarm = Harness(prober=prober, **how).warm()
    prober.gate.clear()
    swarm.work.fail("t1", CRASH)
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: prober.probes)
    return swarm


def test_who_stops_meanwhile_gives_the_task_back_untouched():
    swarm = judged(Answers())
    assert [slot.phase for slot in swarm.own.heartbeat(0).slots] == ["checking the server"]
    swarm.wish.ask()
    swarm.wish.ask()
    swarm.until(lambda: swarm.worker.finished)
    assert swarm.queue.released == ["t1"]
    assert not swarm.queue.retries


def test_who_cancels_meanwhile_is_obeyed():
    swarm = judged(Answers())
    swarm.queue.cancel_wanted.add("t1")
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert swarm.queue.ended["t1"][0] is TaskState.CANCELLED


def test_a_load_waits_for_the_verdict_so_that_the_probe_does_not_bring_the_old_model_back():
    prober = Answers()
    swarm = judged(prober)
    swarm.queue.put(load("l1", "b"))
    for _ in range(20):
        swarm.turn()
    assert "l1" not in swarm.work.running | set(swarm.queue.ended)
    prober.gate.set()
    swarm.until(lambda: "l1" in swarm.queue.ended)


def test_a_prober_that_crashes_counts_as_a_probe_that_failed(caplog):
    class Buggy(Answers):
        def probe(self, model, endpoint, *, limit_s, cancel):
            super().probe(model, endpoint, limit_s=limit_s, cancel=cancel)
            raise ZeroDivisionError("oops")

    swarm = Harness(prober=Buggy()).warm()
    swarm.work.fail("t1", CRASH)
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: faults_of(swarm, "t1") == ["infra"])
    assert "the probe failed: ZeroDivisionError: oops" in caplog.text


def test_requests_start_one_after_the_other_once_some_failed_together():
    class Talking(Work):
        def run(self, claim, *, cancel, progress):
            began.append(claim.task.task_id)
            if claim.task.task_id.startswith("n"):
                talk.wait(60)
                progress(1)
            return super().run(claim, cancel=cancel, progress=progress)

    began, talk, work = [], threading.Event(), Talking()
    swarm = Harness(slots=2, prober=Answers(), executors={one.task_class: work for one in (llm("x"), load("x"))}).warm()
    for name in ("t1", "t2"):
        work.fail(name, CRASH)
    work.gate.clear()
    swarm.queue.put(llm("t1"), llm("t2"))
    swarm.until(lambda: len(work.running) == 2)
    work.gate.set()
    swarm.until(lambda: len(swarm.queue.ended) == 2)
    work.gate.clear()
    swarm.queue.put(llm("n1"), llm("n2"))
    swarm.until(lambda: {"n1", "n2"} <= set(swarm.queue.claim_log) and "n1" in began)
    for _ in range(5):
        swarm.turn()
    assert "n2" not in began
    talk.set()
    swarm.until(lambda: "n2" in began)
    work.gate.set()
    swarm.until(lambda: len(swarm.queue.ended) == 4)
