"""Text: one prompt per line, as it stands."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.formats.input.item import InputItem
from swarm.formats.input.problems import Problems
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
            problems.add(line_no, "", f"byte {raw.index(0) + 1} is NUL; this is no text, or a damaged file")
            continue
        yield InputItem(line_no, {column: text})
