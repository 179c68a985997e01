"""Output rows as CSV. The header needs all rows first, so they wait in a temporary file, not in memory."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Collection, Iterable, Mapping
from typing import Any, BinaryIO

import msgspec

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def write_csv(stream: BinaryIO, rows: Iterable[Mapping[str, Any]], *, last: Collection[str]) -> None:
    """Write a header and the rows, as RFC 4180 with UTF-8.

    The header has every column of any row in order of appearance, those named in ``last`` behind all others.

    ``usage`` becomes three columns, ``error`` one text; other lists and objects are written as JSON, null as nothing.
    """
    columns: dict[str, None] = {}
    with tempfile.TemporaryFile(prefix="swarm-csv-") as waiting:
        for row in rows:
            flat = _flat(row)
            columns.update(dict.fromkeys(flat))
            waiting.write(_encode(flat) + b"\n")
        waiting.seek(0)
        behind = {*last, *_USAGE}
        header = sorted(columns, key=behind.__contains__)
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=False)
        table = csv.writer(text)
        table.writerow(header)
        for line in waiting:
            flat = _decode(line)
            table.writerow([_cell(flat.get(name)) for name in header])
        text.flush()
        text.detach()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "usage" and (value is None or isinstance(value, dict)):
            counts = value or {}
            flat |= {count: counts.get(count) for count in _USAGE if count not in row}
        elif name == "error" and isinstance(value, dict):
            flat[name] = f"{value.get('type')}: {value.get('message')}"
        else:
            flat[name] = value
    return flat


def _cell(value: object) -> object:
    match value:
        case bool() | list() | dict():
            return _encode(value).decode()
        case None:
            return ""
        case _:
            return value
