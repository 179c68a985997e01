"""How a running supervisor is asked to restart one of its processes: a small file per wish, gone once it was heard.

A file and not a signal to the process itself, because a process that waits for its next start, hangs or sits in
quarantine can be asked for as well, and because only the supervisor knows that this end is no failure.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from swarm.filesystem.entries import is_file, list_inside
from swarm.proc.state_file import read_note, remove_note, write_note
from swarm.supervisor.keeper import Keeper

REQUESTS_DIR = "supervisor.requests"
log = logging.getLogger(__name__)


class RestartWish(msgspec.Struct, frozen=True, kw_only=True):
    """``workers/supervisor.requests/<name>``."""

    name: str
    now: bool = False
    """Do not wait for running tasks."""


def ask(root: Path, wish: RestartWish) -> None:
    """Put a wish down for the supervisor of ``root``, which looks once a second. Raises ``OSError``."""
    folder = _folder(root)
    folder.mkdir(mode=0o700, exist_ok=True)
    write_note(folder / wish.name, wish)


def is_heard(root: Path, name: str) -> bool:
    """Whether the wish has been taken."""
    return not (_folder(root) / name).exists()


def withdraw(root: Path, name: str) -> None:
    """Take a wish back that nobody has heard."""
    remove_note(_folder(root) / name)


def obey(root: Path, keepers: Sequence[Keeper]) -> None:
    """Hear all wishes that lie there. A wish for a name that is nobody's is dropped with a warning."""
    for name in _names(root):
        wish = read_note(_folder(root) / name, RestartWish)
        remove_note(_folder(root) / name)
        keeper = next((k for k in keepers if k.process.name == name), None)
        if wish is None or keeper is None:
            log.warning("asked to restart %r, which is none of this swarm's processes", name)
            continue
        log.info("%s", keeper.restart(now=wish.now))


def forget(root: Path) -> None:
    """Wishes made to an earlier supervisor mean nothing to this one."""
    for name in _names(root):
        remove_note(_folder(root) / name)


def _folder(root: Path) -> Path:
    return root / "workers" / REQUESTS_DIR


def _names(root: Path) -> list[str]:
    folder = str(_folder(root))
    return sorted(name for name in list_inside(folder) if not name.startswith(".") and is_file(f"{folder}/{name}"))
