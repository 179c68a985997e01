"""From settings and cards to workers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import (
    EngineSettings,
    LlmSettings,
    ModelSettings,
    OllamaSettings,
    RaySettings,
    Settings,
    WorkerSpec,
)
from swarm.core.gpu_reading import GpuReading
from swarm.core.placement.worker_plan import plan_workers
from swarm.errors import ConfigError

CARDS = tuple(GpuReading(index=i, uuid=f"GPU-{i}", name="T", memory_total_mib=1000 * (i + 1)) for i in range(4))


def plan(*specs, cards=CARDS, simulate=None, base_port=11435):
    settings = Settings(workers=specs, ollama=OllamaSettings(base_port=base_port))
    return plan_workers(settings, cards, simulate=simulate)


def test_without_a_word_each_card_gets_a_worker_and_a_server():
    plans = plan()
    assert [(p.name, p.gpus, p.gpu_uuids, p.port, p.url) for p in plans] == [
        (f"worker-{i + 1}", (i,), (f"GPU-{i}",), 11435 + i, f"http://127.0.0.1:{11435 + i}") for i in range(4)
    ]
    assert all(p.owns_server and not p.adopted and not p.simulated for p in plans)


def test_simulated_cards_stand_in_for_real_ones():
    plans = plan(simulate=2)
    assert [p.gpu_uuids for p in plans] == [("SIM-GPU-0",), ("SIM-GPU-1",)]
    assert all(p.simulated and p.vram_mib == 24576 for p in plans)


def test_workers_as_written():
    big, cpu, cpu_server, other = plan(
        WorkerSpec(name="big", gpus=(2, 3)),
        WorkerSpec(name="cpu"),
        WorkerSpec(name="cpu-llm", port=20000),
        WorkerSpec(name="other", ollama_url="http://10.0.0.5:11434/"),
    )
    assert (big.gpu_uuids, big.vram_mib, big.port) == (("GPU-2", "GPU-3"), 7000, 11435)
    assert (cpu.url, cpu.port, cpu.owns_server) == (None, None, False)
    assert (cpu_server.url, cpu_server.owns_server) == ("http://127.0.0.1:20000", True)
    assert (other.url, other.adopted, other.owns_server, other.port) == ("http://10.0.0.5:11434", True, False, None)


def test_an_adopted_server_stays_real_beside_simulated_ones():
    plans = plan(WorkerSpec(name="a", gpus=(0,)), WorkerSpec(name="b", ollama_url="http://h:1"), simulate=1)
    assert [p.simulated for p in plans] == [True, False]


def test_automatic_ports_go_round_those_given():
    plans = plan(
        WorkerSpec(name="a", gpus=(0,)), WorkerSpec(name="b", gpus=(1,), port=11435), WorkerSpec(name="c", gpus=(2,))
    )
    assert [p.port for p in plans] == [11436, 11435, 11437]


def test_a_lost_card_keeps_its_name_and_says_why():
    cards = (CARDS[0], GpuReading(index=1, uuid="", name="T", fault="GPU is lost"), CARDS[2])
    plans = plan(cards=cards)
    assert [p.name for p in plans] == ["worker-1", "worker-2", "worker-3"]
    assert [p.fault for p in plans] == [None, "card 1: GPU is lost", None]


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ((WorkerSpec(name="a", gpus=(7,)),), r"no GPU 7 \(there are: 0, 1, 2, 3\)"),
        ((WorkerSpec(name="a", gpus=(0,)), WorkerSpec(name="a", gpus=(1,))), "'a' is given twice"),
        ((WorkerSpec(name="a", gpus=(0,)), WorkerSpec(name="b", gpus=(0,))), "GPU 0 is given to both a and b"),
        ((WorkerSpec(name="a", port=9), WorkerSpec(name="b", port=9)), "port 9 is given to both a and b"),
        (
            (WorkerSpec(name="a", ollama_url="http://h"), WorkerSpec(name="b", ollama_url="http://h/")),
            "given to both a and b",
        ),
        ((WorkerSpec(name="a", port=9, ollama_url="http://h"),), "either port .* or ollama_url"),
        ((WorkerSpec(name="a", ollama_url="localhost:11434"),), "no http URL"),
        ((WorkerSpec(name="brain", gpus=(0,)),), "swarm's own"),
    ],
)
def test_contradictions_are_named(specs, words):
    with pytest.raises(ConfigError, match=words):
        plan(*specs)


def test_no_card_at_all_says_what_to_do():
    with pytest.raises(ConfigError, match="no GPU") as caught:
        plan(cards=())
    assert "--simulate 4" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="at least one"):
        plan(simulate=0)


def test_running_out_of_ports():
    with pytest.raises(ConfigError, match="too few ports"):
        plan(base_port=65534)


@given(cards=st.integers(1, 16), given_ports=st.sets(st.integers(11430, 11450), max_size=8))
def test_no_two_servers_share_a_port_or_card(cards, given_ports):
    readings = tuple(GpuReading(index=i, uuid=f"GPU-{i}", name="T") for i in range(cards))
    ports = [*sorted(given_ports), *[None] * cards][:cards]
    plans = plan(*(WorkerSpec(name=f"w{i}", gpus=(i,), port=ports[i]) for i in range(cards)), cards=readings)
    assert len({p.port for p in plans}) == len({p.gpu_uuids for p in plans}) == len({p.url for p in plans}) == cards


# -- engines -------------------------------------------------------------------------------------------------------------

LAB = {"lab": EngineSettings(url="http://h:8000/v1/")}


def test_a_worker_of_another_engine_has_no_server_that_the_supervisor_keeps():
    settings = Settings(llm=LlmSettings(engine="llama-server"))
    plans = plan_workers(settings, CARDS, simulate=None)
    assert [(p.engines, p.port, p.model_port, p.owns_server, p.ollama_url) for p in plans][:2] == [
        (("llama-server",), 11435, 11435, False, None),
        (("llama-server",), 11436, 11436, False, None),
    ]
    assert all(p.url == f"http://127.0.0.1:{p.port}" for p in plans)


def test_models_with_an_engine_of_their_own_get_a_port_beside_ollamas():
    settings = Settings(models={"a": ModelSettings(engine="llama-server"), "b": ModelSettings(engine="lab")}, engines=LAB)
    (one,) = plan_workers(settings, CARDS[:1], simulate=None)
    assert (one.engines, one.port, one.model_port, one.owns_server) == (("ollama", "llama-server"), 11435, 11436, True)


def test_a_worker_that_names_an_engine_needs_no_card():
    (one,) = plan(WorkerSpec(name="cpu", engine="llama-server"))
    assert (one.port, one.model_port, one.gpus) == (11435, 11435, ())


def test_a_running_server_is_one_worker_wherever_its_cards_are():
    settings = Settings(llm=LlmSettings(engine="lab"), engines=LAB)
    (one,) = plan_workers(settings, CARDS, simulate=None)
    assert (one.name, one.url, one.adopted, one.port, one.model_port) == ("worker-1", "http://h:8000", True, None, None)
    two = (WorkerSpec(name="a", engine="lab"), WorkerSpec(name="b", engine="lab"))
    with pytest.raises(ConfigError, match="http://h:8000 is given to both a and b"):
        plan_workers(Settings(engines=LAB, workers=two), CARDS, simulate=None)


def test_who_has_a_running_ollama_serves_its_models_only():
    settings = Settings(models={"a": ModelSettings(engine="llama-server")})
    specs = (WorkerSpec(name="x", ollama_url="http://h:1"),)
    (one,) = plan_workers(msgspec.structs.replace(settings, workers=specs), CARDS, simulate=None)
    assert (one.engines, one.adopted, one.model_port) == (("ollama",), True, None)


def test_with_ray_no_card_is_taken_here_unless_a_worker_names_it():
    settings = Settings(ray=RaySettings(address="auto"))
    assert plan_workers(settings, CARDS, simulate=None) == plan_workers(settings, (), simulate=2) == ()
    named = msgspec.structs.replace(settings, workers=(WorkerSpec(name="here", gpus=(0,)),))
    assert [plan.name for plan in plan_workers(named, CARDS, simulate=None)] == ["here"]
