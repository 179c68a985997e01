"""Which format an input has: said by the user, else told by the extension and, for JSON lines, by the first line.

Text: one prompt per line, as it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import assert_never

from swarm.errors import InputError
from swarm.formats.input.csv_reader import read_csv
from swarm.formats.input.jsonl import parse_object, read_jsonl
from swarm.formats.input.options import Format, InputItem, ReadOptions
from swarm.formats.input.problems import FieldError, Problems
from swarm.formats.input.source import Source, lines, not_utf8


def read_text(source: Source, problems: Problems, *, column: str = "prompt") -> Iterator[InputItem]:
    """Each line that is not blank as a record with one ``column``."""
    for line_no, raw in lines(source, problems):
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            problems.add(line_no, "", not_utf8(error))
            continue
        if "\x00" in text:
            problems.add(line_no, "", f"byte {raw.index(0) + 1} is NUL; this is no text file, or it is damaged")
            continue
        yield InputItem(line_no, {column: text})


_BY_EXTENSION: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".text": "text",
}
_PACKED = {".gz": "zcat", ".zst": "zstdcat", ".xz": "xzcat", ".bz2": "bzcat"}


def resolve_format(source: Source, options: ReadOptions) -> Format:
    """The format to read ``source`` as. Raises ``InputError`` for an empty file and for one that cannot be told."""
    problems = Problems(source.label)
    first = next((line for _, line in lines(source, problems)), None)
    if first is None:
        problems.raise_if_any()
        if source.stamp()[0]:
            raise InputError(f"{source.label}: there are only blank lines in it", hint="give it one prompt per line")
        raise InputError(f"{source.label}: the file is empty", hint="give it one prompt per line")
    if options.format is not None:
        return options.format
    chosen = _by_name(source, first)
    return "openai" if chosen == "jsonl" and is_openai(first) else chosen


def is_openai(first_line: bytes) -> bool:
    """Whether a line is a request of an OpenAI batch: a ``/v1/`` url and a body."""
    try:
        record = parse_object(first_line)
    except FieldError:
        return False
    url = record.get("url")
    return isinstance(url, str) and url.startswith("/v1/") and "body" in record


def read_items(source: Source, form: Format, options: ReadOptions, problems: Problems) -> Iterator[InputItem]:
    """The items of an input in its order, in flat memory; lines that cannot be read go to ``problems``."""
    match form:
        case "openai" | "jsonl":
            return read_jsonl(source, problems)
        case "csv":
            return read_csv(source, problems)
        case "text":
            return read_text(source, problems, column=options.prompt_field or "prompt")
        case _:
            assert_never(form)


def _by_name(source: Source, first: bytes) -> Format:
    extension = os.path.splitext(source.label)[1].lower()
    if extension in _PACKED:
        raise InputError(
            f"{source.label}: compressed files are not read directly",
            hint=f"{_PACKED[extension]} {source.label} | swarm run - --format jsonl …",
        )
    if first.lstrip().startswith(b"[") and _BY_EXTENSION.get(extension) == "jsonl":
        raise InputError(
            f"{source.label}:1: this is one JSON list, not one object per line",
            hint=f"make lines of it: jq -c '.[]' {source.label} | swarm run - …",
        )
    known = _BY_EXTENSION.get(extension)
    if known is not None:
        return known
    if first.lstrip().startswith(b"{"):
        return "jsonl"
    raise InputError(
        f"{source.label}: its format cannot be told from its name",
        hint="name it: --format jsonl, --format csv, --format text (one prompt per line) or --format openai",
    )
