"""Inputs that cannot be meant: each is refused with its file, line and field, and nothing of it is accepted."""

import json

import pytest
from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.errors import InputError, TaskInvalid, UnknownTask
from swarm.formats.input.source import ReadOptions, as_text
from swarm.formats.tasks.links import links
from swarm.formats.tasks.scan import drafts, validate
from swarm.queue.codec import validate as validate_task
from swarm.queue.layout import shard_of
from swarm.queue.lookup import read_ended
from tests.helpers.queues import llm, open_queue


def problems(path, **options):
    """What is said about an input, line by line; () if it is taken."""
    wanted = ReadOptions(model="m", **options)
    try:
        scan = validate(str(path), wanted)
        if scan.linked:
            links(drafts(str(path), wanted, scan), str(path), lambda _name: False)
    except InputError as error:
        return tuple(text.removeprefix(str(path)) for text in error.problems) or (error.message,)
    return ()


def lines(tmp_path, *records):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


A = {"name": "a", "prompt": "x"}
B = {"name": "b", "prompt": "{item}", "map": {"over": "a"}}


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([A, {"prompt": "{results.a.list}", "depends_on": ["a"]}], ":2: depends_on: {results.a.list}: line 1 is not mapped"),
        ([A, B, {"prompt": "{results.b.list}", "depends_on": ["b"]}], None),
        (
            [A, B, {"prompt": "{results.a.text}"}],
            ":3: depends_on: is missing: the request asks for {results.a.text}; add 'a'",
        ),
        ([A, B, {"prompt": "{results.other.text}, as it stands"}], None),
        ([A, {"prompt": "{results.a.text}, as it stands where nothing depends on anything"}], None),
        ([A, {"prompt": "x", "depends_on": ["a", "c"]}], ":2: depends_on: 'c' is no name or custom_id of this batch"),
        ([{**A, "depends_on": ["a"]}], ":1: depends_on: 'a' is this line itself: a -> a"),
        ([{**A, "session": ""}], ":1: session: is empty; leave it out"),
        ([{**A, "session": "s" * 201}], ":1: session: has 201 characters; a session's name has at most 200"),
        ([{**A, "session": "two\nlines"}], r":1: session: 'two\nlines' holds a line break"),
        ([{**A, "session": "Gespräch 7 / 8"}], None),
        ([{**A, "cache": "yes"}], ":1: cache: Expected `bool | null`, got `str`"),
        ([{**A, "endpoint": "/v1"}], ":1: endpoint: Invalid enum value '/v1'; it is one of /api/chat, /api/generate"),
    ],
)
def test_lines_that_cannot_be_meant(tmp_path, records, said):
    found = problems(lines(tmp_path, *records))
    assert (found == ()) if said is None else (len(found) == 1 and found[0].startswith(said)), found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.jsonl", '{"prompt": "x", "cache": true}\n{"prompt": "x", "cache": false}\n{"prompt": "x", "cache": null}\n'),
        ("in.csv", "prompt,cache\nx,true\nx,FALSE\nx,\n"),
    ],
)
def test_each_line_may_say_whether_an_answer_given_before_will_do(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    options = ReadOptions(model="m")
    found = drafts(str(tmp_path / name), options, validate(str(tmp_path / name), options))
    assert [draft.document.get("cache") for draft in found] == [True, False, None]


def test_a_first_line_that_is_too_long_is_named(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"prompt": "x" * (9 << 20)}) + "\n")
    assert problems(path) == (":1: the line is longer than 8 MiB; a task may have 1 MiB",)
    path.write_text("\n \r\n")
    assert problems(path) == (f"{path}: there are only blank lines in it",)


def test_who_is_told_is_collected_with_the_first_line_that_names_them(tmp_path):
    scan = validate(str(lines(tmp_path, {**A, "notify": ["ops"]}, {**A, "notify": "ops, script:x"})), ReadOptions(model="m"))
    assert scan.targets == {"ops": 1, "script:x": 2}


@pytest.mark.parametrize("session", ["", "s" * 201, "a\x00b"])
def test_a_task_with_such_a_session_is_refused_as_well(session):
    with pytest.raises(TaskInvalid, match="field `session`: "):
        validate_task(llm(task_id="a", session=session))


@pytest.mark.parametrize("field", ["task_id", "model", "batch_id"])
def test_a_line_break_at_the_end_of_a_name_is_none_of_it(field):
    with pytest.raises(TaskInvalid, match=f"field `{field}`: "):
        validate_task({**llm(task_id="a"), field: "a\n"})


def test_an_id_that_is_none_leads_to_no_file_outside(tmp_path):
    queue = open_queue(tmp_path)
    for task_id in ("../../../secret", "../../secret", "", ".", "x/../../secret", "a\n", "\udcff"):
        shard = tmp_path / "queue" / "completed" / shard_of(as_text(task_id))
        shard.mkdir(exist_ok=True)
        (tmp_path / "queue" / "secret.json").write_text('{"task_id": "secret"}')
        (tmp_path / "secret.json").write_text('{"task_id": "secret"}')
        assert queue.find(task_id) is None
        assert read_ended(queue.layout, task_id) is None
        with pytest.raises(UnknownTask):
            queue.read(task_id)


def test_a_line_that_names_nobody_known_is_refused_before_anything_starts(tmp_path):
    path = lines(tmp_path, {**A, "notify": ["https://example.org/x"]}, {**A, "notify": ["nobody"]})
    words = ["run", str(path), "-o", str(tmp_path / "out"), "--model", "m", "--root", str(tmp_path / "queue")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert f"{path}:2: notify: 'nobody': is no URL and no name of [notify] targets" in _refusal(done)
    assert not (tmp_path / "queue" / "pending").exists()


def _refusal(done):
    problem = done.exception
    return "\n".join(problem.problems) if isinstance(problem, InputError) else done.output


def test_a_single_task_that_would_tell_nobody_is_refused(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(llm(notify=["nobody"])))
    done = CliRunner().invoke(app, ["submit", "--task", str(path), "--root", str(tmp_path / "queue")])
    assert done.exit_code == 2
    assert not (tmp_path / "queue" / "pending").exists() or not any((tmp_path / "queue" / "pending").iterdir())
    assert "notify 'nobody': is no URL" in _refusal(done)
