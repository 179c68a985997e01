"""Which classes have a free slot, and what must not run beside what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import LlmSettings, WorkerSettings
from swarm.core.policy.slots import Held, Occupancy, SlotLimits, free_classes, may_start, slot_limits
from swarm.core.task import TaskClass
from tests.helpers.worker_fakes import cpu, llm, load, script

LLM, CPU, SCRIPT, RESOURCE = TaskClass.LLM, TaskClass.CPU, TaskClass.SCRIPT, TaskClass.RESOURCE
LIMITS = SlotLimits(llm=2, cpu=1, script=1, resource=1, total=4)


@pytest.mark.parametrize(
    ("running", "server_open", "expected"),
    [
        ([], True, {LLM, CPU, SCRIPT, RESOURCE}),
        ([], False, {CPU, SCRIPT}),
        ([llm("1")], True, {LLM, CPU, SCRIPT, RESOURCE}),
        ([llm("1"), llm("2")], True, {CPU, SCRIPT, RESOURCE}),
        ([load("1")], True, {CPU, SCRIPT}),
        ([llm("1"), load("2")], True, {CPU, SCRIPT}),
        ([script("1"), cpu("2")], True, {LLM, RESOURCE}),
        ([llm("1"), llm("2"), cpu("3"), script("4")], True, {RESOURCE}),
    ],
)
def test_free_classes(running, server_open, expected):
    assert set(free_classes(LIMITS, Occupancy(map(Held, running)), server_open=server_open)) == expected


@pytest.mark.parametrize(
    ("task", "running", "expected"),
    [
        (load("l", "a"), [], True),
        (load("l", "a"), [llm("1", "b")], False),
        (load("l", "a"), [llm("1", "A:latest")], True),
        (load("l", "a"), [llm("1", "a"), llm("2", "b")], False),
        (load("l", "a"), [script("1")], True),
        (load("u", "a", action="unload_llm"), [llm("1", "a")], False),
        (load("u", "a", action="unload_llm"), [cpu("1")], True),
        (llm("1"), [llm("2")], True),
    ],
)
def test_a_load_waits_for_requests_to_other_models(task, running, expected):
    assert may_start(Held(task), Occupancy(map(Held, running))) is expected


ALONE, WAITING, JUDGED = Held(llm("a"), alone=True), Held(llm("w"), begun=False), Held(llm("j"), judged=True)


@pytest.mark.parametrize(
    ("one", "others", "expected"),
    [
        (ALONE, [], True),
        (ALONE, [Held(llm("1"))], False),
        (ALONE, [WAITING], True),
        (ALONE, [JUDGED], False),
        (ALONE, [Held(load("l", "a"))], False),
        (ALONE, [Held(load("l", "b"), begun=False)], True),
        (ALONE, [Held(script("1")), Held(cpu("1"))], True),
        (Held(llm("1")), [ALONE], False),
        (Held(llm("1")), [ALONE._replace(begun=False)], True),
        (Held(llm("1")), [ALONE._replace(judged=True)], True),
        (Held(load("l", "b")), [JUDGED], False),
    ],
)
def test_what_runs_alone_waits_for_requests_and_keeps_them_out(one, others, expected):
    assert may_start(one, Occupancy(others)) is expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([ALONE], {CPU, SCRIPT}),
        ([ALONE._replace(begun=False), Held(llm("1"))], {CPU, SCRIPT}),
        ([ALONE._replace(judged=True)], {LLM, CPU, SCRIPT, RESOURCE}),
        ([JUDGED, Held(llm("1"))], {LLM, CPU, SCRIPT, RESOURCE}),
        ([JUDGED, Held(llm("1")), Held(llm("2"))], {CPU, SCRIPT, RESOURCE}),
        ([JUDGED, JUDGED, Held(llm("1")), Held(cpu("2"))], {LLM, SCRIPT, RESOURCE}),
        ([JUDGED, JUDGED, JUDGED, Held(llm("1")), Held(cpu("2"))], {SCRIPT, RESOURCE}),
        ([JUDGED, JUDGED, JUDGED, Held(llm("1")), Held(cpu("2")), Held(script("3"))], {RESOURCE}),
    ],
)
def test_no_request_is_claimed_beside_one_that_runs_alone_and_one_that_is_judged_has_no_slot(held, expected):
    assert set(free_classes(LIMITS, Occupancy(held), server_open=True)) == expected


def test_more_llm_slots_than_the_total_raise_it():
    assert slot_limits(WorkerSettings(max_tasks_per_worker=5), LlmSettings(slots=8)).total == 8
    assert slot_limits(WorkerSettings(max_tasks_per_worker=5, cpu_slots=2), LlmSettings(slots=4)).total == 5


def test_packed_requests_need_not_start_one_after_the_other():
    silent = Occupancy([Held(llm("1"), answering=False)])
    assert not may_start(Held(llm("2")), silent, careful=True)
    assert may_start(Held(llm("2"), packed=True), silent, careful=True)


@pytest.mark.parametrize(
    ("packed", "plain", "free"), [(0, 1, True), (0, 2, False), (15, 1, True), (16, 1, False), (31, 0, True), (32, 0, False)]
)
def test_packed_requests_share_a_slot(packed, plain, free):
    limits = SlotLimits(llm=2, total=4, pack=16)
    held = Occupancy([Held(llm("p"), packed=True)] * packed + [Held(llm("1"))] * plain)
    assert (LLM in free_classes(limits, held, server_open=True)) is free
    assert CPU in free_classes(limits, held, server_open=True), "what is packed takes up no slot of others"


tasks = st.sampled_from([llm("x"), cpu("x"), script("x"), load("x")])


@given(st.lists(tasks, max_size=30), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_never_over_capacity(offers, slots, total, server_open):
    limits = SlotLimits(llm=slots, cpu=2, total=max(total, slots))
    running = []
    for offer in offers:
        if offer.task_class in free_classes(limits, Occupancy(map(Held, running)), server_open=server_open):
            running.append(offer)
    assert sum(one.task_class is not RESOURCE for one in running) <= limits.total
    for task_class in TaskClass:
        assert sum(task.task_class is task_class for task in running) <= limits.of(task_class)
