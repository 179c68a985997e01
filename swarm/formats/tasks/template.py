"""Prompts made of columns: ``Translate {text} to {lang}``; ``{{`` and ``}}`` stand for braces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.errors import InputError
from swarm.formats.input.problems import FieldError, did_you_mean

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template(msgspec.Struct, frozen=True):
    """A template cut into pieces: texts and, in between, columns."""

    texts: tuple[str, ...]
    """One more than ``columns``."""
    columns: tuple[str, ...]

    def fill(self, record: Mapping[str, Any]) -> str:
        """The prompt for one record. Raises ``FieldError`` for a column that is missing or null."""
        parts = [self.texts[0]]
        for column, text in zip(self.columns, self.texts[1:], strict=True):
            parts.append(_as_text(record, column))
            parts.append(text)
        return "".join(parts)


def compile_template(text: str) -> Template:
    """Cut ``text`` into pieces. Raises ``InputError`` for a lone brace, an empty name, or no column at all."""
    texts, columns, literal, end = [], [], "", 0
    for found in _PIECE.finditer(text):
        literal += text[end : found.start()]
        end = found.end()
        piece, column = found.group(0), found.group(1)
        if piece in {"{{", "}}"}:
            literal += piece[0]
        elif column is None or not column.strip():
            raise InputError(
                f"template: {'an empty {}' if column is not None else 'a lone ' + piece} at character {found.start() + 1}",
                hint="write {column} for a column, {{ and }} for braces",
            )
        else:
            texts.append(literal)
            columns.append(column.strip())
            literal = ""
    if not columns:
        raise InputError("template: names no column, so every prompt would be the same", hint="write {column} for a column")
    return Template((*texts, literal + text[end:]), tuple(columns))


def _as_text(record: Mapping[str, Any], column: str) -> str:
    if column not in record:
        raise FieldError(column, f"the template asks for a column that is not here{did_you_mean(column, record)}")
    match record[column]:
        case str() as text:
            return text
        case None:
            raise FieldError(column, "the template asks for it, but it is null")
        case value:
            return msgspec.json.encode(value).decode()
