"""Prefix groups: tasks whose prompts begin alike, found before they are queued, and who goes on with which.

A model server that still holds the computed state of a prompt's beginning computes only the rest of the next prompt that
begins so. How long a shared beginning is, nobody says; it is found by comparing prefixes of growing length.

* The group of a prompt is its longest compared prefix that enough others share. A unique prompt is in no group.
* Groups that share a shorter prefix follow one another; else groups stand in the order of their first prompts.
* A group's key depends on its prefix alone, so that the same prefix has the same key in every part of a long input.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

MIN_CHARS = 512
"""A shorter shared prefix is not worth it: a server computes these hundred tokens in a moment."""
MAX_CHARS = 1 << 16
"""Prefixes are compared up to this length, doubling from the shortest: 512, 1,024 … 65,536."""
MIN_ROWS = 4
"""So many prompts make a group."""
_OPENING_CHARS = 128
"""Looked at first, to be done with most prompts that share nothing."""
_ORDERED = frozenset(("session", "depends_on", "not_before", "map"))


class PrefixGroup(NamedTuple):
    """Prompts that begin alike."""

    key: int
    """24 bits."""
    members: list[int]
    """Their positions, ascending."""


def prompt_head(document: Mapping[str, Any], chars: int) -> str:
    """So many characters of what the server reads first of a task's prompt; of an image, only what comes before it.

    Less for a shorter prompt; nothing for a task whose order is fixed by something else, and for embeddings, which no server
    keeps.
    """
    request = document.get("request")
    if not isinstance(request, dict) or not _ORDERED.isdisjoint(document) or document.get("endpoint") == "/api/embed":
        return ""
    tools, messages = request.get("tools"), request.get("messages")
    head = f"{document.get('model')}\0{tools or ''}\0"
    if isinstance(messages, list):
        for message in messages[: _before_images(messages) if document.get("images") else None]:
            if not isinstance(message, dict) or "images" in message or not isinstance(message.get("content"), str):
                break
            head += f"{message.get('role')}\0{message['content'][:chars]}\0"
            if len(head) >= chars:
                break
        return head[:chars]
    shown = document.get("images") or request.get("images")
    texts = (request.get("system"), None if shown else request.get("prompt"))
    return (head + "\0".join(text[:chars] for text in texts if isinstance(text, str)))[:chars]


def _before_images(messages: list[Any]) -> int:
    """How many messages come before the one that gets the task's images: the last of a user."""
    asked = (at for at, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "user")
    return max(asked, default=0)


def prefix_groups(documents: Sequence[Mapping[str, Any]]) -> list[PrefixGroup]:
    """The groups among these tasks, in the order in which they should run. What is in none is left out.

    Costs about a microsecond for a prompt that shares nothing, and a hash of the shared length for others.
    """
    openings: dict[str, list[int]] = {}
    for at, document in enumerate(documents):
        openings.setdefault(prompt_head(document, _OPENING_CHARS), []).append(at)
    found: list[PrefixGroup] = []
    for opening, alike in openings.items():
        if len(opening) < _OPENING_CHARS or len(alike) < MIN_ROWS:
            continue
        heads = {at: prompt_head(documents[at], MAX_CHARS) for at in alike}
        for members in _parts(heads, alike, 0, MIN_CHARS):
            if len(members) >= MIN_ROWS and len(heads[members[0]]) >= MIN_CHARS:
                found += _split(heads, members, MIN_CHARS)
    return found


def _parts(heads: Mapping[int, str], members: list[int], start: int, end: int) -> list[list[int]]:
    """The members by these of their characters, in the order of their first ones."""
    parts: dict[str, list[int]] = {}
    for at in members:
        parts.setdefault(heads[at][start:end], []).append(at)
    return list(parts.values())


def _split(heads: Mapping[int, str], members: list[int], chars: int) -> list[PrefixGroup]:
    """The groups of those who share so many characters: by longer prefixes as far as enough share them, the rest as one."""
    while True:
        if chars >= MAX_CHARS or all(len(heads[at]) <= chars for at in members):
            return [_group(heads, members, chars)]
        parts = _parts(heads, members, chars, 2 * chars)
        if len(parts) > 1:
            break
        chars *= 2
    rest = [at for part in parts if len(part) < MIN_ROWS for at in part]
    found = [_split(heads, part, 2 * chars) for part in parts if len(part) >= MIN_ROWS]
    if rest:
        found.append([_group(heads, sorted(rest), chars)])
    found.sort(key=lambda groups: groups[0].members[0])
    return [group for groups in found for group in groups]


def _group(heads: Mapping[int, str], members: list[int], chars: int) -> PrefixGroup:
    return PrefixGroup(zlib.crc32(heads[members[0]][:chars].encode(errors="surrogatepass")) & 0xFFFFFF, members)


def take_freed(freed: list[str], waiting: Mapping[str, int]) -> str:
    """The last freed group of which tasks wait, taken out; where there is none, the last goes: its slot gets another."""
    at = next((at for at in range(len(freed) - 1, -1, -1) if freed[at] in waiting), -1)
    group = freed.pop(at) if freed else ""
    return group if group in waiting else ""


def next_group(waiting: Mapping[str, int], current: str, held: Callable[[], Mapping[str, int]]) -> str:
    """Which group a worker takes from next.

    The one that it is in; else the first that no other worker is in, so that each prefix is computed on one card; with none
    of these it helps where most tasks are left for each worker: no card idles for the sake of a prefix.
    ``waiting``: tasks by group, in queue order, not empty. ``held``: other workers that run tasks of a group, by group.
    """
    if current in waiting:
        return current
    if len(waiting) == 1:
        return next(iter(waiting))
    others = held()
    for group in waiting:
        if group not in others:
            return group
    return max(waiting, key=lambda group: waiting[group] / (others[group] + 1))
