"""Reading inputs: formats, encodings, and what each kind of bad line is called."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from swarm.errors import InputError
from swarm.formats.input.problems import FieldError
from swarm.formats.input.readers import parse_object
from swarm.formats.input.source import MAX_LINE_BYTES, ReadOptions, opened
from swarm.formats.tasks.columns import compile_template
from swarm.formats.tasks.scan import Scan, drafts, validate
from swarm.formats.tasks.task_builder import unpack

EXAMPLES = Path(__file__).parents[3] / "config" / "examples"
M = ReadOptions(model="m:1b")


def put(folder: Path, name: str, content: bytes | str) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def prompts_of(path: str, options: ReadOptions = M) -> list[str]:
    scan = validate(path, options)
    return [d.document["request"]["messages"][-1]["content"] for d in drafts(path, options, scan)]


def problems_of(path: str, options: ReadOptions = M) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        validate(path, options)
    assert caught.value.hint
    return tuple(line.replace(path, "F") for line in caught.value.problems) or (caught.value.message.replace(path, "F"),)


def test_examples_that_ship_are_good() -> None:
    template = (EXAMPLES / "people.template.txt").read_text().strip()
    counts = [
        validate(str(EXAMPLES / "prompts.jsonl"), M).items,
        validate(str(EXAMPLES / "openai-batch.jsonl"), ReadOptions()).items,
        validate(str(EXAMPLES / "prompts.txt"), M).items,
        validate(str(EXAMPLES / "people.csv"), ReadOptions(model="m", template=template)).items,
    ]
    assert counts == [24, 6, 6, 5]
    assert validate(str(EXAMPLES / "openai-batch.jsonl"), ReadOptions()).format == "openai"


def test_jsonl_with_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"prompt": "one"}\r\n\r\n  \r\n{"prompt": "two\xe2\x80\xa8lines"}')
    assert prompts_of(path) == ["one", "two\u2028lines"]


def test_text_is_one_prompt_per_line(tmp_path: Path) -> None:
    assert prompts_of(put(tmp_path, "a.txt", "\ufeffone\r\n\n  two \n")) == ["one", "  two "]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_csv_quotes_and_delimiters(tmp_path: Path, name: str, mark: str) -> None:
    path = put(tmp_path, name, f'prompt{mark}topic\r\n"two\nlines{mark} ""q"""{mark}x\r\n\r\nplain{mark}y\r\n')
    scan = validate(path, M)
    assert [unpack(d.document) for d in drafts(path, M, scan)] == [
        {"prompt": f'two\nlines{mark} "q"', "topic": "x"},
        {"prompt": "plain", "topic": "y"},
    ]
    assert [d.line_no for d in drafts(path, M, scan)] == [2, 5]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"prompt": "a"', "not JSON"),
        (b'{"prompt": "a"} x', "trailing characters near byte 17"),
        (b'"text"', "the line is a text, not an object"),
        (b"[1]", "the line is a list, not an object"),
        (b"null", "the line is null"),
        (b'{"prompt": NaN}', "NaN and Infinity are no JSON"),
        (b'{"prompt": "a", "x": -Infinity}', "NaN and Infinity are no JSON"),
        (b'{"prompt": "a", "x": 1e999}', "a number is too large"),
        (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "\\ud800 and more text behind"}', "half of a surrogate pair"),
        (b'{"prompt": "\\udc00 and more text behind"}', "half of a surrogate pair"),
        (b'{"prompt": "caf\xe9"}', "byte 16 (0xe9) is no UTF-8"),
        (b'{"prompt": "a\x00b"}', "byte 14 is NUL"),
        (b'{"prompt": "a\\u0000b"}', "prompt: holds a NUL character"),
        (b'{"prompt": "a", "prompt": "b"}', "prompt: appears twice"),
        (b'{"prompt": "a", "x": {"k": 1, "k\\u0022": 2, "k": 3}}', "k: appears twice"),
        (b'{"prompt": "a", "x": ' + b"[" * 101 + b"]" * 101 + b"}", "nested deeper than 100 levels"),
        (b'{"x": ' * 5000, "nested deeper than 100 levels"),
        (b'{"prompt": ""}', "prompt: is empty"),
        (b'{"prompt": 5}', "prompt: must be a text or a list for /api/chat, is a number"),
        (b'{"prompt": null}', "prompt: must be a text or a list for /api/chat, is null"),
        (b'{"messages": []}', "messages: is empty"),
        (b'{"messages": [{"role": "usr", "content": "a"}]}', "messages[0].role: must be one of"),
        (b'{"messages": [{"role": "user"}]}', "messages[0].content: must be a text or a list of parts, is missing"),
        (b'{"prompt": "a", "messages": []}', "both 'prompt' and 'messages'"),
        (b'{"question": "a"}', "no column 'prompt' or 'messages' (there is 'question')"),
        (b'{"promt": "a"}', "did you mean 'promt'?"),
        (b'{"prompt": "a", "priority": 10}', "priority: Expected `int` <= 9"),
        (b'{"prompt": "a", "priority": "high"}', "rename it if it is data"),
        (b'{"prompt": "a", "custom_id": 7}', "custom_id: Expected `str | null`, got `int`"),
        (b'{"prompt": "a", "custom_id": ""}', "custom_id: Expected `str` of length >= 1"),
        (b'{"prompt": "a", "timeout_s": 0}', "timeout_s: Expected `float` > 0"),
        (b'{"prompt": "a", "model": "no model"}', "model: Expected `str` matching"),
        (b'{"prompt": "a", "task_class": "lmm"}', "task_class: Invalid enum value 'lmm'"),
        (b'{"prompt": "a", "not_before": "soon"}', "not_before: no time: 'soon'"),
        (b'{"prompt": "a", "not_before": "2026-01-01T00:00:00"}', "has no offset"),
        (b'{"prompt": "a", "request": {"stream": true}}', "request.stream: is set by swarm itself"),
        (b'{"prompt": "' + b"a" * (1 << 20) + b'"}', "a task may have 1,048,576 (1 MiB)"),
        (b'{"prompt": "' + b" " * MAX_LINE_BYTES + b'"}', "longer than 8 MiB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_line_is_named_and_the_good_ones_beside_it_are_not(tmp_path: Path, line: bytes, expected: str) -> None:
    path = put(tmp_path, "a.jsonl", b'{"prompt": "good"}\n' + line + b'\n{"prompt": "good"}\n')
    (problem,) = problems_of(path)
    assert problem.startswith("F:2: ")
    assert expected in problem


def test_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert parse_object(b'{"prompt": "C:\\\\u0000"}') == {"prompt": "C:\\u0000"}


def test_brackets_in_texts_are_no_depth() -> None:
    assert parse_object(b'{"p": "' + b'[\\"' * 300 + b'"}')["p"].startswith('["[')


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.txt", b"\n \r\n", "only blank"),
        ("a.csv", b"prompt\n", "there is no item in it"),
        ("a.csv", b"prompt,prompt\na,b\n", "F:1: prompt: the header has this column twice"),
        ("a.csv", b"prompt,,x\na,b,c\n", "F:1: column 2 of the header has no name"),
        ("a.csv", b"prompt,x\na\n", "F:2: has 1 fields where the header has 2"),
        ("a.csv", b'prompt,x\n"a,b\nc,d\n', "F:2: not CSV"),
        ("a.csv", b"prompt,x\na,\xe9\n", "F:2: byte 3 (0xe9) is no UTF-8"),
        ("a.csv", b"prompt,x\na,\0\n", "F:2: byte 3 is NUL"),
        ("a.csv", b"prompt,priority\na,12\n", "F:2: priority: "),
        ("a.csv", b"prompt,metadata\na,{\n", "F:2: metadata: must be JSON"),
        ("a.txt", b"good\nbad \xff\n", "F:2: byte 5 (0xff) is no UTF-8"),
        ("a.txt", "one\n".encode("utf-16"), "UTF-16"),
        ("a.json", b'[{"prompt": "a"}]', "one JSON list"),
        ("a.dat", b"hello\n", "cannot be inferred from its name"),
        ("a.jsonl.gz", b"\x1f\x8b", "compressed files"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        validate(path, M)
    assert expected in " ".join((caught.value.message, *caught.value.problems)).replace(path, "F")
    assert caught.value.hint


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.jsonl"), str(tmp_path), "", "a\0b"):
        with pytest.raises(InputError):
            validate(path, M)


def test_unknown_extension_of_json_lines_is_read(tmp_path: Path) -> None:
    assert prompts_of(put(tmp_path, "data", '{"prompt": "x"}\n')) == ["x"]
    assert prompts_of(put(tmp_path, "data.dat", "x\n"), ReadOptions(model="m", format="text")) == ["x"]


def test_all_problems_come_together_bounded_and_in_order(tmp_path: Path) -> None:
    lines = ['{"prompt": "a", "custom_id": "x"}', *['{"prompt": 1}'] * 150, '{"prompt": "b", "custom_id": "x"}']
    with pytest.raises(InputError) as caught:
        validate(put(tmp_path, "a.jsonl", "\n".join(lines)), M)
    assert "151 problems" in caught.value.message
    assert len(caught.value.problems) == 101
    assert caught.value.problems[-1] == "… and 51 more"
    assert ":2: prompt:" in caught.value.problems[0]


def test_duplicate_custom_ids_name_both_lines(tmp_path: Path) -> None:
    lines = [f'{{"prompt": "p", "custom_id": "{name}"}}' for name in ("a", "b", "a", "c", "b", "a")]
    assert problems_of(put(tmp_path, "a.jsonl", "\n".join(lines))) == (
        "F:3: custom_id: 'a' is already used on line 1",
        "F:5: custom_id: 'b' is already used on line 2",
        "F:6: custom_id: 'a' is already used on line 1",
    )


def test_missing_model_names_the_option(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"prompt": "a"}\n{"prompt": "b", "model": "m"}\n')
    assert problems_of(path, ReadOptions()) == ("F:1: model: is missing; name one with --model, or on the line",)


def test_stdin_is_kept_so_that_it_can_be_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(content: bytes, options: ReadOptions) -> tuple[Scan, list[str]]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with opened("-") as source:
            scan = validate(source, options)
            found = [unpack(d.document)["prompt"] for d in drafts(source, options, scan)]
            assert os.path.exists(source.path)
        assert not os.path.exists(source.path)
        return scan, found

    scan, found = run(b'{"prompt": "a"}\n{"prompt": "b"}\n', M)
    assert found == ["a", "b"]
    assert scan.batch_id == run(b'{"prompt": "a"}\n{"prompt": "b"}\n', M)[0].batch_id
    assert scan.batch_id != run(b'{"prompt": "c"}\n', M)[0].batch_id
    assert scan.batch_id.startswith("stdin-")
    with pytest.raises(InputError, match="cannot be inferred"):
        run(b"just text\n", M)


def test_named_pipe_is_read_like_stdin(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe.txt")
    os.mkfifo(path)
    feeder = threading.Thread(target=lambda: Path(path).write_text("one\ntwo\n"))
    feeder.start()
    with opened(path) as source:
        assert validate(source, M).items == 2
    feeder.join(60)


def test_template_fills_and_escapes() -> None:
    template = compile_template("{{json}} {text} to {my lang}: {n} {flag} {list}}}")
    record = {"text": "{x}", "my lang": "fr", "n": 1.5, "flag": True, "list": ["é"]}
    assert template.fill(record) == '{json} {x} to fr: 1.5 true ["é"]}'
    with pytest.raises(FieldError, match="did you mean 'text'"):
        compile_template("{txt}").fill(record)
    with pytest.raises(FieldError, match="null"):
        compile_template("{a}").fill({"a": None})


@pytest.mark.parametrize("text", ["no column", "{", "}", "a {} b", "{a", "a}", "{a{b}}", "{{a}}"])
def test_bad_templates_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="template"):
        compile_template(text)


def test_batch_id_tells_meaning_not_amount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "Ünsere Fragen (2).v1.jsonl", '{"prompt": "a"}\n')
    monkeypatch.chdir(tmp_path)
    base = validate(path, M).batch_id
    assert base == validate(os.path.basename(path), ReadOptions(model="m:1b", limit=3)).batch_id
    assert base.startswith("nsere-fragen-2-v1-")
    others = [
        ReadOptions(model="m:2b"),
        ReadOptions(model="m:1b", template="{prompt}!"),
        ReadOptions(model="m:1b", system="s"),
        ReadOptions(model="m:1b", endpoint="/api/generate"),
        ReadOptions(model="m:1b", options={"seed": 1}),
        ReadOptions(model="m:1b", format="text"),
    ]
    assert len({base, *(validate(path, option).batch_id for option in others)}) == 7
