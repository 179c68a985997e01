"""Batches: what was submitted together, and the memory that lets the same command resume.

``batches/<id>.json`` the manifest; ``<id>.items`` one line ``<item key> <task id>`` per item ever submitted, written and
flushed *before* the tasks it names appear; ``<id>.order`` the task ids of the last submission in the input's order (of one
that was limited to the first items: those, then what the batch had besides). Items are known by their key (content), never
by their line. ``<id>.retried``, of a batch with a limit of failures, is written when tasks of it are retried.
``<id>.items`` is appended to and never shortened; the others are replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from operator import itemgetter
from typing import Any

import msgspec

from swarm.core.prefix_groups import prefix_groups
from swarm.core.task import ID_RE, TERMINAL
from swarm.core.workflow.dag import Links, linked
from swarm.errors import LockHeld, QueueError, UnknownBatch, name_hint
from swarm.filesystem.entries import is_file, read_file
from swarm.queue import codec, lookup
from swarm.queue.batches.item_lists import Items, NewOrder, new_order, whole_lines
from swarm.queue.coordination import try_exclusive
from swarm.queue.layout import Layout, new_id
from swarm.queue.storage import Storage, list_ids, storage_faults
from swarm.queue.submit.producer import Producer

CHUNK = 8000
"""Items that share one flush."""
_LOOKS = 10
"""A task may move between the finding and the reading."""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a batch is; replaced when it is submitted again."""

    batch_id: str
    source: str
    format: str
    created_at: str
    items: int = 0
    submitted: bool = False
    """False while a submission is under way or was cut off."""
    models: dict[str, int] = msgspec.field(default_factory=dict)
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    version: str = ""
    max_fails: int | None = None
    """With more failures than this since tasks of it were last retried, what waits of it is cancelled."""


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a submission."""

    items: int
    """Items of the input looked at so far."""
    new: int
    """Of these, accepted now."""
    again: int
    """Of these, known from an earlier submission: finished, failed, waiting or running."""


class BatchBook:
    """The batches of one queue."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self._layout = layout
        self._storage = storage

    def _path(self, batch_id: str, ending: str) -> str:
        return f"{self._layout.batches}/{batch_id}.{ending}"

    def _items(self, batch_id: str) -> Items:
        return Items(self._path(batch_id, "items"), self._storage)

    def manifest(self, batch_id: str) -> Manifest:
        """Raises ``QueueError`` for an unknown batch, ``StorageFault``."""
        with storage_faults(f"batch {batch_id} cannot be read"):
            return self._manifest(batch_id)

    def _manifest(self, batch_id: str) -> Manifest:
        try:
            if not ID_RE.fullmatch(batch_id):
                raise FileNotFoundError(batch_id)
            return msgspec.json.decode(read_file(self._path(batch_id, "json"), 1 << 20), type=Manifest)
        except ValueError as exc:
            raise QueueError(f"{self._path(batch_id, 'json')}: {exc}", hint="submit it again to rewrite it") from exc
        except FileNotFoundError as exc:
            hint = name_hint(batch_id, self.names(), "known batches:", 3, cutoff=0.7)
            if lookup.find(self._layout, batch_id) is not None:
                hint = f"that is a task: `swarm queue show {batch_id}`"
            raise UnknownBatch(f"there is no batch {batch_id}", hint=hint) from exc

    def names(self) -> list[str]:
        """Ids of all batches."""
        return sorted(list_ids(self._layout.batches))

    def known(self, batch_id: str) -> dict[str, str]:
        """Task ids by item key, of all submissions so far; empty for a batch never seen."""
        return dict(self._items(batch_id))

    def submit(
        self,
        manifest: Manifest,
        items: Iterable[tuple[str, Mapping[str, Any]]],
        links: Links | None = None,
        *,
        keys: Iterable[str] | None = None,
        partial: bool = False,
        prefix_order: bool = False,
    ) -> Iterator[Submitted]:
        """Accept what is new of these (item key, task document) pairs; yields the state after each shared flush.

        ``keys``: their keys in the input's order, where they come in another.
        ``partial``: these are the first of more; what the batch had besides stays in its record, behind them.
        ``prefix_order``: of each chunk, tasks whose prompts begin alike run one after the other (``prefix_groups``), but
        not with ``keys`` or ``links``, which mean another order.
        With ``links`` the names in ``depends_on`` become task ids; all ids are on record before the first task appears.
        Safe to interrupt anywhere and to repeat: what is known is not submitted again, what an interruption left out is.
        Raises ``LockHeld`` while another submission of this batch runs, ``TaskInvalid``, ``StorageFault``.
        """
        with storage_faults(f"batch {manifest.batch_id}: submission stopped"), self.alone(manifest.batch_id):
            known = self.known(manifest.batch_id)
            present = lookup.Presence(self._layout, known)
            manifest, before = self._with_before(manifest, known) if partial else (manifest, [])
            self.write(manifest)
            ids = {} if links is None else self._reserve(manifest.batch_id, links, known)
            rest = iter(items) if links is None else ((k, linked(d, links, ids)) for k, d in items)
            prefix_order = prefix_order and keys is None and links is None
            total = Submitted(items=0, new=0, again=0)
            with new_order(self._path(manifest.batch_id, "order"), self._storage) as order:
                while chunk := list(islice(rest, CHUNK)):
                    given = _ids_in_groups(chunk, known) if prefix_order else {}
                    new = self._accept(manifest.batch_id, chunk, known, present, order, ids, given)
                    order.write()
                    again = total.again + len(chunk) - new
                    total = Submitted(items=total.items + len(chunk), new=total.new + new, again=again)
                    yield total
                if keys is not None:
                    known = self.known(manifest.batch_id)  # by now with all that was accepted
                    order.replace(known[key] for key in keys)
                order.add_missing(before)
            self.write(msgspec.structs.replace(manifest, items=order.count, submitted=True))

    def _with_before(self, manifest: Manifest, known: Mapping[str, str]) -> tuple[Manifest, list[str]]:
        """The manifest with what an earlier submission said of models, and the ids that one had accepted, in its order."""
        try:
            earlier = self._manifest(manifest.batch_id)
        except QueueError:
            return manifest, list(known.values())  # never seen, or damaged
        ids = [*self.order(manifest.batch_id)]
        if not earlier.submitted:
            ids += known.values()  # it was cut off: its order was never written
        models = {name: max(number, earlier.models.get(name, 0)) for name, number in manifest.models.items()}
        return msgspec.structs.replace(manifest, models={**earlier.models, **models}), ids

    def _accept(
        self,
        batch_id: str,
        chunk: list[tuple[str, Mapping[str, Any]]],
        known: dict[str, str],
        present: lookup.Presence,
        order: NewOrder,
        ids: Mapping[str, str],
        given: Mapping[str, str],
    ) -> int:
        new, documents = [], []
        for key, document in chunk:
            task_id = ids.get(key) or known.get(key)
            if task_id is None:
                task_id = given.get(key) or new_id()
                new.append((key, task_id))
            order.add(task_id)
            if key not in known or not present.has(task_id):
                documents.append({"task_id": task_id, "batch_id": batch_id, **document})
        if given:
            documents.sort(key=itemgetter("task_id"))  # they are queued by their ids
        self._items(batch_id).add(new)
        if not documents:
            return 0
        return sum(1 for _ in Producer(self._layout, self._storage).enqueue_many(documents)) and len(documents)

    def _reserve(self, batch_id: str, links: Links, known: Mapping[str, str]) -> dict[str, str]:
        """The id of every item, in the input's order (sessions go by it), on record before any task names another."""
        ids = {key: known.get(key) or new_id() for key in links.keys}
        self._items(batch_id).add((key, task_id) for key, task_id in ids.items() if key not in known)
        return ids

    def write(self, manifest: Manifest) -> None:
        """Replace a manifest, durably. Raises ``StorageFault``."""
        with storage_faults(f"batch {manifest.batch_id} could not be recorded"):
            self._storage.replace_json(self._path(manifest.batch_id, "json"), manifest)

    @contextmanager
    def retrying(self, batch_id: str | None) -> Iterator[None]:
        """While a task of this batch is retried: what has failed so far no longer counts against its limit, if it has one.

        Whoever watches the limit looks again. Nobody submits the batch meanwhile: it would take the task for one that is
        gone. Raises ``LockHeld``, ``OSError``.
        """
        if batch_id is None or not is_file(self._path(batch_id, "json")):  # a task may name any batch
            yield
            return
        with self.alone(batch_id):
            limited = self._is_limited(batch_id)
            if limited:
                self._mark(batch_id)
            yield
            if limited:
                self._mark(batch_id)

    def _is_limited(self, batch_id: str) -> bool:
        try:
            return self.manifest(batch_id).max_fails is not None
        except QueueError:
            return False  # damaged

    def _mark(self, batch_id: str) -> None:
        self._storage.replace(self.retried_mark(batch_id), b"", durable=False)

    def retried_mark(self, batch_id: str) -> str:
        """Path of the file whose time says when tasks of it were last retried."""
        return self._path(batch_id, "retried")

    def alone(self, batch_id: str) -> AbstractContextManager[None]:
        """Take the lock for writing this batch's files within the block. Raises ``LockHeld``, ``OSError``."""
        held = LockHeld(f"batch {batch_id} is being submitted by another process", hint="wait for it to end")
        return try_exclusive(self._storage, self._path(batch_id, "lock"), held)

    def task_ids(self, batch_id: str, first: int | None = None) -> Iterator[str]:
        """Task ids of the last submission (the ``first`` of them), in the input's order; of a cut-off one, those it knew."""
        self.manifest(batch_id)
        if is_file(self._path(batch_id, "order")):
            yield from islice(self.order(batch_id), first)
        else:
            yield from islice((task_id for _, task_id in self._items(batch_id)), first)

    def order(self, batch_id: str) -> Iterator[str]:
        """Task ids of the last whole submission; none without one. Damaged lines are passed over."""
        return (line for line in whole_lines(self._path(batch_id, "order")) if ID_RE.match(line))

    def documents(self, batch_id: str, first: int | None = None) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
        """In the input's order: each stored task, and again as finished document (None while it has not ended).

        Of one whose record is damaged or in quarantine the second has status ``unfinished`` and an error. What was purged
        is left out.
        """
        corrupt = lookup.CorruptTasks(self._layout)
        for task_id in self.task_ids(batch_id, first):
            pair = _documents(self._layout, task_id, corrupt)
            if pair is not None:
                yield pair


