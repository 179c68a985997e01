"""Items handed over in Python that wait for one another: their names looked up before any of them is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from swarm.core.workflow.dag import Links, linked
from swarm.errors import InputError
from swarm.formats.input.problems import FieldError, did_you_mean
from swarm.formats.tasks.drafts import Draft
from swarm.formats.tasks.links import check_references, links_of

LABEL = "items"
"""Stands before the numbers (from 0) of items that are wrong."""


class EarlierNames:
    """Names of tasks submitted one by one, so that later ones can wait for them by name; the last of a name counts."""

    def __init__(self, exists: Callable[[str], bool]) -> None:
        self._exists = exists
        self._ids: dict[str, str] = {}

    def note(self, document: Mapping[str, Any], task_id: str) -> None:
        """This task is in the queue."""
        for field in ("name", "custom_id"):
            if document.get(field):
                self._ids[document[field]] = task_id

    def linked(self, document: dict[str, Any]) -> Mapping[str, Any]:
        """The document with task ids for names. Raises ``InputError`` for one that is neither a name nor an id."""
        wants = document.get("depends_on")
        if not wants:
            return document
        if not isinstance(wants, list | tuple) or not all(isinstance(name, str) for name in wants):
            raise InputError("depends_on: must be a list of names, task ids or handles")
        for name in wants:
            if name not in self._ids and not self._exists(name):
                meant = did_you_mean(name, self._ids)
                raise InputError(f"depends_on: {name!r} is no name of an earlier task and no task of the queue{meant}")
        try:
            check_references(document)
        except FieldError as error:
            raise InputError(f"{error.field}: {error.message}") from error
        used = {name: name for name in wants if name in self._ids}
        return linked(document, Links(keys=tuple(used), names=used), self._ids)


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
