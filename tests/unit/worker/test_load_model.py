"""Loads and unloads are done when the server shows it; and what a look at the server means."""

from __future__ import annotations

import logging
import time

import pytest

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.faults import TaskFault
from swarm.core.models.model_options import ModelTable
from swarm.core.task import Task
from swarm.worker.attempt import Cancel
from swarm.worker.executors.load_model import UNLOAD_LIMIT_S, ResourceExecutor
from swarm.worker.server_probe import ModelServerProbe, judge
from swarm.worker.tuning.load_slots import LoadSlots
from tests.helpers.blocking import event_loop
from tests.helpers.worker_fakes import FakeServer, claim_of, load, loaded

MODELS = {"a": ModelSettings(options={"num_ctx": 4096}, keep_alive="1h")}


def run(server: FakeServer, task: Task, settings: LlmSettings | None = None, cancel: Cancel | None = None) -> dict:
    executor = ResourceExecutor(server, settings or LlmSettings(), models=MODELS, log=logging.getLogger("worker-1"))
    trail = executor.run(claim_of(task), cancel=cancel or Cancel(), progress=lambda n: None)
    assert trail.result is not None
    return trail.result


def fault(server: FakeServer, task: Task, settings: LlmSettings | None = None) -> TaskFault:
    with pytest.raises(TaskFault) as caught:
        run(server, task, settings)
    return caught.value


def test_others_go_first_and_the_model_comes_with_its_options():
    server = FakeServer(held=[loaded("b:latest")])
    result = run(server, load("l1", "a"))
    assert [call[:2] for call in server.calls] == [("unload", "b:latest"), ("load", "a:latest")]
    how = server.calls[1][2]
    assert (how["options"], how["keep_alive"], how["embedding"]) == ({"num_ctx": 4096}, "1h", False)
    assert [m.name for m in server.ps(1)] == ["a:latest"]
    assert (result["model"], result["digest"], result["size_mib"]) == ("a:latest", "d1", 1000)
    assert result["load_s"] > 0


def test_what_is_loaded_already_is_left_alone():
    server = FakeServer(held=[loaded("a:latest")])
    assert run(server, load("l1", "A"))["already_loaded"]
    assert server.calls == []


def test_a_foreign_context_is_loaded_anew():
    server = FakeServer(held=[loaded("a:latest", context_length=32768)])
    assert "already_loaded" not in run(server, load("l1", "a"))
    assert [call[0] for call in server.calls] == ["unload", "load"]


def test_embedding_models_are_loaded_by_their_own_endpoint():
    server = FakeServer()
    run(server, load("l1", "embed"))
    assert server.calls[0][2]["embedding"]


def test_a_missing_model_does_not_cost_the_loaded_one():
    server = FakeServer(held=[loaded("b:latest")])
    assert fault(server, load("l1", "nope")).kind == "model_missing"
    assert server.calls == []


@pytest.mark.parametrize(
    ("policy", "disk_mib", "fits"), [("refuse", 2000, False), ("refuse", 1200, True), ("allow", 2000, True)]
)
def test_a_file_that_is_too_big_does_not_cost_the_loaded_one(policy, disk_mib, fits):
    server = FakeServer(held=[loaded("b:latest")])
    sizes = {"memory_mib": 1000, "disk_mib": lambda model: disk_mib if model == "a:latest" else 0}
    executor = ResourceExecutor(
        server, LlmSettings(on_cpu_spill=policy), models=MODELS, log=logging.getLogger("worker-1"), **sizes
    )
    task = claim_of(load("l1", "a"))
    if fits:
        executor.run(task, cancel=Cancel(), progress=lambda n: None)
        return
    with pytest.raises(TaskFault, match="its file alone has 2000 MiB, the card 1000 MiB") as refused:
        executor.run(task, cancel=Cancel(), progress=lambda n: None)
    assert refused.value.result == {"no_room": True, "size_mib": 2000}
    assert server.calls == []


def test_spill_is_refused_with_the_numbers_and_undone():
    server = FakeServer(vram_mib=600)
    refused = fault(server, load("l1", "a"))
    assert (refused.fault, refused.kind) == ("deterministic", "cpu_spill")
    assert "size 1000 MiB, on GPU 600 MiB" in refused.message
    assert list(server.ps(1)) == []
    numbers = (refused.result["no_room"], refused.result["size_mib"], refused.result["size_vram_mib"])
    assert numbers == (True, 1000, 600)


def test_a_server_without_a_card_is_told_from_one_that_is_too_small():
    refused = fault(FakeServer(vram_mib=0), load("l1", "a"))
    assert refused.kind == "cpu_spill"
    assert "wholly on the CPU" in refused.message
    assert "no_room" not in refused.result, "its size was not to blame"
    assert 'llm.on_cpu_spill = "allow"' in refused.message


