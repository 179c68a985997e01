"""Dependencies within a batch: resolves names to items, and rejects what cannot run. Pure.

Rejected are unknown names, ambiguous ones, and circles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from swarm.core.workflow.templating import parse, references
from swarm.errors import nearest

MOST_FINDINGS = 100


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One item as far as its place among the others goes."""

    line_no: int
    names: tuple[str, ...] = ()
    """What others may call it: ``custom_id``, ``name``."""
    wants: tuple[str, ...] = ()
    """``depends_on`` as the line has it."""
    session: str | None = None

    @property
    def label(self) -> str:
        """In words, for messages."""
        return self.names[0] if self.names else f"line {self.line_no}"


class LinkFault(msgspec.Struct, frozen=True):
    """What is wrong with one line's ``depends_on``."""

    line_no: int
    message: str


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch's names stand for, once all was found good."""

    keys: tuple[str, ...]
    """The keys of all items, in the input's order."""
    names: dict[str, str]
    """The item key for each name that a ``depends_on`` of the batch uses; other entries are ids of tasks."""


def resolve(nodes: Sequence[Node], exists: Callable[[str], object]) -> tuple[list[LinkFault], dict[str, int]]:
    """What is wrong (in line order, at most ``MOST_FINDINGS``), and for each name in use the index of its node.

    ``exists(task id)``: whether a name that no item of the batch has is the id of a task in the queue.
    """
    holders = _holders(nodes)
    findings: list[LinkFault] = []
    used: dict[str, int] = {}
    edges: list[list[int]] = []
    for index, node in enumerate(nodes):
        targets = []
        for name in dict.fromkeys(node.wants):
            found = holders.get(name, ())
            if index in found:
                findings.append(LinkFault(node.line_no, f"{name!r} is this line itself: {name} -> {name}"))
            elif len(found) > 1:
                lines = ", ".join(str(nodes[i].line_no) for i in found[:5])
                findings.append(LinkFault(node.line_no, f"{name!r} is ambiguous: lines {lines} have it; give each its own"))
            elif found:
                used[name] = found[0]
                targets.append(found[0])
            elif not exists(name):
                findings.append(LinkFault(node.line_no, _unknown(name, holders)))
        edges.append(targets)
    if not findings:
        findings = [_circle(nodes, edges, circle) for circle in circles(_with_sessions(nodes, edges))]
    return sorted(findings, key=lambda f: f.line_no)[:MOST_FINDINGS], used


def circles(edges: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Circles of a graph given as targets by node: none exactly if there is none; each edge of one leads to its next node.

    Not all there are: one for every edge that closes a circle on a walk through all nodes.
    """
    state = bytearray(len(edges))  # 0 not seen, 1 on the path, 2 done
    for start in range(len(edges)):
        if state[start]:
            continue
        path, rest = [start], [iter(edges[start])]
        state[start] = 1
        while path:
            target = next(rest[-1], None)
            if target is None:
                state[path.pop()] = 2
                rest.pop()
            elif state[target] == 1:
                yield path[path.index(target) :]
            elif state[target] == 0:
                state[target] = 1
                path.append(target)
                rest.append(iter(edges[target]))


def linked(document: Mapping[str, Any], links: Links, ids: Mapping[str, str]) -> Mapping[str, Any]:
    """The document with task ids for names in ``depends_on``, and the names its request asks results of in ``results``."""
    wants = document.get("depends_on")
    if not wants:
        return document
    found = {name: ids[links.names[name]] for name in wants if name in links.names}
    asked = (r for r in references(document.get("request")) if r.startswith("results."))
    used = {parse(reference, wants).name for reference in asked}
    if "map" in document:
        used.add(document["map"]["over"])
    results = {name: found[name] for name in found if name in used}
    whole = {**document, "depends_on": list(dict.fromkeys(found.get(name, name) for name in wants))}
    return {**whole, "results": results} if results else whole


def _holders(nodes: Sequence[Node]) -> dict[str, list[int]]:
    wanted = {name for node in nodes for name in node.wants}
    holders: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in dict.fromkeys(node.names):
            if name in wanted:
                holders.setdefault(name, []).append(index)
            elif len(holders) < MOST_FINDINGS:
                holders.setdefault(name, [])  # only to be named as a near miss
                holders[name].append(index)
    return holders


def _with_sessions(nodes: Sequence[Node], edges: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """In a session each waits for the one before it, too."""
    last: dict[str, int] = {}
    whole: list[Sequence[int]] = []
    for index, node in enumerate(nodes):
        before = last.get(node.session) if node.session is not None else None
        whole.append(edges[index] if before is None else (*edges[index], before))
        if node.session is not None:
            last[node.session] = index
    return whole


def _circle(nodes: Sequence[Node], edges: Sequence[Sequence[int]], circle: list[int]) -> LinkFault:
    first = circle.index(min(circle))
    path = [*circle[first:], *circle[:first]]
    text = nodes[path[0]].label
    by_session = False
    for here, there in zip(path, [*path[1:], path[0]], strict=True):
        after = there not in edges[here]
        by_session = by_session or after
        text += f" -> {nodes[there].label}" + (f" (earlier in session {nodes[here].session})" if after else "")
    why = "; tasks of a session run in the input's order" if by_session else ""
    lines = ", ".join(str(nodes[i].line_no) for i in path[:20])
    return LinkFault(nodes[path[0]].line_no, f"they wait for one another: {text} (lines {lines}){why}")


def _unknown(name: str, holders: dict[str, list[int]]) -> str:
    near = nearest(name, list(holders)[:MOST_FINDINGS])
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{name!r} is no name or custom_id of this batch and no task of the queue{meant}"
