"""Which engine serves a model, and how a command becomes an argv."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.settings import EngineSettings, LlmSettings, ModelSettings, Settings, WorkerSpec
from swarm.core.models.engines import (
    PLACEHOLDERS,
    engine_named,
    engine_of_model,
    engine_of_worker,
    engine_problems,
    filled_in,
    placeholder_problem,
)

VLLM = EngineSettings(command=("vllm", "serve", "{model}", "--port", "{port}"))
SETTINGS = Settings(
    llm=LlmSettings(engine="llama-server"),
    engines={"vllm": VLLM, "far": EngineSettings(url="http://h:1/")},
    models={"Qwen/Q": ModelSettings(engine="vllm"), "plain": ModelSettings()},
    workers=(WorkerSpec(name="a"), WorkerSpec(name="b", engine="ollama")),
)


def test_the_most_specific_setting_wins():
    assert not list(engine_problems(SETTINGS))
    engines = [engine_of_worker(SETTINGS, worker.engine) for worker in SETTINGS.workers]
    assert engines == ["llama-server", "ollama"]
    assert [engine_of_model(SETTINGS, "plain", engine) for engine in engines] == engines
    assert [engine_of_model(SETTINGS, "unknown", engine) for engine in engines] == engines
    assert [engine_of_model(SETTINGS, "qwen/q:latest", engine) for engine in engines] == ["vllm", "vllm"]


def test_kinds_are_decided():
    assert [engine_named(SETTINGS, name).kind for name in ("ollama", "llama-server", "vllm", "far")] == [
        "ollama",
        "llama-server",
        "openai",
        "openai",
    ]
    assert engine_named(SETTINGS, "far").url == "http://h:1"
    with pytest.raises(KeyError):
        engine_named(SETTINGS, "nobody")


def test_placeholders_are_filled_in_and_other_braces_stay():
    command = ("v", "{model}", "--x={host}:{port}", '{"a": {"b": 1}}', "{}")
    values = {"model": "{port}", "host": "h", "port": "1"}
    assert filled_in(command, values) == ("v", "{port}", "--x=h:1", '{"a": {"b": 1}}', "{}")


@given(st.text(alphabet="ab_{}", max_size=12))
def test_a_word_without_findings_has_nothing_but_known_placeholders(word):
    values = dict.fromkeys(PLACEHOLDERS, "x")
    if placeholder_problem(word) is None:
        assert filled_in((word,), values) == (word,), "no placeholder of these letters exists"