class Refuted:
    """A proof that fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def before(self) -> tuple[str, ...]:
        return ("cards as they were",)

    def check(self, *asked: object) -> None:
        self.asked.append(asked)
        raise TaskFault("deterministic", "pin_refuted", "it is on another card")


def test_a_model_on_another_workers_card_is_unloaded_at_once():
    server, pin = FakeServer(), Refuted()
    executor = ResourceExecutor(server, LlmSettings(), models=MODELS, log=logging.getLogger("worker-1"), pin=pin)
    with pytest.raises(TaskFault, match="another card"):
        executor.run(claim_of(load("l1", "a")), cancel=Cancel(), progress=lambda n: None)
    assert pin.asked == [("a:latest", ("cards as they were",), 1000)]
    assert list(server.ps(1)) == []


def test_a_model_that_will_not_go_is_passed_on_to_the_repairs(monkeypatch):
    monkeypatch.setattr("swarm.worker.executors.load_model.UNLOAD_LIMIT_S", 0.05)
    server, told = FakeServer(held=[loaded("b:latest")], stuck=True), []
    log = logging.getLogger("worker-1")
    executor = ResourceExecutor(server, LlmSettings(), models=MODELS, log=log, on_stuck=lambda *what: told.append(what))
    began_s = time.monotonic()
    with pytest.raises(TaskFault, match="still loaded"):
        executor.run(claim_of(load("l1", "a")), cancel=Cancel(), progress=lambda n: None)
    ((model, at_s),) = told
    assert model == "b:latest"
    assert began_s <= at_s <= time.monotonic()


def test_spill_may_be_warned_about_or_allowed(caplog):
    assert run(FakeServer(vram_mib=600), load("l1", "a"), LlmSettings(on_cpu_spill="warn"))["size_vram_mib"] == 600
    assert "size 1000 MiB, on GPU 600 MiB" in caplog.text
    caplog.clear()
    run(FakeServer(vram_mib=600), load("l1", "a"), LlmSettings(on_cpu_spill="allow"))
    assert "on GPU" not in caplog.text


def test_no_room_fails_the_load_at_once():
    server = FakeServer(load_fault=TaskFault("infra", "out_of_memory", "cudaMalloc failed"))
    failed = fault(server, load("l1", "a"))
    assert (failed.fault, failed.result) == ("deterministic", {"no_room": True})


def test_a_load_that_never_shows_is_no_success(monkeypatch):
    monkeypatch.setattr("swarm.worker.executors.load_model.SHOWN_WITHIN_S", 0.05)
    assert fault(FakeServer(lag_looks=10_000), load("l1", "a")).kind == "load_unproven"


def test_a_runner_that_will_not_go_is_named(monkeypatch):
    monkeypatch.setattr("swarm.worker.executors.load_model.UNLOAD_LIMIT_S", 0.05)
    server = FakeServer(held=[loaded("b:latest")], stuck=True)
    stuck = fault(server, load("l1", "a"))
    assert (stuck.fault, stuck.kind) == ("infra", "unload_stuck")


def test_unload_is_done_when_it_is_gone():
    server = FakeServer(held=[loaded("a:latest")])
    assert run(server, load("u1", "a", action="unload_llm"))["was_loaded"]
    assert list(server.ps(1)) == []
    assert not run(server, load("u2", "a", action="unload_llm"))["was_loaded"]


def test_a_cancel_ends_the_wait():
    server = FakeServer(held=[loaded("b:latest")], stuck=True)
    cancel = Cancel()
    cancel.cancel("stopping")
    began_s = time.monotonic()
    with pytest.raises(TaskFault) as caught:
        run(server, load("l1", "a"), cancel=cancel)
    assert caught.value.fault == "cancelled"
    assert time.monotonic() - began_s < UNLOAD_LIMIT_S / 2


@pytest.mark.parametrize(
    ("held", "policy", "model", "words"),
    [
        ([], "refuse", None, ""),
        ([loaded("a:latest")], "refuse", "a:latest", ""),
        ([loaded("b:latest", size_vram_mib=10), loaded("a:latest")], "refuse", "a:latest", ""),
        ([loaded("b:latest", size_vram_mib=10)], "refuse", None, "size 1000 MiB, on GPU 10 MiB"),
        ([loaded("b:latest", size_vram_mib=10)], "warn", "b:latest", ""),
        ([loaded("a:latest", context_length=9999)], "refuse", None, "num_ctx 9999, configured is 4096"),
        ([loaded("a:latest", context_length=9999, context_fixed=True)], "refuse", "a:latest", ""),
    ],
)
def test_what_counts_as_loaded(held, policy, model, words):
    reading = judge(held, ModelTable(MODELS), on_cpu_spill=policy)
    assert reading.usable
    assert reading.model == model
    assert words in reading.reason


def test_a_server_that_does_not_answer_is_a_reading():
    server = FakeServer()

    def refuse(timeout_s: float) -> list[object]:
        raise TaskFault("infra", "server_down", "connection refused")

    server.ps = refuse  # type: ignore[method-assign]
    reading = ModelServerProbe(server, event_loop(), lambda *_: False, models=MODELS, on_cpu_spill="refuse").look()
    assert (reading.usable, reading.reason) == (False, "connection refused")


class Memory:
    """What is remembered, in memory."""

    def __init__(self, *records):
        self.records = list(records)

    def keep(self, record):
        self.records = [one for one in self.records if (one.model, one.length) != (record.model, record.length)] + [record]


class SlottedServer(FakeServer):
    """A card with room for so many slots beside the weights; more spill."""

    room = 6

    def load(self, order, **how):
        super().load(order, **how)
        if order.slots > self.room:
            self.held[-1] = loaded(self.held[-1].name, size_vram_mib=900)

    @property
    def tried(self):
        return [call[2]["slots"] for call in self.calls if call[0] == "load"]


AUTO = LlmSettings(slots="auto")


def load_slots(memory, settings=AUTO, **known):
    return LoadSlots(settings, models=MODELS, memory=memory, card="GPU-1", **known)


def loaded_with(server, slots, policy="refuse", model="a"):
    executor = ResourceExecutor(
        server, LlmSettings(on_cpu_spill=policy), models=MODELS, log=logging.getLogger("worker-1"), slots=slots
    )
    return executor.run(claim_of(load("l1", model)), cancel=Cancel(), progress=lambda n: None).result


ROOMY = {"free_mib": lambda: 24_000, "weights_mib": lambda model: 1000}


@pytest.mark.parametrize("policy", ["refuse", "warn"])
def test_a_load_without_room_is_tried_for_half_as_many_and_never_again_for_as_many(policy, caplog):
    server, memory = SlottedServer(), Memory()
    slots = load_slots(memory, **ROOMY)
    server.details = {"kv_bytes_per_token": 1 << 16, "context_length": 4096}
    result = loaded_with(server, slots, policy)
    assert server.tried == [16, 8, 4]
    assert (result["slots"], result["slots_why"]) == (4, "8 found no memory")
    assert "does not fit for 16 requests at once: loading it for 8" in caplog.text
    server = SlottedServer()
    server.details = {"kv_bytes_per_token": 1 << 16, "context_length": 4096}
    assert loaded_with(server, load_slots(memory, **ROOMY), policy)["slots"] == 6
    assert server.tried == [6]


def test_one_slot_that_finds_no_room_fails_as_ever():
    server, memory = SlottedServer(), Memory()
    server.room = 0
    server.details = {"kv_bytes_per_token": 1 << 16, "context_length": 4096}
    with pytest.raises(TaskFault, match="does not fit on the card") as refused:
        loaded_with(server, load_slots(memory, **ROOMY))
    assert refused.value.kind == "cpu_spill"
    assert server.tried == [16, 8, 4, 2, 1]
    assert list(server.ps(1)) == []


def test_a_number_that_is_set_is_obeyed_and_not_halved():
    server = SlottedServer()
    with pytest.raises(TaskFault):
        loaded_with(server, load_slots(Memory(), LlmSettings(slots=8), **ROOMY))
    assert server.tried == [8]
    server.room = 8
    assert loaded_with(server, load_slots(Memory(), LlmSettings(slots=8)))["slots"] == 8


def test_what_ollama_forces_to_one_slot_is_loaded_for_one_and_says_why():
    server = SlottedServer()
    result = loaded_with(server, load_slots(Memory(), **ROOMY), model="embed")
    assert (server.tried, result["slots"]) == ([0], 1), "no server is started again for what it takes anyway"
    assert "embedding models" in result["slots_why"]


def test_a_reload_for_more_replaces_the_model_that_is_there():
    server, memory = SlottedServer(), Memory()
    server.details = {"kv_bytes_per_token": 1 << 16, "context_length": 4096}
    server.room = 64
    slots = load_slots(memory, **ROOMY)
    assert loaded_with(server, slots)["slots"] == 16
    assert loaded_with(server, slots)["already_loaded"]
    assert slots.climb("a:latest", 32, loaded=16) == 32
    assert loaded_with(server, slots)["slots"] == 32
    assert loaded_with(server, slots)["already_loaded"]
    assert server.tried == [16, 32]


def test_a_climb_without_memory_goes_back_to_what_it_was_loaded_for():
    server, memory = SlottedServer(), Memory()
    server.details = {"kv_bytes_per_token": 1 << 16, "context_length": 4096}
    server.room = 16
    slots = load_slots(memory, **ROOMY)
    assert loaded_with(server, slots)["slots"] == 16
    assert slots.climb("a:latest", 24, loaded=16) == 24
    assert loaded_with(server, slots)["slots"] == 16
    assert server.tried == [16, 24, 16]


def test_of_a_server_that_swarm_does_not_start_nothing_is_asked():
    server = SlottedServer()
    assert loaded_with(server, load_slots(Memory(), chosen=False))["slots"] == 0
    assert server.tried == [0]
