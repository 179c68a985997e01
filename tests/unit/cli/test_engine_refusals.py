"""What the engine of a model cannot do is refused when it is submitted, by line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarm.queue.file_queue import FileQueue
from tests.helpers.cli import in_process as swarm

EMBEDDING = {"custom_id": "a", "url": "/v1/embeddings", "body": {"model": "m", "input": "x", "dimensions": 8}}
COMPLETION = {"custom_id": "b", "url": "/v1/completions", "body": {"model": "m", "prompt": "Once"}}


@pytest.fixture
def config(at_home: Path) -> Path:
    path = at_home / "swarm.toml"
    path.write_text('[llm]\nengine = "llama-server"\n\n[models."old:latest"]\nengine = "ollama"\n')
    return path


def lines(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_a_batch_is_refused_by_line_and_field(at_home: Path, config: Path) -> None:
    batch = lines(at_home / "in.jsonl", COMPLETION, EMBEDDING)
    code, told = swarm("submit", batch, "--config", str(config))
    assert code == 2
    assert f"{batch}:2: request.dimensions: llama-server always gives the whole vector" in told
    code, told = swarm("submit", batch, "--model", "old", "--config", str(config))
    assert code == 0, told


def test_one_task_is_refused_by_its_field(at_home: Path, config: Path) -> None:
    request = {"prompt": "p", "suffix": "s"}
    task = lines(at_home / "task.json", {"task_class": "llm", "model": "m", "endpoint": "/api/generate", "request": request})
    code, told = swarm("submit", "--task", task, "--config", str(config))
    assert code == 2
    assert "request.suffix: llama-server takes none" in told
    code, told = swarm("submit", "--prompt", "p", "--model", "m", "--option", "min_tokens=3", "--config", str(config))
    assert code == 0, told


def test_a_text_completion_of_a_batch_reaches_other_engines_as_it_is(at_home: Path, config: Path) -> None:
    def request_of(model: str) -> dict[str, Any]:
        batch = lines(at_home / f"{model}.jsonl", COMPLETION)
        code, told = swarm("submit", batch, "--model", model, "--config", str(config), "--root", f"q-{model}")
        assert code == 0, told
        queue = FileQueue(str(at_home / f"q-{model}"))
        (accepted,) = queue.batches().names()
        found = [queue.read(task_id) for task_id in queue.batches().task_ids(accepted, 1)]
        return dict(found[0]["request"])

    assert request_of("m") == {"prompt": "Once", "raw": True}
    assert request_of("old") == {"prompt": "Once"}
