"""Items handed over in Python that wait for one another: their names looked up before any of them is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from swarm.core.dag import Links
from swarm.errors import InputError
from swarm.files.drafts import Draft
from swarm.files.links import links_of

LABEL = "items"
"""Stands before the numbers (from 0) of items that are wrong."""


def is_linked(items: Sequence[Any], fields: Mapping[str, Any]) -> bool:
    """Whether any item waits for others; costs next to nothing where none does."""
    if fields.get("depends_on"):
        return bool(items)
    return any(isinstance(work, Mapping) and work.get("depends_on") for work in items)


def links_between(pairs: Iterable[tuple[str, dict[str, Any]]], exists: Callable[[str], bool]) -> Links:
    """What the names in ``depends_on`` stand for. ``pairs``: (item key, document), in order; ``exists``: of a task id.

    Raises ``InputError`` as for the lines of a file, with items counted from 0.
    """
    return links_of(_drafts(pairs), LABEL, exists)


def _drafts(pairs: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Draft]:
    for index, (key, document) in enumerate(pairs):
        wants = document.get("depends_on", ())
        if not isinstance(wants, list | tuple) or not all(isinstance(name, str) for name in wants):
            raise InputError(f"item {index}: depends_on: must be a list of names or task ids")
        yield Draft(key, index, document.get("custom_id"), document)
