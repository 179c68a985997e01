"""Documents as JSON, whatever is in them: bytes of a file name that are no UTF-8, NaN, what a terminal would obey."""

from __future__ import annotations

import math

import msgspec

from swarm.plain_text import json_shown


def to_json_line(document: object) -> str:
    r"""One line: no character that a terminal would obey, NaN and infinity as null.

    Bytes of a file name that are no UTF-8 are escaped: ``\udcff`` stands for ff.
    """
    try:
        return json_shown(msgspec.json.encode(document).decode())
    except UnicodeEncodeError:
        import json

        return json.dumps(_finite(msgspec.to_builtins(document)))


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: _finite(item) for name, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
