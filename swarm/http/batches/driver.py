"""The batch driver: takes each open batch from one status to the next, by what is on disk alone.

* ``core.batches.life`` says what is next. Every step may be cut off by a death and is then done again.
* Nothing but caches is kept in memory; whatever fails drops them, and the batch is looked at anew after a while.
* One driver works on a root: it holds the process lock ``.http-batches``.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import msgspec

from swarm import __version__
from swarm.clock import iso_of
from swarm.config.settings import Settings
from swarm.core.batches.life import (
    CANCELLABLE,
    OVER,
    BatchFacts,
    BatchStatus,
    BatchStep,
    next_step,
)
from swarm.core.batches.windows import WindowClaim, windows
from swarm.errors import SwarmError
from swarm.http.batches.followed_batch import FollowedBatch
from swarm.http.batches.requests import LineProblem, RequestReader, check_file, numbered_lines, unknown_models
from swarm.http.batches.result_files import write_results
from swarm.queue.batches.api_batches import ApiBatch, ApiBatches
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores.file_store import FileStore, sortable_id

SLICE_S = 0.25
"""Checking and writing of one batch stop after this for the others."""
RETRY_S = 2.0
"""A batch in trouble is looked at again after this, later each time."""
RETRY_MOST_S = 60.0
STOP_AGAIN_S = 1.0
_ENTERED = {
    BatchStep.CANCEL: (BatchStatus.CANCELLING, BatchStatus.CANCELLED),
    BatchStep.EXPIRE: (BatchStatus.FINALIZING, BatchStatus.EXPIRED),
    BatchStep.FINISH: (BatchStatus.FINALIZING, BatchStatus.COMPLETED),
}
"""The status, and how it is to end."""
T = TypeVar("T")


class BatchDriver:
    """Every method may raise ``StorageFault``."""

    def __init__(self, settings: Settings, queue: FileQueue, log: logging.Logger) -> None:
        self._settings = settings
        self._queue = queue
        self._log = log
        self._book = ApiBatches(queue.layout, queue.storage)
        self._store = FileStore(queue.layout, queue.storage)
        self._followed: dict[str, FollowedBatch] = {}
        self._not_before_s: dict[str, float] = {}
        self._troubles: dict[str, int] = {}

    def tick(self) -> bool:
        """Go one step on with every open batch; whether there is more to do at once."""
        names = self._book.open_names()
        for gone in self._followed.keys() - set(names):
            del self._followed[gone]
        self._not_before_s = {name: at_s for name, at_s in self._not_before_s.items() if name in names}
        now_s = time.monotonic()
        due = [name for name in names if self._not_before_s.get(name, 0.0) <= now_s]
        for name in due:
            self._guarded(name, partial(self._follow, name))
        room = windows([self._claim(f) for f in self._followed.values() if self._submits(f)])
        busy = False
        for name in due:
            if name in self._followed:
                busy |= self._guarded(name, partial(self._step, self._followed[name], room.get(name, 0)))
        return busy

    @property
    def has_open(self) -> bool:
        """Whether any batch was open at the last tick."""
        return bool(self._followed or self._not_before_s)

    def _guarded(self, name: str, act: Callable[[], object]) -> bool:
        """One batch in trouble holds up no other."""
        try:
            done = bool(act())
        except (SwarmError, OSError) as trouble:
            self._log.warning("batch %s: %s; trying again", name, trouble)
        except Exception as fault:  # noqa: BLE001  (a fault in our own code: that batch waits, the others go on)
            place = "".join(traceback.format_tb(fault.__traceback__))  # without its text, which may quote a prompt
            self._log.error("batch %s: %s, trying again; at\n%s", name, type(fault).__name__, place)
        else:
            self._troubles.pop(name, None)
            return done
        self._followed.pop(name, None)
        troubles = self._troubles[name] = self._troubles.get(name, 0) + 1
        self._not_before_s[name] = time.monotonic() + min(RETRY_S * troubles, RETRY_MOST_S)
        return False

    def _follow(self, name: str) -> None:
        if name in self._followed:
            return
        batch = self._book.find(name)
        if batch is None or batch.status in OVER:  # a death came between its end and this
            self._book.clear(name)
            return
        self._followed[name] = FollowedBatch(self._queue, batch, self._book.shown(name))

    def _submits(self, f: FollowedBatch) -> bool:
        return f.batch.status is BatchStatus.IN_PROGRESS

    def _claim(self, f: FollowedBatch) -> WindowClaim:
        left = 0 if f.batch.submitted else (f.batch.total or 0) - len(f.known) - f.refused
        return WindowClaim(batch_id=f.batch.id, client=f.batch.client, waiting=f.unended, left=max(left, 0))

    def _step(self, f: FollowedBatch, room: int) -> bool:
        f.count(self._book)
        batch = f.batch
        facts = BatchFacts(
            status=batch.status,
            ending=batch.ending,
            cancel_asked=batch.status in CANCELLABLE and self._book.cancel_asked_at(batch.id) is not None,
            due=batch.expires_at <= time.time(),
            total=batch.total,
            submitted=batch.submitted,
            unended=f.unended,
        )
        step = next_step(facts)
        match step:
            case BatchStep.CHECK:
                return self._check(f)
            case BatchStep.SUBMIT:
                return self._submit(f, room)
            case BatchStep.CANCEL | BatchStep.EXPIRE | BatchStep.FINISH:
                return self._enter(f, *_ENTERED[step])
            case BatchStep.STOP:
                return self._stop(f)
            case BatchStep.WRITE:
                return self._write(f)
            case _:
                return False

    def _check(self, f: FollowedBatch) -> bool:
        batch = f.batch
        if f.checking is None:
            reader = RequestReader(self._settings, batch.endpoint)
            path = self._store.content_path(batch.input_file_id)
            unknown = unknown_models(self._settings)
            f.checking = check_file(path, reader, self._settings.http.max_batch_requests, unknown)
        done = _go_on(f.checking)
        if done is None:
            return True
        (checked,) = done
        f.checking = None
        if checked.problems:
            bad = msgspec.structs.replace(batch, errors=checked.problems, output_file_id=None, error_file_id=None)
            cancelled = batch.status is BatchStatus.CANCELLING
            return self._end(bad, BatchStatus.CANCELLED if cancelled else BatchStatus.FAILED)
        good = msgspec.structs.replace(batch, total=checked.total, models=checked.models)
        if batch.status is BatchStatus.VALIDATING:
            good = good.at(BatchStatus.IN_PROGRESS, time.time())
        return self._record(f, good)

    def _submit(self, f: FollowedBatch, number: int) -> bool:
        batch, book = f.batch, self._queue.batches()
        if f.requests is None:  # first in this life: what is on record is offered again, for it may never have been queued
            f.requests = self._requests(f)
            number += len(f.known)
        if not number:
            return False
        manifest = Manifest(
            batch_id=batch.id,
            source=batch.input_file_id,
            format="openai",
            created_at=iso_of(batch.created_at),
            models=batch.models,
            version=__version__,
        )
        grouped = self._settings.llm.prefix_order
        for _ in book.submit(manifest, islice(f.requests, number), partial=True, prefix_order=grouped):
            pass
        known = book.known(batch.id)
        for _ in book.submit(manifest, (), keys=known):  # its order is the input's again
            pass
        f.submitted(known)
        if len(known) + f.refused >= (batch.total or 0):
            f.requests = None
            return self._record(f, msgspec.structs.replace(batch, submitted=True))
        return False

    def _requests(self, f: FollowedBatch) -> Iterator[tuple[str, Mapping[str, Any]]]:
        reader = RequestReader(self._settings, f.batch.endpoint)
        for line_no, line in numbered_lines(self._store.content_path(f.batch.input_file_id)):
            try:
                request = reader.read(line_no, line)
            except LineProblem as problem:  # the configuration has changed since it was checked
                self._log.warning("batch %s: line %d is refused by now: %s", f.batch.id, line_no, problem.code)
                f.refused += 1
                continue
            yield request.key, request.document

    def _enter(self, f: FollowedBatch, status: BatchStatus, ending: BatchStatus) -> bool:
        """Stop being cancellable, or begin to be cancelled; the ids of the files are chosen now."""
        with self._book.alone():
            asked = self._book.cancel_asked_at(f.batch.id)
            if asked is not None and status is not BatchStatus.CANCELLING:
                return True  # asked in this moment: the next look obeys
            entered = msgspec.structs.replace(
                f.batch.at(status, asked or time.time()),
                ending=ending,
                output_file_id=sortable_id("file-"),
                error_file_id=sortable_id("file-"),
            )
            f.requests = None
            f.look_soon()
            return self._record(f, entered)

    def _stop(self, f: FollowedBatch) -> bool:
        now_s = time.monotonic()
        if now_s - f.stopped_s >= STOP_AGAIN_S:
            why = "its batch was cancelled" if f.batch.ending is BatchStatus.CANCELLED else "its batch has expired"
            self._queue.cancel_many(f.open_ids(), why)
            f.stopped_s = now_s
            f.look_soon()
        return False

    def _write(self, f: FollowedBatch) -> bool:
        if f.writing is None:
            f.writing = write_results(self._queue, self._store, f.batch, f.known)
        done = _go_on(f.writing)
        if done is None:
            return True
        (results,) = done
        if results is None:
            del self._followed[f.batch.id]  # something is retried: count anew
            return False
        batch = msgspec.structs.replace(
            f.batch,
            completed=results.completed,
            failed=results.failed,
            usage=results.usage,
            output_file_id=f.batch.output_file_id if results.completed else None,
            error_file_id=f.batch.error_file_id if results.failed else None,
        )
        assert batch.ending is not None
        return self._end(batch, batch.ending)

    def _record(self, f: FollowedBatch, batch: ApiBatch) -> bool:
        self._book.write(batch)
        f.batch = batch
        return True

    def _end(self, batch: ApiBatch, status: BatchStatus) -> bool:
        self._book.end(batch.at(status, time.time()))
        del self._followed[batch.id]
        self._log.info("batch %s is %s: %d completed, %d failed", batch.id, status, batch.completed, batch.failed)
        return False


def _go_on(work: Generator[None, None, T]) -> tuple[T] | None:
    """Its result once it has ended; None after ``SLICE_S``."""
    until_s = time.monotonic() + SLICE_S
    try:
        while time.monotonic() < until_s:
            next(work)
    except StopIteration as done:
        return (done.value,)
    return None
