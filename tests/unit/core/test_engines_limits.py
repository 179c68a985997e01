"""Which engines may be asked for a model, and what they cannot do of a request."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.config.settings import EngineSettings, LlmSettings, ModelSettings, Settings, WorkerSpec
from swarm.core.models.engines import EngineCheck
from swarm.core.task import ImageRef, Task, TaskClass

VLLM = {"vllm": EngineSettings(url="http://127.0.0.1:8000")}


def task(model: str = "m", endpoint: Any = "/api/generate", images: int = 0, **request: Any) -> Task:
    refs = tuple(ImageRef(path=f"/{n}.png", sha256="0" * 64) for n in range(images))
    return Task(task_id="t", task_class=TaskClass.LLM, model=model, endpoint=endpoint, request=request, images=refs)


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (Settings(), {"ollama"}),
        (Settings(llm=LlmSettings(engine="llama-server")), {"llama-server"}),
        (Settings(engines=VLLM, models={"M:latest": ModelSettings(engine="vllm")}), {"openai"}),
        (Settings(engines=VLLM, workers=(WorkerSpec(name="a"), WorkerSpec(name="b", engine="vllm"))), {"ollama", "openai"}),
        (
            Settings(
                llm=LlmSettings(engine="llama-server"), workers=(WorkerSpec(name="a", ollama_url="http://127.0.0.1:11434"),)
            ),
            {"ollama"},
        ),
    ],
)
def test_the_engines_that_may_be_asked_for_a_model(settings: Settings, kinds: set[str]) -> None:
    check = EngineCheck(settings)
    assert check.kinds("m") == kinds
    assert check.raw_completions("m") == (kinds != {"ollama"})
    found = check.problem(task(prompt="p", template="t"))
    assert (found is None) == (kinds == {"ollama"})


def test_a_problem_names_field_and_engine() -> None:
    check = EngineCheck(Settings(llm=LlmSettings(engine="llama-server")))
    assert check.problem(task(prompt="p")) is None
    field, why = check.problem(task(prompt="p", suffix="s")) or ("", "")
    assert field == "request.suffix"
    assert "llama-server" in why
    assert check.problem(task(prompt="p", images=1)) is None
    assert (check.problem(task(prompt="p", raw=True, images=1)) or ("", ""))[0] == "request.images"
    assert check.problem(task(endpoint="/api/chat", messages=[{"role": "user", "content": "x"}], images=1)) is None
