"""The simulated cards a server may use, and how the memory of its processes shows on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from swarm.filesystem.temporary import read_note, write_note
from swarm.proc.identity import read_stat


class CardEntry(msgspec.Struct, frozen=True):
    """``<card dir>/<pid>.json``: memory that a process holds on one simulated card. Void once the process is dead."""

    pid: int
    used_mib: int
    model: str = ""


class Cards:
    """The simulated cards this server may use."""

    def __init__(self, dirs: Sequence[str]) -> None:
        self._dirs = [Path(one) for one in dirs]
        for one in self._dirs:
            one.mkdir(parents=True, exist_ok=True)
            for path in one.glob("*.json"):
                if path.stem.isdecimal() and not _runs(int(path.stem)):
                    path.unlink(missing_ok=True)

    def show(self, pid: int, used_mib: int, model: str) -> None:
        """Let a process hold memory, spread evenly over the cards."""
        for one in self._dirs:
            write_note(one / f"{pid}.json", CardEntry(pid, -(-used_mib // len(self._dirs)), model))

    def clear(self, pid: int) -> None:
        """A process holds nothing any more."""
        for one in self._dirs:
            (one / f"{pid}.json").unlink(missing_ok=True)

    def used_by_others_mib(self, own: set[int]) -> int:
        """Memory held by living processes that are not ours, orphans of an earlier life above all."""
        notes = (read_note(path, CardEntry) for one in self._dirs for path in one.glob("*.json"))
        return sum(note.used_mib for note in notes if note and note.pid not in own and _runs(note.pid))


def _runs(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.alive


def card_dirs(text: str) -> list[str]:
    """The knob ``card_dir``: one directory as it is, or a JSON list of several."""
    try:
        several = json.loads(text) if text.startswith("[") else None
    except ValueError:
        several = None
    return [str(one) for one in several] if isinstance(several, list) else [text] if text else []


def visible_cards(text: str | None, known: tuple[str, ...]) -> int:
    """How many cards ``CUDA_VISIBLE_DEVICES`` leaves; one bad id hides them all."""
    if text is None:
        return max(len(known), 1)
    ids = [part.strip() for part in text.split(",")]
    if known:
        good = all(one in known or (one.isdigit() and int(one) < len(known)) for one in ids)
    else:
        good = all(one.isdigit() or one.upper().startswith(("GPU-", "MIG-", "SIM-")) for one in ids)
    return len(ids) if good else 0
