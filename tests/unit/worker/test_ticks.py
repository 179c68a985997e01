"""What a worker does in its turns, against a queue and a server in memory."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from swarm.config.settings import RetrySettings, Settings, WorkerSettings
from swarm.core.faults import TaskFault
from swarm.core.health import circuit_breaker as breaker
from swarm.core.lanes import Pause, Pauses
from swarm.core.task import TaskClass, TaskState, Trail
from swarm.core.worker import WorkerStatus
from swarm.runtime.loop import EXIT_CRASHED
from swarm.worker.server_probe import ServerReading
from tests.helpers.wait import wait_until
from tests.helpers.worker_fakes import Harness, Probe, Work, cpu, holds, llm, load, script


@pytest.fixture(autouse=True)
def _logs(caplog):
    caplog.set_level(logging.DEBUG)


def cold(reason: str = "") -> Probe:
    return Probe(ServerReading(usable=True, reason=reason))


def test_a_task_is_claimed_run_and_put_on_record(caplog):
    swarm = Harness().warm()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: "t1" in swarm.queue.ended)
    state, trail = swarm.queue.ended["t1"]
    assert state is TaskState.COMPLETED
    assert trail.status == "completed"
    assert trail.result == {"id": "t1", "usage": {"prompt_tokens": 2, "completion_tokens": 3}}
    (attempt,) = trail.attempts
    assert (attempt.attempt, attempt.worker, attempt.gpu, attempt.model_digest, attempt.outcome) == (
        1,
        "worker-1",
        "GPU-1",
        "d1",
        "completed",
    )
    assert attempt.started_at <= attempt.ended_at
    assert trail.completed_at == attempt.ended_at
    tally = swarm.state.models["a:latest"]
    assert (tally.completed, tally.tokens_in, tally.tokens_out) == (1, 2, 3)
    assert swarm.state.tally.completed == swarm.state.tally.claims == 1
    assert "Worker initialized: worker-1 on GPU 1, Ollama port 11437" in caplog.text
    assert "Claimed llm task: t1 (name of t1)" in caplog.text


def test_all_slots_are_filled_and_refilled_without_waiting():
    swarm = Harness(slots=4).warm().start()
    swarm.work.gate.clear()
    swarm.queue.put(*(llm(f"t{n}") for n in range(8)))
    wait_until(lambda: len(swarm.work.running) == 4)
    swarm.work.gate.set()
    wait_until(lambda: len(swarm.queue.ended) == 8)
    assert swarm.work.most == 4
    assert swarm.stop() == 0


def test_a_freed_slot_is_refilled_at_once():
    swarm = Harness(slots=1, poll_s=20.0).warm().start()
    swarm.queue.put(*(llm(f"t{n}") for n in range(30)))
    wait_until(lambda: len(swarm.queue.ended) == 30, timeout_s=60, what="all are done long before as many polls")
    swarm.stop()


def test_an_idle_workers_turns_are_never_so_far_apart_that_it_is_taken_for_hung():
    settings = Settings(worker=WorkerSettings(poll_s=100.0))
    swarm = Harness(settings=settings).warm()
    assert 0 < swarm.turn() <= settings.worker.heartbeat_stale_s / 2


def test_a_cold_worker_takes_scripts_but_no_llm_work_and_says_why(caplog):
    swarm = Harness(probe=cold())
    swarm.queue.put(llm("t1"), script("s1"), cpu("c1"))
    swarm.until(lambda: {"s1", "c1"} <= set(swarm.queue.ended))
    swarm.until(lambda: "1 llm tasks wait for a:latest" in swarm.state.reason)
    assert "t1" not in swarm.queue.ended
    assert swarm.queue.claim_log == ["s1", "c1"], "scripts before cpu"
    assert (
        "No suitable tasks - Queue: [llm:1], Preferred: ['resource', 'script', 'cpu', 'llm'], Model loaded: False"
        in caplog.text
    )


def test_reasons_are_info_when_they_change_and_debug_each_time(caplog, monkeypatch):
    monkeypatch.setattr("swarm.worker.exchange.IDLE_LOOK_S", 0.01)
    monkeypatch.setattr("swarm.worker.exchange.IDLE_LOOK_SHARE", 1.0)
    swarm = Harness(probe=cold())
    swarm.queue.put(llm("t1"))

    def said(level: int) -> int:
        return sum(r.levelno == level and r.getMessage().startswith("No suitable") for r in caplog.records)

    swarm.until(lambda: said(logging.DEBUG) >= 3)
    before = said(logging.INFO)
    assert before in (1, 2), "once the server was heard of, the reason changed once"
    swarm.queue.put(llm("t2", "b"))
    swarm.until(lambda: said(logging.DEBUG) >= 6)
    assert said(logging.INFO) == before


def test_a_load_makes_a_cold_worker_hot():
    swarm = Harness(probe=cold())
    swarm.queue.put(llm("t1"), load("l1"))
    swarm.until(lambda: "l1" in swarm.queue.ended)
    swarm.probe.reading = holds("a:latest")
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert swarm.queue.claim_log == ["l1", "t1"]
    assert swarm.state.resource_seq == 1
    assert swarm.state.models["a:latest"].loads == 1


def test_a_load_waits_for_running_requests_and_holds_back_new_ones():
    swarm = Harness(slots=2).warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: swarm.work.running == {"t1"})
    swarm.queue.put(load("l1", "b"), llm("t2"))
    swarm.until(lambda: "l1" in swarm.queue.claim_log)
    for _ in range(5):
        swarm.turn()
    assert swarm.work.running == {"t1"}
    assert swarm.state.status is WorkerStatus.LOADING
    assert "waits" in swarm.state.reason
    swarm.probe.reading = holds("b:latest")
    swarm.work.gate.set()
    swarm.until(lambda: "l1" in swarm.queue.ended)
    assert swarm.state.model == "b:latest"
    assert "t2" not in swarm.queue.claim_log


def test_a_vanished_model_makes_the_worker_cold_again(caplog):
    swarm = Harness().warm()
    swarm.probe.reading = ServerReading(usable=True, reason="the server was restarted")
    swarm.worker.server.ask_soon()
    swarm.until(lambda: swarm.state.model is None)
    assert "Model a:latest is no longer loaded: the server was restarted" in caplog.text


def test_faults_are_retried_counted_or_given_up():
    swarm = Harness(retry=RetrySettings(max_attempts=2)).warm()
    swarm.work.fail("t1", TaskFault("transient", "busy", "try later"))
    swarm.work.fail("t2", TaskFault("deterministic", "bad_request", "no"))
    swarm.work.fail("t3", TaskFault("infra", "server_down", "refused"))
    swarm.queue.put(llm("t1"), llm("t2"), llm("t3"))
    swarm.until(lambda: len(swarm.queue.ended) == 3)
    assert {task_id: state for task_id, (state, _) in swarm.queue.ended.items()} == {
        "t1": TaskState.COMPLETED,
        "t2": TaskState.FAILED,
        "t3": TaskState.COMPLETED,
    }
    retried = {task_id: (delay_s, counts) for task_id, delay_s, counts, _ in swarm.queue.retries}
    assert retried == {"t1": (0.5, True), "t3": (0.5, False)}
    trail = swarm.queue.ended["t1"][1]
    assert [(a.attempt, a.outcome, a.fault) for a in trail.attempts] == [(1, "retried", "transient"), (2, "completed", None)]
    error = swarm.queue.ended["t2"][1].error
    assert error is not None
    assert (error.type, error.message, error.retryable) == ("bad_request", "no", False)
    assert swarm.state.tally.retried == 2


def test_a_bug_in_an_executor_is_that_attempts_fault(caplog):
    swarm = Harness().warm()
    swarm.work.fail("t1", ZeroDivisionError("oops"))
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: "t1" in swarm.queue.ended)
    (_, _, counts, attempts) = swarm.queue.retries[0]
    assert counts
    assert attempts[0].error is not None
    assert attempts[0].error.type == "internal"
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


def test_three_server_faults_open_the_circuit_while_scripts_go_on():
    swarm = Harness().warm()
    swarm.work.fail("t1", *[TaskFault("infra", "runner_died", "x")] * 3)
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: len(swarm.queue.retries) == 3)
    swarm.until(lambda: swarm.state.status is WorkerStatus.UNREADY)
    swarm.queue.put(script("s1"))
    swarm.until(lambda: "s1" in swarm.queue.ended)
    assert swarm.queue.pending["llm@a:latest"], "no llm claim while it is open"
    assert "3 server faults in a row" in swarm.state.reason
    swarm.until(lambda: "t1" in swarm.queue.ended, "the trial after the backoff")
    swarm.until(lambda: swarm.state.status is WorkerStatus.IDLE)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (llm("kept"), Trail(result={"id": "kept"}, cached=True)),
        (load("there"), Trail(result={"model": "a:latest", "already_loaded": True, "load_s": 0.0})),
        (load("gone", action="unload_llm"), Trail(result={"model": "a:latest", "was_loaded": False})),
    ],
    ids=["cached", "loaded already", "gone already"],
)
def test_what_the_server_had_no_part_in_does_not_count_as_its_success(task, answer, caplog, monkeypatch):
    monkeypatch.setattr(breaker, "BACKOFF_BASE_S", 0.05)
    swarm = Harness().warm()
    swarm.work.answers[task.task_id] = answer
    swarm.work.fail("t1", *[TaskFault("infra", "runner_died", "x")] * 1000)
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: "Circuit open" in caplog.text)
    swarm.queue.put(task)
    swarm.until(lambda: task.task_id in swarm.queue.ended)
    assert "Circuit closed" not in caplog.text
    swarm.work.faults.clear()
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert "Circuit closed" in caplog.text


def test_a_dead_server_is_noticed_by_the_first_fault_and_heard_when_it_is_back():
    swarm = Harness().warm()
    swarm.probe.reading = ServerReading(usable=False, reason="connection refused")
    looks = swarm.probe.looks
    swarm.work.fail("t1", TaskFault("infra", "server_down", "refused"))
    swarm.queue.put(llm("t1"), llm("t2"))
    swarm.until(lambda: swarm.state.status is WorkerStatus.UNREADY)
    assert swarm.probe.looks > looks
    assert swarm.queue.claim_log == ["t1"], "the second task was not burnt on a dead server"
    swarm.probe.reading = holds("a:latest")
    swarm.until(lambda: {"t1", "t2"} <= set(swarm.queue.ended))


def test_a_hanging_look_does_not_hold_up_the_loop():
    probe = Probe(holds("a:latest"), gate=threading.Event())
    swarm = Harness(probe=probe)
    swarm.queue.put(script("s1"))
    swarm.until(lambda: "s1" in swarm.queue.ended)
    assert swarm.state.status is WorkerStatus.STARTING
    assert probe.gate is not None
    probe.gate.set()
    swarm.until(lambda: swarm.state.model == "a:latest")


def test_an_answer_from_before_the_world_changed_is_dropped():
    probe = Probe(holds("a:latest"), gate=threading.Event())
    swarm = Harness(probe=probe)
    swarm.turn()
    wait_until(lambda: probe.looks == 1)
    watch = swarm.worker.server
    watch.ask_soon()
    swarm.turn()
    wait_until(lambda: probe.looks == 2)
    late, probe.reading = probe.reading, holds("b:latest")
    watch._arrived.put((0, late))
    swarm.turn()
    assert watch.reading is None
    assert probe.gate is not None
    probe.gate.set()
    swarm.until(lambda: swarm.state.model == "b:latest")


def test_only_a_load_that_ended_is_counted():
    swarm = Harness(probe=cold())
    swarm.work.fail("l1", TaskFault("transient", "busy", "later"))
    swarm.queue.put(load("l1"))
    swarm.until(lambda: swarm.queue.retries)
    assert swarm.state.resource_seq == 0, "it will come again under the same id"
    swarm.until(lambda: "l1" in swarm.queue.ended)
    assert swarm.state.resource_seq == 1


def test_a_full_disk_stops_claims_and_keeps_the_result(caplog):
    swarm = Harness(slots=2).warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: swarm.work.running == {"t1"})
    swarm.queue.broken = "No space left on device"
    swarm.queue.put(llm("t2"))
    swarm.work.gate.set()
    swarm.until(lambda: swarm.state.status is WorkerStatus.UNREADY)
    assert "No space left" in swarm.state.reason
    for _ in range(5):
        swarm.turn()
    assert swarm.queue.claim_log == ["t1"]
    assert sum("The disk refuses" in r.getMessage() for r in caplog.records) == 1
    swarm.queue.broken = ""
    swarm.until(lambda: {"t1", "t2"} <= set(swarm.queue.ended))
    assert swarm.queue.ended["t1"][1].result is not None


@pytest.mark.parametrize("resting", ["paused", "draining"])
def test_a_worker_that_rests_holds_nothing_against_the_disk(resting, caplog):
    swarm = Harness().warm()
    swarm.queue.broken = "No space left on device"
    swarm.until(lambda: swarm.worker._exchange.disk.words)
    if resting == "paused":
        swarm.queue.paused = Pauses((Pause("worker", "worker-1"),))
    else:
        swarm.wish.ask()
    swarm.until(lambda: not swarm.worker._exchange.disk.words)
    assert "Nothing is asked of the disk" in caplog.text
    assert swarm.turn() > 0.01, "it does not turn without pause"


def test_a_late_result_changes_nothing(caplog):
    swarm = Harness().warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: swarm.work.running == {"t1"})
    swarm.queue.take_back("t1")
    swarm.work.gate.set()
    swarm.until(lambda: swarm.state.tally.fenced == 1)
    assert not swarm.queue.ended
    assert any(r.levelno == logging.WARNING and "Fenced: task t1" in r.getMessage() for r in caplog.records)


def test_past_its_time_an_attempt_is_cancelled_and_retried():
    swarm = Harness().warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1", timeout_s=0.05, max_attempts=1))
    swarm.until(lambda: "t1" in swarm.queue.ended)
    state, trail = swarm.queue.ended["t1"]
    assert state is TaskState.FAILED
    assert trail.error is not None
    assert trail.error.type == "timeout"


def test_a_running_task_can_be_cancelled():
    swarm = Harness().warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: swarm.work.running == {"t1"})
    swarm.queue.cancel_wanted.add("t1")
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert swarm.queue.ended["t1"][0] is TaskState.CANCELLED


def test_the_first_wish_drains(caplog):
    swarm = Harness(slots=1).warm().start()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"), llm("t2"))
    wait_until(lambda: swarm.work.running == {"t1"})
    swarm.wish.ask()
    wait_until(lambda: swarm.sink.last.status is WorkerStatus.DRAINING)
    swarm.work.gate.set()
    wait_until(lambda: swarm.exit_code == 0)
    assert set(swarm.queue.ended) == {"t1"}
    assert swarm.sink.last.status is WorkerStatus.STOPPED
    for words in ("Worker worker-1 starting main loop", "received shutdown signal", "shutting down - completed 1 tasks"):
        assert words in caplog.text


def test_the_second_wish_gives_back_what_runs_uncounted():
    swarm = Harness(slots=2).warm().start()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"), llm("t2"))
    wait_until(lambda: len(swarm.work.running) == 2)
    assert swarm.stop(times=2) == 0
    assert set(swarm.queue.released) == {"t1", "t2"}
    assert not swarm.queue.ended
    assert not swarm.queue.retries


def test_a_load_that_has_not_begun_is_given_back_at_the_first_wish():
    swarm = Harness().warm().start()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    wait_until(lambda: swarm.work.running == {"t1"})
    swarm.queue.put(load("l1", "b"))
    wait_until(lambda: "l1" in swarm.queue.held)
    swarm.wish.ask()
    wait_until(lambda: swarm.queue.released == ["l1"])
    swarm.work.gate.set()
    wait_until(lambda: swarm.exit_code == 0)


def test_an_unexpected_error_ends_the_process_and_settles_nothing(caplog):
    swarm = Harness().warm()
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1"))
    swarm.until(lambda: swarm.work.running == {"t1"})
    swarm.queue.cancel_requested = lambda claim: 1 / 0
    swarm.start()
    wait_until(lambda: swarm.exit_code == EXIT_CRASHED)
    assert "Worker worker-1 crashed in main loop: ZeroDivisionError" in caplog.text
    assert not swarm.work.running, "the request was stopped"
    assert "t1" in swarm.queue.held, "recovery is for others, under the freed lock"


def test_an_attempt_that_cannot_be_stopped_ends_the_process(monkeypatch, caplog):
    monkeypatch.setattr("swarm.worker.slots.HUNG_AFTER_S", 0.05)
    monkeypatch.setattr("swarm.worker.worker.STOP_LIMIT_S", 0.05)
    swarm = Harness().warm()
    swarm.work.deaf = True
    swarm.work.gate.clear()
    swarm.queue.put(llm("t1", timeout_s=0.05))
    swarm.start()
    wait_until(lambda: swarm.exit_code == EXIT_CRASHED)
    assert "t1 still runs" in caplog.text
    swarm.work.gate.set()


def test_prompts_are_never_logged(caplog):
    swarm = Harness().warm()
    swarm.work.fail("t1", TaskFault("deterministic", "bad_request", "in: SECRET-PROMPT"))
    swarm.queue.put(llm("t1", request={"messages": [{"role": "user", "content": "SECRET-PROMPT"}]}))
    swarm.until(lambda: "t1" in swarm.queue.ended)
    assert "SECRET" not in caplog.text


def test_without_a_server_it_takes_cpu_and_script_work_only():
    work = Work()
    swarm = Harness(cpu_slots=2, executors={TaskClass.CPU: work, TaskClass.SCRIPT: work}, served=False)
    swarm.queue.put(llm("t1"), load("l1"), cpu("c1"))
    swarm.until(lambda: "c1" in swarm.queue.ended)
    assert swarm.queue.claim_log == ["c1"]
    assert swarm.state.status is WorkerStatus.IDLE


def test_an_idle_turn_is_cheap():
    swarm = Harness().warm()
    turns = 500
    began_s = time.thread_time()
    for _ in range(turns):
        swarm.worker.step()
    assert (time.thread_time() - began_s) / turns < 0.001


def test_the_worker_adds_little_to_a_task():
    swarm = Harness(slots=4, log=logging.getLogger("quiet"))
    swarm.log.setLevel(logging.WARNING)
    swarm.warm()
    swarm.queue.put(*(llm(f"t{n}") for n in range(400)))
    began_s = time.process_time()
    swarm.start()
    wait_until(lambda: len(swarm.queue.ended) == 400)
    cost_s = (time.process_time() - began_s) / 400
    assert cost_s < 0.005
    swarm.stop()
