"""One document in two parts: the body survives whatever happens to the trail."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.task import Attempt, TaskError, Trail
from swarm.errors import TaskInvalid
from swarm.queue import codec
from swarm.queue.codec import validate

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
BODY = {"task_id": "a1", "task_class": "llm", "model": "m", "request": {"messages": []}}


@given(JSON, st.text(), JSON)
def test_body_and_trail_make_one_json_document(extra, answer, unknown):
    body = codec.encode_body({**BODY, "metadata": {"x": extra}, "unknown_field": unknown})
    trail = Trail(
        status="completed", result={"text": answer}, attempts=(Attempt(attempt=1, worker="w", outcome="completed"),)
    )
    whole = body[:-2] + codec.encode_trail(trail)
    document = json.loads(whole)
    assert document["result"] == {"text": answer}
    assert document["unknown_field"] == unknown
    parts = codec.parse(whole)
    assert parts.trail == trail
    assert parts.task.metadata == {"x": extra}
    assert whole[: parts.body_size - 1] == body[:-2]


@given(st.data())
def test_any_torn_tail_leaves_the_body_readable(data):
    body = codec.encode_body(BODY)
    trail = codec.encode_trail(Trail(status="failed", error=TaskError(type="x", message="y" * 50)))
    whole = body[:-2] + trail
    cut = data.draw(st.integers(len(body) - 1, len(whole)))
    torn = whole[:cut] + data.draw(st.sampled_from([b"", b"\0\0\0\0", b"\n"]))
    if not torn[len(body) - 2 :].startswith(b",\n"):
        torn = body  # less than the first two bytes of a write never reach the disk apart from the block before
    assert codec.parse(torn).task.task_id == "a1"
    assert codec.parse_document(torn)["task_id"] == "a1"


def test_an_empty_trail_restores_the_body():
    body = codec.encode_body(BODY)
    assert body[:-2] + codec.encode_trail(Trail()) == body


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"[]", b"{", b"null\n", b'{"task_id":1}', b"\0" * 50, b'{"a":NaN}', b"[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_task_says_so(data):
    with pytest.raises(TaskInvalid):
        codec.parse(data)


def test_a_task_over_one_mebibyte_is_refused():
    with pytest.raises(TaskInvalid, match="1048576 are allowed"):
        codec.encode_body({**BODY, "metadata": {"x": "y" * (1 << 20)}})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task_class": "gpu"}, "task_class"),
        ({"task_id": "../../etc"}, "task_id"),
        ({"task_id": "x" * 65}, "task_id"),
        ({"priority": 10}, "priority"),
        ({"priority": "5"}, "priority"),
        ({"model": None}, "model"),
        ({"model": "../x"}, "model"),
        ({"request": {}}, "request"),
        ({"request": "hello"}, "request"),
        ({"endpoint": "/api/delete"}, "endpoint"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"depends_on": ["a1"]}, "depends_on"),
        ({"not_before": "tomorrow"}, "not_before"),
        ({"status": "completed"}, "status"),
        ({"task_class": "cpu"}, "command"),
        ({"task_class": "resource", "action": "load_llm", "target_worker": "../w", "priority": 9}, "target_worker"),
        ({"task_class": "resource", "action": "drop", "target_worker": "w", "priority": 9}, "action"),
    ],
)
def test_wrong_fields_are_named(change, field):
    with pytest.raises(TaskInvalid, match=f"`{field}`"):
        validate({**BODY, "request": {"messages": [1]}, **change})


def test_a_minimal_task_is_enough():
    task = validate({**BODY, "request": {"prompt": "hi"}})
    assert task.priority == 5
    assert msgspec.json.decode(codec.encode_body({**BODY}))["task_id"] == "a1"
