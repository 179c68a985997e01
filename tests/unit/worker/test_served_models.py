"""What a worker's parts are told of its cards."""

from __future__ import annotations

import logging

import pytest

from swarm.config.settings import LlmSettings, QueueSettings, Settings
from swarm.core.faults import TaskFault
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.task import TaskClass
from swarm.queue.layout import Layout
from swarm.runtime.bootstrap import RunOptions
from swarm.worker.attempt import Cancel
from swarm.worker.parts import WorkerParts
from swarm.worker.server_probe import ModelServerProbe
from swarm.worker.server_wiring import with_model_server
from tests.helpers.blocking import event_loop
from tests.helpers.worker_fakes import FakeServer, claim_of, load, loaded


def parts(tmp_path, server, **plan):
    settings = Settings(queue=QueueSettings(root=str(tmp_path)), llm=LlmSettings(on_cpu_spill="refuse"))
    plan = WorkerPlan(name="worker-1", url="http://127.0.0.1:1", **plan)
    options = RunOptions(settings=settings)
    log = logging.getLogger("worker-1")
    plain = WorkerParts(queue=None, wake=None, executors={}, beats=None, jitter=None, log=log, settings=settings)
    return with_model_server(plain, Layout(str(tmp_path)), options, plan, server, event_loop())


def test_a_worker_without_cards_may_use_the_cpu_and_says_so_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    server = FakeServer(vram_mib=0)
    served = parts(tmp_path, server)
    served.executors[TaskClass.RESOURCE].run(claim_of(load("l1", "a")), cancel=Cancel(), progress=lambda n: None)
    assert served.probe.look().model == "a:latest"
    assert len([r for r in caplog.records if "no card" in r.getMessage()]) == 1


@pytest.mark.parametrize("plan", [{"gpus": (0,), "gpu_uuids": ("SIM-GPU-0",)}, {}])
def test_a_simulated_worker_or_one_with_a_card_may_not(tmp_path, plan):
    served = parts(tmp_path, FakeServer(vram_mib=0), simulated=True, **plan)
    with pytest.raises(TaskFault, match="on the CPU"):
        served.executors[TaskClass.RESOURCE].run(claim_of(load("l1", "a")), cancel=Cancel(), progress=lambda n: None)
    held = parts(tmp_path, FakeServer(held=[loaded("a:latest", size_vram_mib=0)]), simulated=True, **plan)
    assert held.probe.look().model is None


def test_a_look_tells_what_the_server_could_load_and_survives_a_list_that_fails():
    def fails():
        raise TaskFault("infra", "timeout", "no answer")

    def look(list_servable):
        probe = ModelServerProbe(
            FakeServer(), event_loop(), lambda *_: False, models={}, on_cpu_spill="refuse", list_servable=list_servable
        )
        return probe.look()

    assert look(lambda: ("a:latest",)).servable == ("a:latest",)
    assert (look(fails).usable, look(fails).servable) == (True, ())
