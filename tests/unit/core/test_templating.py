"""Earlier results in a request: what is filled in, what is left alone, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.faults import TaskFault
from swarm.core.task import MapSpec, Task
from swarm.core.workflow import templating
from swarm.core.workflow.fan_out import MapFault, child_document, elements
from swarm.core.workflow.templating import EarlierResults, TemplateError, fill, parse, references
from swarm.worker.executors.llm import with_results

LEAVES = st.text(alphabet=st.sampled_from("ab{}. results1"), max_size=30)
VALUES = st.recursive(LEAVES | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(max_size=3), v))


@given(VALUES)
def test_what_holds_no_reference_stays_as_it_is(value):
    if not list(references(value)) and "{{" not in json.dumps(value):
        assert fill(value, lambda r: f"<{r}>") == value


@given(st.text(max_size=40))
def test_an_answer_goes_in_as_it_is_and_is_not_looked_through_again(text):
    assert fill(["<{results.a.text}>", {"k": "{results.a}"}], lambda _: text) == [f"<{text}>", {"k": text}]


def test_only_references_are_touched_and_doubled_braces_stand_for_one():
    text = '{"x": {"y": 1}} {other} {{results.a.text}} {results.a.text} {{x}}'
    assert fill(text, lambda _: "A") == '{"x": {"y": 1}} {other} {results.a.text} A {{x}}'
    assert list(references([text])) == ["results.a.text"]


def test_names_may_hold_dots_and_the_longest_counts():
    assert parse("results.a.b.json.x", ["a", "a.b"]) == templating.Reference("a.b", ("json", "x"))
    assert parse("results.a", ["a"]).path == ("text",)
    for wrong in ("results.c.text", "results.a.txt", "results.a.text.more"):
        with pytest.raises(TemplateError):
            parse(wrong, ["a"])


def task(text, **more):
    return Task(task_id="t", task_class="llm", model="m", request={"messages": [{"content": text}]}, **more)


def ended(text, status="completed"):
    return {"status": status, "result": {"message": {"content": text}}}


def filled(text, documents, **more):
    there = with_results(task(text, depends_on=tuple(documents), **more), documents.get)
    return there.request["messages"][0]["content"]


def test_a_worker_fills_in_texts_and_parts_of_json():
    documents = {"i1": ended('```json\n{"a": [1, {"b": "x"}]}\n```'), "i2": ended("plain")}
    text = "{results.one.json.a.1.b}|{results.one.json.a}|{results.i2.text}"
    assert filled(text, documents, results={"one": "i1"}) == 'x|[1,{"b":"x"}]|plain'


@pytest.mark.parametrize(
    ("text", "document", "words"),
    [
        ("{results.i.text}", None, "is not there"),
        ("{results.i.text}", ended("x", "failed"), "has no result: it is failed"),
        ("{results.i.json.a}", ended("no json"), "not JSON"),
        ("{results.i.json.b}", ended('{"a":1}'), "no field 'b'; it has 'a'"),
        ("{results.i.list}", ended("x"), "not mapped"),
        ("{results.nobody.text}", ended("x"), "{results.nobody.text}"),
        ("{results.i.text}" * 3, ended("x" * (4 << 20)), "grows beyond"),
    ],
)
def test_what_cannot_be_filled_in_fails_at_once_and_names_it(text, document, words):
    with pytest.raises(TaskFault) as caught:
        filled(text, {"i": document})
    assert caught.value.fault == "deterministic"
    assert words in caught.value.message


def test_a_task_that_waits_for_nothing_is_never_touched():
    lonely = task("{results.a.text} {{results.a.text}}")
    assert with_results(lonely, {}.get) is lonely


def mapped(text="{item}", path="", **more):
    return task(text, depends_on=("i",), map=MapSpec(over="i", path=path), **more)


def test_a_list_becomes_one_request_per_element():
    one = mapped("{item.name}: {item} {{item}} {results.i.json.k}", path="parts")
    results = EarlierResults(one, {"i": ended('{"parts": [{"name": "n {results.i}"}], "k": 7}')}.get)
    items = elements(one, results)
    document = {"batch_id": "b", "task_class": "llm", "model": "m", "depends_on": ["i"]}
    child = child_document(document, one, 0, items[0], results)
    text = child["request"]["messages"][0]["content"]
    assert text == 'n {results.i}: {"name":"n {results.i}"} {item} 7'
    assert (child["task_id"], child["batch_id"], "depends_on" in child) == ("t-0", "b", False)


@pytest.mark.parametrize("document", [None, ended("no list"), ended('{"a": 1}'), ended("[" + "1," * 10_000 + "1]")])
def test_what_is_no_list_is_refused_with_the_name(document):
    with pytest.raises(MapFault, match="cannot be mapped over i"):
        elements(mapped(), EarlierResults(mapped(), {"i": document}.get))
