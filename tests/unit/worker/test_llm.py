"""The request a task becomes, and the result an answer becomes."""

from __future__ import annotations

import pytest

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.faults import TaskFault
from swarm.core.models.model_options import ModelTable
from swarm.core.task import Task, TaskClass
from swarm.worker.executors.llm import LlmExecutor, request_body
from tests.helpers.blocking import wait_for
from tests.helpers.worker_fakes import FakeServer, a_reply, claim_of, llm

MODELS = {"A": ModelSettings(options={"num_ctx": 4096, "temperature": 0.1}, keep_alive="10m")}


def body(task: Task) -> dict:
    return request_body(task, ModelTable(MODELS), num_predict=100)


def test_options_of_the_model_are_defaults_and_the_cap_is_set():
    made = body(llm("t", "a", request={"messages": [], "model": "x", "stream": False, "options": {"temperature": 1}}))
    assert made == {
        "model": "a",
        "messages": [],
        "truncate": False,
        "options": {"num_ctx": 4096, "temperature": 1, "num_predict": 100},
        "keep_alive": "10m",
    }


def test_a_cap_of_the_request_or_model_wins():
    assert body(llm("t", request={"options": {"num_predict": 7}}))["options"]["num_predict"] == 7


def test_embeddings_have_no_token_cap():
    made = body(llm("t", "b", endpoint="/api/embed", request={"input": ["x"]}))
    assert made == {"model": "b", "input": ["x"], "truncate": False, "options": {}, "keep_alive": -1}


def test_long_prompts_are_cut_only_on_request():
    assert body(llm("t"))["truncate"] is False
    assert body(llm("t", request={"truncate": True}))["truncate"] is True


def test_how_long_a_model_stays_is_not_the_requests_to_say():
    assert body(llm("t", request={"keep_alive": 0}))["keep_alive"] == "10m"


@pytest.mark.parametrize(
    ("model", "options", "refused"),
    [
        ("a", {"num_ctx": 4096}, False),
        ("a", {"num_ctx": 8192}, True),
        ("b", {"num_ctx": 8192}, True),
        ("b", {"num_gpu": -1}, False),
        ("b", {"num_gpu": 0}, True),
        ("b", {"top_k": 3, "seed": 1}, False),
    ],
)
def test_a_request_may_not_make_the_server_reload(model, options, refused):
    task = llm("t", model, request={"options": options})
    if not refused:
        assert body(task)["options"].items() >= options.items()
        return
    with pytest.raises(TaskFault) as caught:
        body(task)
    assert (caught.value.fault, caught.value.kind) == ("deterministic", "load_option")
    assert f'[models."{model}:latest"]' in caught.value.message


@pytest.mark.parametrize("task", [llm("t", request={"options": [1]}), Task(task_id="t", task_class=TaskClass.LLM)])
def test_bad_requests(task):
    with pytest.raises(TaskFault) as caught:
        body(task)
    assert caught.value.kind == "bad_request"


def test_the_answer_becomes_a_result_with_usage():
    server = FakeServer()
    server.on_run = lambda made: a_reply({"message": {"content": "4"}, "done": True, "context": [1, 2, 3]})
    settings = LlmSettings(timeout_s=50, first_token_s=60, token_gap_s=5, max_reply_mib=2)
    executor = LlmExecutor(server, settings, models=MODELS)
    trail = wait_for(executor.run(claim_of(llm("t1", request={"messages": []})), progress=lambda n: None))
    assert trail.simulated
    assert trail.result is not None
    assert trail.result["message"] == {"content": "4"}
    assert trail.result["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert "context" not in trail.result
    (_, endpoint, _, how) = server.calls[0]
    assert endpoint == "/api/chat"
    assert how["marker"] == "t1"
    limits = how["limits"]
    server.on_run = lambda made: a_reply({"message": {"content": "4"}, "done": True, "prompt_cached_count": 3})
    trail = wait_for(executor.run(claim_of(llm("t1", request={"messages": []})), progress=lambda n: None))
    assert trail.result["usage"]["cached_tokens"] == 3
    assert (limits.total_s, limits.first_token_s, limits.token_gap_s, limits.max_reply_bytes) == (50, 50, 5, 2 << 20)
