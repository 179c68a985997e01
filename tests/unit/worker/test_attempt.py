"""One attempt: its token, its deadline, and what a fault means once it was cancelled."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from swarm.core.faults import TaskFault
from swarm.core.task import Trail
from swarm.runtime.loop import StopWish, handling, install
from swarm.worker.attempt import Cancel, Released, Run, ThreadPool
from tests.helpers.wait import wait_until
from tests.helpers.worker_fakes import claim_of, llm


class Raises:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def run(self, claim, *, cancel, progress):
        progress(2)
        if self.error is not None:
            raise self.error
        return Trail(result={})


def make() -> Run:
    run = Run(claim_of(llm("t1")), limit_s=10)
    run.begin()
    return run


@pytest.mark.parametrize(
    ("reason", "expected"),
    [(None, "infra"), ("timeout", "transient"), ("cancelled", "cancelled"), ("stopping", "released")],
)
def test_a_cancel_explains_the_fault_it_caused(reason, expected):
    run = make()
    if reason:
        run.stop(reason)
    run.perform(Raises(TaskFault("infra", "cut", "connection reset")))
    assert run.verdict == expected
    assert run.progress == 2


def test_a_result_that_is_there_wins_over_a_cancel():
    run = make()
    run.stop("cancelled")
    run.perform(Raises(None))
    assert run.verdict == "completed"


def test_one_that_has_not_begun_ends_when_stopped():
    run = Run(claim_of(llm("t1")), limit_s=10)
    run.stop("stopping")
    assert isinstance(run.ending, Released)
    assert run.overdue_in_s == float("inf")


def test_callbacks_run_once_and_at_once_when_late(caplog):
    cancel = Cancel()
    called: list[str] = []
    cancel.on_cancel(lambda: 1 / 0)
    cancel.on_cancel(lambda: called.append("early"))
    assert cancel.cancel("timeout")
    assert not cancel.cancel("stopping")
    cancel.on_cancel(lambda: called.append("late"))
    assert called == ["early", "late"]
    assert cancel.reason == "timeout"
    assert "a cancel callback failed" in caplog.text


def test_threads_are_kept():
    pool = ThreadPool(2, "slot", lambda: None)
    seen: list[str] = []
    for n in range(1, 21):
        pool.submit(lambda: seen.append(threading.current_thread().name))
        wait_until(lambda n=n: len(seen) == n)
    assert set(seen) <= {"slot-1", "slot-2"}


def test_a_signal_is_a_wish_and_a_wake():
    woken: list[int] = []
    wish = StopWish(lambda: woken.append(1))
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    install(wish)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: wish.urgency == 2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert woken == [1, 1]


def test_a_terminal_that_closes_is_one_wish_though_its_shell_passes_the_signal_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    wish, heard = StopWish(lambda: None), []
    others = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        with handling(lambda number, _frame: heard.append(number)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: signal.SIGTERM in heard)
        install(wish)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: wish.urgency >= 2)
    finally:
        for number, handler in {signal.SIGHUP: before, **others}.items():
            signal.signal(number, handler)
    assert (heard.count(signal.SIGHUP), wish.urgency) == (1, 2)
