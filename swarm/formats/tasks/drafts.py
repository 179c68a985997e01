"""Checked inputs as drafts: documents ready for the queue, each with an identity that survives reordering."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from swarm.errors import InputError
from swarm.formats.input.options import ReadOptions
from swarm.formats.input.problems import Problems
from swarm.formats.input.source import Source, source_of
from swarm.formats.tasks.input_columns import unpack
from swarm.formats.tasks.scan import Scan, built_items

_KEY_BYTES = 10
"""80 bits: among 10 million items of one batch a clash has a chance of 1 in 10^10."""


class Draft(msgspec.Struct, frozen=True):
    """One item on its way into the queue."""

    item_key: str
    """20 hex digits: who this item is within its batch, by content (custom_id included), never by its line."""
    line_no: int
    custom_id: str | None
    document: dict[str, Any]
    """A task without ``task_id``, ``batch_id`` and ``created_at``; ``depends_on`` as the line has it."""

    @property
    def echo(self) -> dict[str, Any]:
        """The input's columns in the input's order (OpenAI: the ``custom_id``)."""
        return unpack(self.document)


def drafts(path: str | Source, options: ReadOptions, scan: Scan) -> Iterator[Draft]:
    """The items of an input that ``validate`` found good, in its order, in flat memory.

    Identical items are told apart by counting them, so their keys do not depend on where they stand.
    Raises ``InputError`` when the file is no longer what ``validate`` saw.
    """
    source = source_of(path)
    _check_same(source, scan)
    problems = Problems(source.label)
    seen: dict[bytes, int] = {}
    for built in built_items(source, scan.format, options, problems):
        problems.raise_if_any()
        occurrence = 0
        if built.digest in scan.repeated:
            occurrence = seen.get(built.digest, 0)
            seen[built.digest] = occurrence + 1
        yield Draft(item_key(built.digest, occurrence), built.line_no, built.document.get("custom_id"), built.document)
    problems.raise_if_any()
    _check_same(source, scan)


def item_key(digest: bytes, occurrence: int) -> str:
    """20 hex digits for the n-th (from 0) item of this content."""
    if occurrence == 0:
        return digest[:_KEY_BYTES].hex()
    return hashlib.blake2b(digest + occurrence.to_bytes(8, "big"), digest_size=_KEY_BYTES).hexdigest()


def _check_same(source: Source, scan: Scan) -> None:
    if source.stamp() != scan.stamp:
        raise InputError(
            f"{source.label}: the file changed while it was being read",
            hint="run the same command again: what was submitted already is not done twice",
        )
