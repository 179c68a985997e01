"""The environment a pinned server is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.config.settings import LlmSettings, ModelSettings, OllamaSettings, Settings, WorkerSpec
from swarm.core.gpu_reading import GpuReading
from swarm.core.placement.worker_plan import plan_workers
from swarm.engines.ollama.server_spec import env_warnings, server_spec
from swarm.errors import ConfigError

CARDS = tuple(GpuReading(index=i, uuid=f"GPU-{i}", name="T") for i in range(3))
ROOT = Path("/q")


def specs(settings, base_env=None):
    plans = plan_workers(settings, CARDS, simulate=None)
    return [server_spec(p, settings, root=ROOT, base_env=base_env or {"HOME": "/h", "PATH": "/bin"}) for p in plans]


def test_every_variable_the_pin_needs():
    first, second, _ = specs(Settings(llm=LlmSettings(slots=4)))
    assert first.env == {
        "HOME": "/h",
        "PATH": "/bin",
        "OLLAMA_HOST": "127.0.0.1:11435",
        "CUDA_VISIBLE_DEVICES": "GPU-0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OLLAMA_VULKAN": "0",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NO_CLOUD": "1",
    }
    assert first.markers == {"SWARM_SERVER": "worker-1", "SWARM_ROOT": "/q"}
    assert first.argv == ("ollama", "serve")
    assert (second.env["OLLAMA_HOST"], second.env["CUDA_VISIBLE_DEVICES"]) == ("127.0.0.1:11436", "GPU-1")
    assert first.fingerprint != second.fingerprint


def test_the_fingerprint_follows_what_matters_only():
    (a, *_), (b, *_) = specs(Settings()), specs(Settings(), {"HOME": "/h", "TERM": "x"})
    assert a.fingerprint == b.fingerprint
    assert a.fingerprint != specs(Settings(llm=LlmSettings(slots=2)))[0].fingerprint


def test_a_number_of_slots_that_loads_choose_is_no_part_of_what_the_server_is():
    auto = specs(Settings(llm=LlmSettings(slots="auto")))[0]
    assert "OLLAMA_NUM_PARALLEL" not in auto.env
    assert (auto.slots, auto.parallel_path) == (0, "/q/workers/worker-1.parallel.json")
    assert specs(Settings(llm=LlmSettings(slots=4)))[0].slots == 4
    by_hand = Settings(llm=LlmSettings(slots="auto"), ollama=OllamaSettings(env={"OLLAMA_NUM_PARALLEL": "6"}))
    assert specs(by_hand)[0].slots == 6


def test_the_callers_shell_does_not_leak_in():
    leaks = {
        "OLLAMA_ORIGINS": "*",
        "OLLAMA_HOST": "0.0.0.0",
        "CUDA_VISIBLE_DEVICES": "7",
        "SWARM_PROCESS": "x",
        "OLLAMA_MODELS": "/m",
    }
    env = specs(Settings(), leaks)[0].env
    assert "OLLAMA_ORIGINS" not in env
    assert "SWARM_PROCESS" not in env
    assert (env["OLLAMA_HOST"], env["CUDA_VISIBLE_DEVICES"], env["OLLAMA_MODELS"]) == ("127.0.0.1:11435", "GPU-0", "/m")
    assert env["HOME"]


def test_the_configuration_has_the_last_word_but_for_the_address():
    ours = {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_VULKAN": "1", "OLLAMA_HOST": "0.0.0.0:1", "SWARM_SERVER": "x"}
    settings = Settings(ollama=OllamaSettings(env=ours))
    spec = specs(settings)[0]
    assert (spec.env["OLLAMA_FLASH_ATTENTION"], spec.env["OLLAMA_VULKAN"]) == ("1", "1")
    assert spec.env["OLLAMA_HOST"] == "127.0.0.1:11435"
    assert "SWARM_SERVER" not in spec.env
    assert [line.split()[2] for line in env_warnings(settings)] == ["OLLAMA_HOST", "OLLAMA_VULKAN", "SWARM_SERVER"]


def test_one_context_for_all_models_is_the_servers_too():
    def models(*contexts):
        return {f"m{i}": ModelSettings(options={"num_ctx": c}) for i, c in enumerate(contexts)}

    assert specs(Settings(models=models(8192, 8192)))[0].env["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert "OLLAMA_CONTEXT_LENGTH" not in specs(Settings(models=models(8192, 4096)))[0].env


def test_two_cards_and_no_card():
    settings = Settings(workers=(WorkerSpec(name="big", gpus=(1, 2)), WorkerSpec(name="cpu", port=2000)))
    big, cpu = specs(settings)
    assert (big.env["CUDA_VISIBLE_DEVICES"], big.env["OLLAMA_SCHED_SPREAD"]) == ("GPU-1,GPU-2", "1")
    assert cpu.env["CUDA_VISIBLE_DEVICES"] == "-1"


def test_an_adopted_server_is_not_ours_to_start():
    settings = Settings(workers=(WorkerSpec(name="a", ollama_url="http://h:1"),))
    (plan,) = plan_workers(settings, (), simulate=None)
    with pytest.raises(ConfigError, match="no server of its own"):
        server_spec(plan, settings, root=ROOT, base_env={})
