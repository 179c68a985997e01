"""Items that wait for one another: their names looked up, before any of them is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from swarm.core.workflow import templating
from swarm.core.workflow.dag import MOST_FINDINGS, Links, Node, resolve
from swarm.formats.input.problems import FieldError, Problems
from swarm.formats.tasks.scan import Draft


def links(items: Iterable[Draft], label: str, exists: Callable[[str], object]) -> Links:
    """What the names in ``depends_on`` stand for.

    ``exists(task id)`` tells whether a name that no item has is a task of the queue. Memory: a few hundred bytes an item.
    Raises ``InputError`` with the lines, after ``label``, of unknown and ambiguous names, of circles, and of
    ``{results.…}`` not waited for.
    """
    problems = Problems(label)
    keys, nodes = [], []
    asked = _ResultUses()
    for index, draft in enumerate(items):
        keys.append(draft.item_key)
        nodes.append(_node(draft))
        try:
            check_references(draft.document)
        except FieldError as error:
            problems.add(draft.line_no, error)
        else:
            asked.note(index, draft)
    findings, used = resolve(nodes, exists)
    for finding in findings:
        problems.add(finding.line_no, f"depends_on: {finding.message}")
    asked.judge(nodes, used, problems)
    problems.raise_if_any()
    return Links(keys=tuple(keys), names={name: keys[index] for name, index in used.items()})


class _ResultUses:
    """What requests ask of results that only all items together can answer."""

    def __init__(self) -> None:
        self._mapped: set[int] = set()
        self._lists: list[tuple[int, str]] = []
        self._loose: list[tuple[int, str]] = []

    def note(self, index: int, draft: Draft) -> None:
        document = draft.document
        if "map" in document:
            self._mapped.add(index)
        wants = document.get("depends_on")
        for reference in templating.references(document.get("request")):
            if not reference.startswith("results."):
                continue
            if not wants:
                if len(self._loose) < MOST_FINDINGS:
                    self._loose.append((draft.line_no, reference))
                continue
            wanted = templating.parse(reference, wants)
            if wanted.path == ("list",):
                self._lists.append((draft.line_no, wanted.name))

    def judge(self, nodes: Sequence[Node], used: Mapping[str, int], problems: Problems) -> None:
        """Lists of items that are not mapped; results asked for without waiting for them: elsewhere that is plain text."""
        for line_no, name in self._lists:
            if name in used and used[name] not in self._mapped:
                where = f"line {nodes[used[name]].line_no} is not mapped over a list"
                problems.add(line_no, f"depends_on: {{results.{name}.list}}: {where}; use .text or .json")
        names = {name for node in nodes for name in node.names} if self._loose else set[str]()
        for line_no, reference in self._loose:
            meant = next((n for n in names if reference == f"results.{n}" or reference.startswith(f"results.{n}.")), None)
            if meant is not None:
                problems.add(line_no, f"depends_on: is missing: the request asks for {{{reference}}}; add {meant!r}")


def _node(draft: Draft) -> Node:
    document = draft.document
    names = [n for n in (document.get("custom_id"), document.get("name")) if n]
    return Node(
        line_no=draft.line_no,
        names=tuple(dict.fromkeys(names)),
        wants=tuple(document.get("depends_on", ())),
        session=document.get("session"),
    )


def check_references(document: Mapping[str, Any]) -> None:
    """Raise ``FieldError`` for a reference to a result that the task does not wait for. Without any it is plain text."""
    wants = document.get("depends_on")
    if not wants:
        return
    asked = list(templating.references(document.get("request")))
    if "map" in document and not any(reference.partition(".")[0] == "item" for reference in asked):
        raise FieldError("map", "its prompt must hold {item}, which stands for one element of the list")
    if "map" in document and "session" in document:
        raise FieldError("map", "a task of a session cannot be mapped, because its parts run in parallel")
    for reference in asked:
        if reference.startswith("results."):
            try:
                templating.parse(reference, wants)
            except templating.TemplateError as error:
                raise FieldError("depends_on", str(error)) from error
