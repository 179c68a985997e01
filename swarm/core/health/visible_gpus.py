"""Which cards ``CUDA_VISIBLE_DEVICES`` leaves, read as CUDA reads it. Pure.

* Not set: all cards. Set to nothing, or to what names no card (``-1``, ``NoDevFiles``): none.
* Numbers, or UUIDs after a first ``GPU-``, or MIG UUIDs after a first ``MIG-``; an entry of another kind is invalid.
* The list ends before its first invalid entry. A card named twice leaves none at all.
* A UUID may be cut short as long as one card alone begins so.
* A number counts cards in CUDA's order: the bus's with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, which is the driver's own; else the
  fastest first, which is the same where all cards are of one model. A card split by MIG counts once: its first instance.
* One process of CUDA uses one MIG instance at a time; here each one that is named counts, for each gets its own server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from swarm.core.gpu_reading import GpuReading

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
PCI_ORDER = "PCI_BUS_ID"
_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,9})(?![0-9])")
_OLD_MIG = re.compile(r"MIG-(GPU-[^/]*)/([0-9]{1,4})/([0-9]{1,4})")
_SHOWN = 80

Group = tuple[GpuReading, ...]
"""One card of the driver: itself, or its MIG instances."""


class Visibility(msgspec.Struct, frozen=True, omit_defaults=True):
    """The decision."""

    uuids: tuple[str, ...] | None = None
    """The cards that may be used, in CUDA's order; None: all."""
    hidden: tuple[int, ...] = ()
    """Indices of the others."""
    note: str = ""
    """``1 of 4 cards: CUDA_VISIBLE_DEVICES=1``; empty where there is nothing to say."""

    def of(self, cards: Sequence[GpuReading]) -> tuple[GpuReading, ...]:
        """Those of these cards that may be used, in CUDA's order."""
        if self.uuids is None:
            return tuple(cards)
        return tuple(card for uuid in self.uuids for card in cards if card.is_one_of((uuid,)))


def visible_cards(
    env: Mapping[str, str],
    cards: Sequence[GpuReading],
    *,
    ignore: bool = False,
    cuda_order: Sequence[str] | None = None,
) -> Visibility:
    """The decision for a process started with ``env`` where there are ``cards``.

    ``cuda_order``: the cards' UUIDs as CUDA counts them, if it was asked; see ``needs_cuda_order``.
    """
    value = env.get(VARIABLE)
    if value is None:
        return Visibility()
    shown = f"{VARIABLE}={_printable(value)}"
    if ignore:
        return Visibility(note=f"{VARIABLE} is ignored (gpu.ignore_visible): all {len(cards)} cards, {shown}")
    chosen, oddity = _chosen(value, _groups(cards), _counted(env, cards, cuda_order))
    if oddity:
        shown += f" ({oddity})"
    if _by_number(value) and cuda_order is None and needs_cuda_order(env, cards):
        shown += f"; the cards differ and CUDA's order of them is unknown: bus order is used, as {ORDER}={PCI_ORDER} does"
    uuids = tuple(card.uuid for card in chosen)
    hidden = tuple(card.index for card in cards if card.uuid not in uuids)
    note = f"{len(chosen)} of {len(cards)} cards: {shown}" if hidden or oddity else ""
    return Visibility(uuids=uuids, hidden=hidden, note=note)


def needs_cuda_order(env: Mapping[str, str], cards: Sequence[GpuReading]) -> bool:
    """Whether only CUDA itself knows which card a number means: unlike cards, counted the fastest first."""
    if env.get(ORDER) == PCI_ORDER or not _by_number(env.get(VARIABLE, "")):
        return False
    known = [card for card in cards if card.fault is None]
    return any(card.mig is None for card in known) and len({(c.name, c.memory_total_mib) for c in known}) > 1


def _by_number(value: str) -> bool:
    return _NUMBER.match(value) is not None


def _groups(cards: Sequence[GpuReading]) -> list[Group]:
    places: dict[int, list[GpuReading]] = {}
    for card in cards:
        places.setdefault(card.mig.gpu_index if card.mig is not None else card.index, []).append(card)
    return [tuple(places[place]) for place in sorted(places)]


def _counted(env: Mapping[str, str], cards: Sequence[GpuReading], cuda_order: Sequence[str] | None) -> list[Group]:
    """The cards by CUDA's numbers."""
    groups = _groups(cards)
    if cuda_order is None or not needs_cuda_order(env, cards):
        return groups
    return [group for uuid in cuda_order for group in groups if uuid == _whole(group) or any(c.uuid == uuid for c in group)]


def _whole(group: Group) -> str:
    """The UUID of the card itself."""
    return group[0].mig.gpu_uuid if group[0].mig is not None else group[0].uuid


def _chosen(value: str, groups: Sequence[Group], counted: Sequence[Group]) -> tuple[list[GpuReading], str]:
    """The cards that the list names, and what is odd about it."""
    chosen: list[GpuReading] = []
    if not value.strip():
        return chosen, "set to nothing"
    for entry in value.split(","):
        found = _named(entry, value, groups, counted)
        if isinstance(found, str):
            return chosen, f"read up to {_printable(entry)!r}, {found}"
        if found in chosen:
            return [], f"{_printable(entry)!r} names a card a second time, which leaves none"
        chosen.append(found)
    return chosen, ""


def _named(entry: str, value: str, groups: Sequence[Group], counted: Sequence[Group]) -> GpuReading | str:
    """The card that an entry names, or why it names none."""
    if value.startswith("MIG-"):
        return _one([card for group in groups for card in group if _is_instance(card, entry)], entry, "MIG-")
    if value.startswith("GPU-"):
        whole = [group[0] for group in groups if _whole(group) == entry]
        return _one(whole or [group[0] for group in groups if _whole(group).startswith(entry)], entry, "GPU-")
    number = _NUMBER.match(entry)
    if number is None or not 0 <= int(number[1]) < len(counted):
        return "which names no card"
    return counted[int(number[1])][0]


def _is_instance(card: GpuReading, entry: str) -> bool:
    if card.mig is None:
        return False
    old = _OLD_MIG.fullmatch(entry)
    if old is None or card.uuid == entry:  # drivers of that time give their instances UUIDs of the old form
        return card.uuid.startswith(entry)
    return card.mig.gpu_uuid.startswith(old[1]) and (card.mig.gi, card.mig.ci) == (int(old[2]), int(old[3]))


def _one(found: Sequence[GpuReading], entry: str, kind: str) -> GpuReading | str:
    if not entry.startswith(kind):
        return f"which is no {kind}… like the first"
    exact = [card for card in found if card.uuid == entry]
    if len(exact or found) > 1:
        return "which more than one card begins with"
    return (exact or found)[0] if found else "which names no card"


def _printable(text: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= _SHOWN else f"{clean[:_SHOWN]}…"
