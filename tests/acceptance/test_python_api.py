"""The Python API against a running simulated swarm: the page's examples, and what is not on the page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import swarm as package
from swarm import Result, Swarm
from swarm.api.documents import DocumentMaker
from swarm.errors import InputError, ModelNotFound, NotRunning
from tests.helpers.cli import user

MODEL = "llama3.2:3b"
PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def somebody(tmp_path_factory):
    """A swarm that is up while the tests of this module run."""
    with user(tmp_path_factory.mktemp("api")) as person:
        person.ok("up", "--simulate", "2", "--detach")
        yield person


@pytest.fixture
def swarm(somebody, monkeypatch):
    monkeypatch.chdir(somebody.folder)
    with Swarm(root=somebody.root) as door:
        yield door


def test_there_are_three_examples():
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("number", range(3))
def test_the_pages_examples_run(somebody, number):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        cwd=somebody.folder,
        env=somebody.env,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[simulated]" in done.stdout
    assert "failed" not in done.stdout


def test_map_gives_each_item_once_and_a_named_batch_goes_on(swarm, somebody):
    items = [f"question {i % 15}" for i in range(20)]
    results = swarm.map(items, model=MODEL, batch="mine", options={"num_predict": 4})
    assert len(results) == 20
    assert sorted(r.index for r in results) == list(range(20)), "equal items are items of their own"
    again = list(swarm.map([*items, "one more"], model=MODEL, batch="mine", options={"num_predict": 4}).ordered())
    assert [r.index for r in again] == list(range(21))
    assert all(r.ok and r.simulated and r.usage.total_tokens for r in again)
    rows = somebody.json("batches", "--price-per-mtok", "2")["batches"]
    (row,) = [r for r in rows if r["batch_id"] == "mine"]
    assert (row["items"], row["completed"], row["left"], row["state"]) == (21, 21, 0, "finished")
    tokens = sum(r.usage.total_tokens for r in again)
    assert row["tokens_in"] + row["tokens_out"] == tokens
    assert row["cost"] == pytest.approx(tokens * 2 / 1e6, abs=1e-6)


def test_items_that_wait_for_one_another_are_linked_by_name(swarm):
    items = [
        {"custom_id": "first", "prompt": "Say a word."},
        {"prompt": "Repeat: {results.first.text}", "depends_on": ["first"]},
    ]
    for given in (items, iter(items)):
        first, second = swarm.map(given, model=MODEL, options={"num_predict": 4}).ordered()
        assert first.ok
        assert second.ok, second.error
        assert second.document["depends_on"] == [first.document["task_id"]]
        assert second.document["results"] == {"first": first.document["task_id"]}
    (late,) = swarm.map([{"prompt": "later", "depends_on": [first.document["task_id"]]}], model=MODEL)
    assert late.ok, "the id of a task of the queue is a name as well"


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"prompt": "a", "name": "first"}, {"prompt": "b", "depends_on": ["frist"]}], "did you mean 'first'"),
        ([{"prompt": "a", "name": "x", "depends_on": ["y"]}, {"prompt": "b", "name": "y", "depends_on": ["x"]}], "x -> y"),
        ([{"prompt": "{results.x.text}", "depends_on": ["y"]}, {"prompt": "b", "name": "y"}], "depends_on"),
        ([{"task_class": "script", "command": ["hello"], "depends_on": "y"}], "depends_on"),
    ],
)
def test_links_that_cannot_be_are_refused_before_anything_is_accepted(swarm, items, words):
    before = swarm.queue.batches().names()
    with pytest.raises(InputError) as refused:
        swarm.map(items, model=MODEL)
    assert words in f"{refused.value} {refused.value.problems}"
    assert swarm.queue.batches().names() == before


def test_messages_embeddings_and_whole_tasks(swarm):
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    assert swarm.submit(talk, model=MODEL, priority=9).result(60).document["priority"] == 9
    vectors = swarm.submit({"prompt": "hello"}, model="nomic-embed-text:latest", endpoint="/api/embed").result(60).embeddings
    assert len(vectors) == 1
    assert vectors[0]
    bad = swarm.submit({"task_class": "script", "command": ["rm", "-rf", "x"]}).result(60)
    assert (bad.ok, bad.text) == (False, "")
    assert bad.error.startswith("not_allowed")


def test_an_answer_cut_short_fails_and_keeps_its_text(swarm):
    form = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    result = swarm.submit("x", model=MODEL, format=form, options={"num_predict": 3}).result(60)
    assert not result.ok
    assert result.error.startswith("cut_short")
    assert result.text.startswith('{"')


def test_waiting_has_an_end_and_cancelling_works(swarm):
    handle = swarm.submit("later", model=MODEL, not_before="2999-01-01T00:00:00+00:00")
    with pytest.raises(TimeoutError, match="1 of the tasks"):
        handle.result(timeout_s=0.05)
    assert not handle.done()
    handle.cancel()
    result: Result = handle.result(60)
    assert result.error == "cancelled: cancelled through the Python API"


def test_what_cannot_be_meant_is_said(swarm):
    with pytest.raises(InputError, match="items: is one piece of work"):
        swarm.map("Hello", model=MODEL)
    with pytest.raises(ModelNotFound) as missing:
        swarm.submit("x", model="llama3.2:3")
    assert MODEL in missing.value.hint
    with pytest.raises(InputError, match="did you mean 'priority'"):
        swarm.submit("x", model=MODEL, prioity=3)
    with pytest.raises(InputError, match="item 1: prompt: is empty"):
        swarm.map(["a", ""], model=MODEL)
    with pytest.raises(InputError, match="notify 'nobody': is no URL"):
        swarm.submit("x", model=MODEL, notify=["nobody"])
    with pytest.raises(InputError, match="model: is missing"):
        swarm.submit("x")
    with pytest.raises(InputError, match="no name for a batch"):
        swarm.map(["a"], model=MODEL, batch="my batch")


def test_it_must_be_started(tmp_path):
    with pytest.raises(NotRunning, match="not started"):
        Swarm(root=tmp_path / "queue").submit("x", model=MODEL)


def test_importing_the_package_loads_no_api():
    code = "import sys, swarm; assert 'swarm.api' not in sys.modules; swarm.Swarm; assert 'swarm.api' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(package.__all__) == {"Handle", "Result", "Results", "Swarm", "Usage", "__version__"}
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018


def test_fields_of_the_call_are_defaults_of_the_items():
    maker = DocumentMaker(model=MODEL, fields={"priority": 3, "format": "json"})
    assert maker.make("a").document["request"]["format"] == "json"
    assert maker.make({"prompt": "a", "priority": 8}).document["priority"] == 8
    assert maker.make("a").digest == maker.make({"prompt": "a"}).digest


def test_single_tasks_wait_for_earlier_ones_by_name_by_handle_and_by_id(swarm):
    first = swarm.submit("Say a word.", model=MODEL, name="word", options={"num_predict": 4})
    second = swarm.submit("Repeat: {results.word.text}", model=MODEL, name="again", depends_on=["word"])
    third = swarm.submit({"prompt": "Later.", "depends_on": [first, second.id]}, model=MODEL)
    (mapped,) = swarm.map([{"prompt": "After it.", "depends_on": [third]}], model=MODEL)
    results = swarm.wait([first, second, third], 60)
    assert [r.error for r in (*results, mapped)] == [None] * 4
    assert results[1].document["results"] == {"word": first.id}
    assert results[2].document["depends_on"] == [first.id, second.id]
    with pytest.raises(InputError, match=r"depends_on: 'wrod' is no name .* \(did you mean 'word'\?\)"):
        swarm.submit("x", model=MODEL, depends_on=["wrod"])
    with pytest.raises(InputError, match="depends_on: must be a list"):
        swarm.submit({"task_class": "script", "command": ["x"], "depends_on": 3})
    with pytest.raises(InputError, match="names nothing that the task depends on"):
        swarm.submit("{results.other.text}", model=MODEL, depends_on=["word"])
    with pytest.raises(InputError, match="field `command`"):
        swarm.submit({"task_class": "script", "request": {}})


def test_pictures_are_sent_by_path_and_the_cache_says_so(swarm, somebody):
    picture = somebody.folder / "pics" / "dot.png"
    picture.parent.mkdir()
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    ask = {"model": MODEL, "images_dir": picture.parent, "cache": True}
    (picture.parent / "a, b.png").write_bytes(picture.read_bytes())
    results = [swarm.submit("What is it?", images=Path(name), **ask).result(60) for name in ("dot.png", "a, b.png")]
    assert [(r.ok, r.cached) for r in results] == [(True, False), (True, True)], results[0].error
    vectors = {"model": "nomic-embed-text:latest", "endpoint": "/api/embed"}
    for wanted in ([False, False], [True, True], [False, True]):  # the first are not kept, of the last one is there already
        items = [{"prompt": f"word {n}", "cache": one} for n, one in enumerate(wanted)]
        found = list(swarm.map(items, **vectors).ordered())
        assert [r.cached for r in found] == ([False, True] if wanted == [False, True] else [False, False])
        assert found[0].embeddings != found[1].embeddings
    with pytest.raises(InputError, match=r"images: .* lies outside .* \(in Python: images_dir\)"):
        swarm.submit({"prompt": "x", "images": ["../../etc/passwd"]}, **ask)
    before = swarm.queue.batches().names()
    with pytest.raises(InputError, match=r"item 1: images: 'none.png' cannot be read: No such file"):
        swarm.map([{"prompt": "x", "images": ["dot.png"]}, {"prompt": "x", "images": [Path("none.png")]}], **ask)
    assert swarm.queue.batches().names() == before
