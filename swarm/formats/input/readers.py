"""Reads the items of an input in the format given, or found by extension or first line.

* JSON lines: one object per line, read strictly; what JSON parsers accept in silence is a problem here.
* Text: one prompt per line, as it stands.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, assert_never

import msgspec

from swarm.errors import InputError
from swarm.formats.input.csv_reader import read_csv
from swarm.formats.input.problems import FieldError, Problems, kind
from swarm.formats.input.source import Format, InputItem, ReadOptions, Source, lines, not_utf8, nul_at, text_of

MAX_DEPTH = 100
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_AT_BYTE = re.compile(r"^(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?$")
_NOT_A_NUMBER = re.compile(rb"[:\[,]\s*-?(?:NaN|Infinity)\b")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def read_jsonl(source: Source, problems: Problems) -> Iterator[InputItem]:
    """The objects of a JSON lines file. Lines that are none become problems."""
    for line_no, raw in lines(source, problems):
        try:
            record = parse_object(raw)
        except FieldError as error:
            problems.add(line_no, error)
            continue
        yield InputItem(line_no, record)


def parse_object(raw: bytes) -> dict[str, Any]:
    """One line as an object. Raises ``FieldError`` for everything that is not one clear JSON object."""
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(raw)
    try:
        record = _decode(raw)
        again = _encode(record)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        raise FieldError("", _why_not_json(raw, error)) from error
    if not isinstance(record, dict):
        raise FieldError("", f'the line is {kind(record)}, not an object; each line must look like {{"prompt": "…"}}')
    # A repeated key is lost in decoding, and two quotes with it; an escaped quote may hide that.
    if again.count(b'"') != raw.count(b'"') or b"\\u0022" in raw:
        _check_repeated_keys(raw)
    if b"\\u0000" in raw:
        check_no_nul(record)
    return record


def check_no_nul(value: object, field: str = "") -> None:
    """Raise ``FieldError`` for a NUL character anywhere: model servers end a text there, in silence."""
    match value:
        case str() if "\x00" in value:
            raise FieldError(field, "holds a NUL character (U+0000); model servers cut the text there")
        case dict():
            for key, inner in value.items():
                check_no_nul(key, field or "name of a field")
                check_no_nul(inner, f"{field}.{key}" if field else key)
        case list():
            for index, inner in enumerate(value):
                check_no_nul(inner, f"{field}[{index}]")
        case _:
            pass


def _check_depth(raw: bytes) -> None:
    depth = 0
    in_text = escaped = False
    for byte in raw:
        if in_text:
            in_text = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_text = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise FieldError("", f"nested deeper than {MAX_DEPTH} levels")
        elif byte in b"]}":
            depth -= 1


def _check_repeated_keys(raw: bytes) -> None:
    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise FieldError(key, "appears twice in one object")
            seen.add(key)
        return dict(pairs)

    json.loads(raw, object_pairs_hook=note)


def _why_not_json(raw: bytes, error: Exception) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as bad:
        return not_utf8(bad)
    if b"\x00" in raw:
        return nul_at(raw)
    if _NOT_A_NUMBER.search(raw):
        return "NaN and Infinity are no JSON; use null"
    if (
        isinstance(error, UnicodeError)
        or "surrogate" in str(error)
        or (_SURROGATE.search(raw) and "truncated" in str(error))
    ):
        return "holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no character"
    if isinstance(error, msgspec.ValidationError):
        return f"a number is too large: {str(error).split(' - at')[0]}"
    found = _AT_BYTE.match(str(error))
    what, byte = found.groups() if found else (str(error), None)
    return f"not JSON: {what} near byte {byte}" if byte else f"not JSON: {what}"


def read_text(source: Source, problems: Problems, *, column: str = "prompt") -> Iterator[InputItem]:
    """Each line that is not blank as a record with one ``column``."""
    for line_no, raw in lines(source, problems):
        try:
            yield InputItem(line_no, {column: text_of(raw)})
        except FieldError as error:
            problems.add(line_no, error)


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
    """The format to read ``source`` as. Raises ``InputError`` for an empty file or an unknown format."""
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
        f"{source.label}: its format cannot be inferred from its name",
        hint="name it: --format jsonl, --format csv, --format text (one prompt per line) or --format openai",
    )
