"""Answers that must fit a JSON Schema: checked here, and asked for again a few times."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Reply

# ruff: noqa: PLC0415  (jsonschema is an extra, and heavy: only who gets a schema loads it)

CHECKS_SCHEMAS = importlib.util.find_spec("jsonschema") is not None
"""Whether the extra `schema` is there; without it answers are only checked to be JSON."""
ASKS = 3
"""How often a model is asked in one attempt."""
_PROBLEM_CHARS = 300

Ask = Callable[[Mapping[str, Any]], Awaitable[Reply]]
Record = Callable[[Reply], dict[str, Any]]


def schema_problem(schema: dict[str, Any]) -> str | None:
    """What is wrong with a schema itself; None if nothing is, or it cannot be checked here."""
    if not CHECKS_SCHEMAS:
        return None
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"{error.json_path}: {error.message}"[:_PROBLEM_CHARS]
    return None


async def ask_in_form(
    body: Mapping[str, Any], schema: dict[str, Any], ask: Ask, record: Record
) -> tuple[Reply, dict[str, Any]]:
    """Ask until the answer fits, with what was wrong added to the question; the fitting reply and its record.

    The record says ``asks`` and ``tokens`` of all of them. Raises ``TaskFault`` (deterministic) whose ``result`` keeps the
    raw text: ``cut_short`` (it ran into its token limit: asking again would, too), ``schema_mismatch``, ``bad_schema``.
    """
    wrong = schema_problem(schema)
    if wrong is not None:
        raise TaskFault("deterministic", "bad_schema", f"request.format is no valid JSON Schema: {wrong}")
    asked = dict(body)
    usages: list[dict[str, int] | None] = []
    problem, found = "", dict[str, Any]()
    for number in range(1, ASKS + 1):
        reply = await ask(asked)
        found = record(reply)
        usages.append(found["usage"])
        found |= {"usage": _total(usages), "asks": number, "checked": "schema" if CHECKS_SCHEMAS else "json"}
        text = text_of(reply.final)
        if reply.final.get("done_reason") == "length":
            message = "the answer was cut at its token limit before it was complete; raise options.num_predict"
            raise TaskFault("deterministic", "cut_short", message, result=found)
        problem = problem_of(text, schema)
        if not problem:
            return reply, found
        asked = _asked_again(body, text, problem)
    raise TaskFault("deterministic", "schema_mismatch", f"asked {ASKS} times: {problem}", result=found)


def _total(usages: Sequence[dict[str, int] | None]) -> dict[str, int] | None:
    """Of all asks; None where a server did not count."""
    total = Counter[str]()
    for usage in usages:
        if usage is None:
            return None
        total.update(usage)
    return dict(total)


def text_of(final: Mapping[str, Any]) -> str:
    """The text of an answer."""
    return str((final.get("message") or {}).get("content") or final.get("response") or "")


def problem_of(text: str, schema: dict[str, Any]) -> str:
    """Why a text does not fit; empty if it does. Quotes as little of it as it can."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return f"it is no JSON: {error}"[:_PROBLEM_CHARS]
    if not CHECKS_SCHEMAS:
        return ""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = validator_for(schema, default=Draft202012Validator)
    try:  # an empty registry: references to other places are not followed
        first = next(iter(kind(schema, registry=Registry()).iter_errors(value)), None)
    except Unresolvable as error:
        raise TaskFault("deterministic", "bad_schema", f"request.format refers to what is not in it: {error}") from error
    return "" if first is None else f"{first.json_path}: {first.message}"[:_PROBLEM_CHARS]


def _asked_again(body: Mapping[str, Any], text: str, problem: str) -> dict[str, Any]:
    complaint = (
        f"This answer does not fit the wanted JSON Schema ({problem}). Answer again, with JSON that fits and nothing else."
    )
    if "messages" in body:
        said = [{"role": "assistant", "content": text}, {"role": "user", "content": complaint}]
        return {**body, "messages": [*body["messages"], *said]}
    return {**body, "prompt": f"{body.get('prompt', '')}\n\n{text}\n\n{complaint}"}