def _documents(
    layout: Layout, task_id: str, corrupt: lookup.CorruptTasks
) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """Of one task; None for one that is nowhere."""
    try:
        for _ in range(_LOOKS):
            if (finished := lookup.read_ended(layout, task_id)) is not None:
                return finished, finished
            located = lookup.find(layout, task_id)
            if located is None:
                aside = corrupt.found(task_id)
                return None if aside is None else _damaged(task_id, f"its record {aside.words}")
            if located.state not in TERMINAL:
                with suppress(FileNotFoundError):  # it has just moved on
                    return codec.read_document(located.path), None
    except ValueError as exc:
        why = f"its record is damaged: {exc}; `swarm queue fsck` names it, `--repair` moves it to corrupt/"
        return _damaged(task_id, why)
    return {"task_id": task_id}, None


def _damaged(task_id: str, why: str) -> tuple[dict[str, Any], dict[str, Any]]:
    known = {"task_id": task_id}
    return known, {**known, "status": "unfinished", "error": {"type": "damaged", "message": why}}


def _ids_in_groups(chunk: list[tuple[str, Mapping[str, Any]]], known: Mapping[str, str]) -> dict[str, str]:
    """Ids for the new items of a chunk that are in a prefix group: ids are the order in which tasks run."""
    new = [(key, document) for key, document in chunk if key not in known] if known else chunk
    groups = prefix_groups([document for _, document in new]) if len(new) > 1 else []
    return {new[at][0]: new_id(group.key) for group in groups for at in group.members}
