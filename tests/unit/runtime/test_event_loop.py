"""Coroutines on a thread of their own: results, cancels, and an end that waits for nobody."""

from __future__ import annotations

import asyncio
import threading

import pytest

from swarm.core.faults import TaskFault
from swarm.runtime.event_loop import EventLoop
from tests.helpers.simserver import Cancel
from tests.helpers.wait import wait_until


@pytest.fixture
def loop():
    made = EventLoop("test")
    yield made
    made.close()


async def waits_for_ever(entered: threading.Event, left: threading.Event) -> None:
    entered.set()
    try:
        await asyncio.Event().wait()
    finally:
        left.set()


def test_it_gives_what_the_coroutine_returns_or_raises(loop):
    async def answer() -> int:
        return 4

    async def fail() -> None:
        raise TaskFault("infra", "server_down", "gone")

    assert loop.call(answer()) == 4
    with pytest.raises(TaskFault, match="gone"):
        loop.call(fail())


@pytest.mark.parametrize(("reason", "fault"), [("cancelled", "cancelled"), ("timeout", "transient")])
def test_a_cancel_ends_the_coroutine_and_the_wait(loop, reason, fault):
    entered, left, cancel = threading.Event(), threading.Event(), Cancel()
    firing = threading.Thread(target=lambda: entered.wait(30) and cancel.fire(reason))
    firing.start()
    with pytest.raises(TaskFault) as caught:
        loop.call(waits_for_ever(entered, left), cancel)
    assert (caught.value.fault, caught.value.kind) == (fault, reason)
    assert left.wait(30)
    firing.join()


def test_what_was_cancelled_before_does_not_begin(loop):
    cancel = Cancel()
    cancel.fire()
    entered = threading.Event()
    with pytest.raises(TaskFault):
        loop.call(waits_for_ever(entered, threading.Event()), cancel)
    assert not entered.is_set()


def test_closing_cancels_what_runs_and_awaits_the_closers():
    loop, entered, left, closed = EventLoop("test"), threading.Event(), threading.Event(), threading.Event()

    async def closer() -> None:
        assert left.is_set()
        closed.set()

    loop.at_close(closer)
    loop.start(waits_for_ever(entered, left))
    wait_until(entered.is_set, what="the coroutine to run")
    loop.close()
    loop.close()
    assert closed.is_set()
