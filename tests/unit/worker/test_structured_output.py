"""Answers in a wanted form: judged on our side, asked for again a few times, kept raw when they never fit."""

import pytest

from swarm.config.settings import LlmSettings
from swarm.core.faults import TaskFault
from swarm.worker.executors.llm import LlmExecutor
from swarm.worker.executors.structured_output import ASKS, problem_of, schema_problem
from tests.helpers.blocking import wait_for
from tests.helpers.worker_fakes import FakeServer, a_reply, claim_of, llm

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def executor(*texts, done_reason="stop", cached=None, **more):
    bodies, rest = [], list(texts)

    def on_run(body):
        bodies.append(body)
        final = {"message": {"content": rest.pop(0)}, "done": True, "done_reason": done_reason}
        return a_reply(final | more | ({} if cached is None else {"prompt_cached_count": cached}))

    return LlmExecutor(FakeServer(on_run=on_run), LlmSettings(), models={}), bodies


def run(made, request):
    return wait_for(made.run(claim_of(llm("t", "a", request=request)), progress=lambda _: None))


def asking():
    return {"messages": [{"role": "user", "content": "how many?"}], "format": SCHEMA}


def test_an_answer_that_fits_is_taken_at_once():
    made, bodies = executor('{"n": 3}')
    result = run(made, asking()).result
    assert (len(bodies), result["asks"], result["checked"]) == (1, 1, "schema")


def test_a_wrong_answer_is_asked_for_again_with_what_was_wrong():
    made, bodies = executor('{"n": "three"}', "no", '{"n": 3}')
    result = run(made, asking()).result
    assert result["asks"] == 3
    assert result["usage"]["completion_tokens"] == 21, "all asks count"
    assert [m["role"] for m in bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert "$.n" in bodies[1]["messages"][-1]["content"]
    assert "no JSON" in bodies[2]["messages"][-1]["content"]
    assert len(bodies[2]["messages"]) == 3, "the question does not grow with every ask"


def test_prompt_tokens_that_were_not_computed_again_are_counted_over_all_asks():
    for cached, total in ((4, 8), (0, 0)):
        made, _ = executor("no", '{"n": 3}', cached=cached)
        assert run(made, asking()).result["usage"]["cached_tokens"] == total
    made, _ = executor("no", '{"n": 3}')
    assert "cached_tokens" not in run(made, asking()).result["usage"]


def test_tokens_that_the_server_did_not_count_are_unknown():
    made, _ = executor("no", '{"n": 3}', usage_missing=True)
    assert run(made, asking()).result["usage"] is None


def test_an_answer_that_never_fits_fails_with_its_raw_text():
    made, bodies = executor(*['{"n": null}'] * ASKS)
    with pytest.raises(TaskFault) as caught:
        run(made, asking())
    assert len(bodies) == ASKS
    assert (caught.value.fault, caught.value.kind) == ("deterministic", "schema_mismatch")
    assert caught.value.result["message"]["content"] == '{"n": null}'


def test_a_cut_answer_is_a_failure_even_if_it_parses():
    made, bodies = executor('{"n": 3}', done_reason="length")
    with pytest.raises(TaskFault) as caught:
        run(made, asking())
    assert (len(bodies), caught.value.kind) == (1, "cut_short")
    assert caught.value.result["message"]["content"] == '{"n": 3}'


def test_without_a_schema_nothing_is_judged():
    made, bodies = executor("no JSON at all", done_reason="length")
    assert run(made, {"messages": [{"role": "user", "content": "x"}], "format": "json"}).result["done_reason"] == "length"
    assert len(bodies) == 1


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"$ref": "https://example.invalid/schema.json"}])
def test_a_schema_that_means_nothing_fails_at_once(schema):
    made, _ = executor('{"n": 3}')
    with pytest.raises(TaskFault) as caught:
        run(made, {**asking(), "format": schema})
    assert caught.value.kind == "bad_schema"


def test_problems_are_short_and_name_the_place():
    assert problem_of('{"n": 1}', SCHEMA) == ""
    assert "additional" in problem_of('{"n": 1, "m": 2}', SCHEMA).lower()
    assert len(problem_of('{"n": "' + "x" * 10_000 + '"}', SCHEMA)) <= 300
    assert schema_problem(SCHEMA) is None
