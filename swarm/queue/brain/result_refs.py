"""Whose results a task that was let go still needs: on record before it moves to its lane, so that no purge takes them.

While a task lies in ``blocked`` its file says what it waits for. Once it is in its lane nobody could tell without reading
all that waits; so the brain notes it, for tasks whose request asks for results, in one append-only file.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from swarm.core.task import TERMINAL
from swarm.filesystem.entries import is_file
from swarm.queue.layout import Layout
from swarm.queue.storage.append_log import LedgerFile, read_ledger
from swarm.queue.storage.files import Storage

_decode = msgspec.json.Decoder(tuple[str, tuple[str, ...]]).decode


def needs_path(layout: Layout) -> str:
    """The ledger."""
    return f"{layout.sessions}/needs.jsonl"


def read_needs(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Ids needed, by the id of the task that needs them, ended or not."""
    return read_ledger(needs_path(layout), _decode)


def still_needed(layout: Layout) -> frozenset[str]:
    """Ids whose results tasks need that were let go and have not ended."""
    needs = read_needs(layout)
    return frozenset(wanted for task_id, ids in needs.items() if not _ended(layout, task_id) for wanted in ids)


class NeedLedger:
    """For the brain's one thread."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._file = LedgerFile(needs_path(layout), storage)
        self._known: set[str] = set()

    def known(self, task_id: str) -> bool:
        """Whether it is on record already."""
        return task_id in self._known

    def note(self, needs: Mapping[str, tuple[str, ...]]) -> None:
        """Put these on record with one flush. Raises ``OSError``; then none of them counts."""
        if not needs:
            return
        if self._file.due:
            self._compact()
        self._file.append(needs)
        self._known.update(needs)

    def _compact(self) -> None:
        """Write it anew without what has ended."""
        kept = {task_id: ids for task_id, ids in read_needs(self._layout).items() if not _ended(self._layout, task_id)}
        self._file.rewrite(kept)
        self._known = set(kept)


def _ended(layout: Layout, task_id: str) -> bool:
    return any(is_file(layout.terminal(state, task_id)) for state in TERMINAL)
