"""The OpenAPI document is what the server does: tried with made-up requests, good and bad, on a swarm that runs."""

import re
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from swarm.http.access.login import routes as login_routes
from swarm.http.access.scopes import rule_for
from swarm.http.app import OPERATIONS, make_app
from swarm.http.openapi import OPERATION as OPENAPI
from swarm.http.operations import NoQuery
from swarm.http.page.routes import routes as page_routes
from swarm.proc.ports import free_port
from tests.helpers.cli import User
from tests.helpers.http_access import http_parts
from tests.helpers.queues import llm

STREAMS = "/swarm/events"
"""It never ends."""
IN_WORDS = [positive_data_acceptance, negative_data_rejection]
"""Of OpenAI's and Ollama's forms: more is forbidden than a schema can say, and they take more than it says."""


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Iterator[schemathesis.BaseSchema]:
    user = User(tmp_path_factory.mktemp("openapi"))
    port = free_port()
    user.ok("up", "--simulate", "1", "--http", str(port), "--detach")
    user.prompts(4, "in.jsonl")
    user.ok("run", "in.jsonl", "-o", "out.jsonl", "--model", "llama3.2:1b", "--quiet")
    for state in ("blocked", "pending"):
        user.queue.enqueue(llm(model="a-model-that-nobody-has", depends_on=["nothere"] if state == "blocked" else []))
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json", timeout=60)
    user.kill_all()


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
        if one.name == "logs":
            assume("follow" not in (case.query or {}))  # that would not end either
        case.call_and_validate(excluded_checks=[] if one.group == "swarm" else IN_WORDS, timeout=60)

    answers_fit()


def test_every_route_but_those_of_the_page_is_in_the_document(tmp_path):
    parts = http_parts(tmp_path / "queue")
    page = {route.path for route in (*page_routes(parts), *login_routes(parts))} | {"/healthz"}
    served = {(method, route.path) for route in make_app(parts).routes for method in route.methods - {"HEAD"}}
    assert {(method, path) for method, path in served if path not in page} == {
        (one.method, one.path) for one in (*OPERATIONS, OPENAPI)
    }


def test_scopes_are_those_that_access_asks_for():
    told = {(one.method, one.path): one.scope for one in OPERATIONS}
    assert told == {(method, path): rule_for(method, re.sub("{.*?}", "x", path)).scope for method, path in told}
