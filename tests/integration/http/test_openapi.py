"""The OpenAPI document is what the server does: tried with made-up requests, good and bad, on a swarm that runs."""

import re
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from swarm.http.app import OPERATIONS
from swarm.http.operations import NoQuery
from swarm.proc.ports import free_port
from tests.helpers.cli import User
from tests.helpers.queues import llm

STREAMS = "/swarm/events"
"""It never ends."""


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Iterator[schemathesis.BaseSchema]:
    user = User(tmp_path_factory.mktemp("openapi"))
    port = free_port()
    user.ok("up", "--simulate", "1", "--http", str(port), "--detach")
    user.prompts(4, "in.jsonl")
    user.ok("run", "in.jsonl", "-o", "out.jsonl", "--model", "llama3.2:1b", "--quiet")
    for state in ("blocked", "pending"):
        user.queue.enqueue(llm(model="a-model-that-nobody-has", depends_on=["nothere"] if state == "blocked" else []))
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    user.run("down", "--now")


def tries() -> Iterator[object]:
    for one in OPERATIONS:
        if one.path != STREAMS:
            yield pytest.param(one, GenerationMode.POSITIVE, id=one.name)
        if one.body is not None or one.query is not NoQuery:
            yield pytest.param(one, GenerationMode.NEGATIVE, id=f"{one.name}, wrong")


@pytest.mark.parametrize(("one", "mode"), list(tries()))
def test_answers_fit_the_document(described, one, mode):
    operation = described[re.sub(r":\w+}", "}", one.path)][one.method]

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers_fit(case):
        if one.name == "logs" and case.query:
            case.query.pop("follow", None)
        case.call_and_validate()

    answers_fit()
