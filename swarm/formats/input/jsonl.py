"""JSON lines: one object per line, read strictly. What JSON parsers let pass in silence is a problem here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from swarm.formats.input.options import InputItem
from swarm.formats.input.problems import FieldError, Problems
from swarm.formats.input.source import Source, lines, not_utf8
from swarm.formats.tasks.fields import kind

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
            problems.add(line_no, error.field, error.message)
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
        return f"byte {raw.index(0) + 1} is NUL; this is no text file, or it is damaged"
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
