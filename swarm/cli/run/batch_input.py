"""Reads and checks a whole input, then submits it item by item."""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from swarm import __version__
from swarm.cli.command_options import BatchOptions, Outcome
from swarm.cli.run.input_options import LineCheck, check_options, read_options, task_fields, with_defaults
from swarm.cli.units import count, plural
from swarm.clock import now_iso
from swarm.config.load import Loaded
from swarm.core.notification import Note
from swarm.core.task import TERMINAL, TaskState
from swarm.errors import EXIT_OK, InputError
from swarm.formats.input.problems import Problems
from swarm.formats.input.source import Source, as_text
from swarm.formats.tasks.links import links
from swarm.formats.tasks.scan import Scan, drafts, validate
from swarm.notify.targets import check_target
from swarm.queue.batches.batch_book import Manifest, Submitted
from swarm.queue.lookup import ended_in
from swarm.queue.stores.notifications import write_note
from swarm.runtime.open import open_queue

SHOWN = 3
SHOWN_CHARS = 160
Item = tuple[str, Mapping[str, Any]]


def check_request(loaded: Loaded, request: BatchOptions) -> None:
    """Reject wrong options before anything is read or started. Raises ``InputError``."""
    task_fields(request)
    check_options(loaded.settings, request)
    for target in request.notify or ():
        check_target(target, loaded.settings)


class BatchInput:
    """One input, checked as a whole."""

    def __init__(self, loaded: Loaded, request: BatchOptions, source: Source) -> None:
        """Read and check all of it; nothing is written. Raises ``InputError`` with all problems."""
        self._request = request
        self._source = source
        self._options = read_options(request, loaded.settings)
        self.queue = open_queue(loaded.settings)
        self._prefix_order = loaded.settings.llm.prefix_order
        check = LineCheck(loaded.settings)
        self.scan: Scan = validate(source, self._options, check)
        _check_line_targets(loaded, self.scan)
        check.say_unknown()
        self._links = None
        if self.scan.linked:
            self._links = links(drafts(source, self._options, self.scan), source.label, self.queue.find)
        self._defaults = task_fields(request)

    def items(self) -> Iterator[Item]:
        """Item keys and tasks in the input's order: its second reading."""
        for draft in drafts(self._source, self._options, self.scan):
            yield draft.item_key, with_defaults(draft.document, self._defaults)

    def put_back(self) -> int:
        """Retry failed and cancelled items, as far as the input is read; how many."""
        known = self.queue.batches().known(self.scan.batch_id)
        return self.queue.retry_many(known[key] for key in self.scan.item_keys() if key in known) if known else 0

    def work_left(self) -> bool:
        """Whether any item has not ended yet; a batch never seen is all work."""
        known = self.queue.batches().known(self.scan.batch_id)
        ids = (known.get(key) for key in self.scan.item_keys())
        return any(task_id is None or ended_in(self.queue.layout, task_id) is None for task_id in ids)

    def accept(self) -> Submitted:
        """Put what is new into the queue, durably. Raises ``InputError`` if the input has changed, ``StorageFault``."""
        request, scan, source = self._request, self.scan, self._source
        manifest = Manifest(
            batch_id=scan.batch_id,
            source=as_text(source.label) if source.identity.startswith("pipe:") else source.identity,
            format=scan.format,
            created_at=now_iso(),
            models=scan.models,
            options={k: v for k, v in self._options.meaning().items() if v},
            version=__version__,
            max_fails=request.max_fails,
        )
        if request.notify:
            note = Note(subject="batch", id=scan.batch_id, targets=tuple(request.notify))
            write_note(self.queue.layout, self.queue.storage, note)
        items, keys = self.items(), None
        if request.sort != "input":
            items, keys = by_length(items, longest_first=request.sort == "longest"), scan.item_keys()
        total = Submitted(items=0, new=0, again=0)
        partial, grouped = request.limit is not None, self._prefix_order
        book = self.queue.batches()
        for total in book.submit(manifest, items, self._links, keys=keys, partial=partial, prefix_order=grouped):  # noqa: B007
            pass
        return total

    def dry_run(self) -> Outcome:
        """Counts, models and the first tasks. Nothing is written; no swarm is needed."""
        scan, queue = self.scan, self.queue
        known = queue.batches().known(scan.batch_id)
        ids = [known.get(key) for key in scan.item_keys()]
        new = ids.count(None)
        states = Counter(ended_in(queue.layout, task_id) for task_id in ids if task_id is not None)
        ended = {state: states[state] for state in TERMINAL}
        first = [dict(task) for _, task in islice(self.items(), SHOWN)]
        document = {
            "dry_run": True,
            "batch_id": scan.batch_id,
            "format": scan.format,
            "items": scan.items,
            "new": new,
            "known_already": scan.items - new,
            **{str(state): number for state, number in ended.items()},
            "models": scan.models,
            "first_tasks": first,
        }
        return Outcome(EXIT_OK, document, _dry_lines(scan, new, ended, first))


def _check_line_targets(loaded: Loaded, scan: Scan) -> None:
    """Whom the lines themselves name: refused with the first line of each before anything is accepted."""
    problems = Problems(scan.label)
    for target, line_no in scan.targets.items():
        try:
            check_target(target, loaded.settings)
        except InputError as error:
            problems.add(line_no, f"notify: {error.message.removeprefix('notify ')}")
    problems.raise_if_any()


def by_length(items: Iterable[Item], *, longest_first: bool) -> Iterator[Item]:
    """The items by the length of their requests, equal ones in the input's order. Memory: some 60 bytes an item.

    They go through a temporary file. Raises ``InputError`` for items whose order means something.
    """
    offsets, lengths = array("Q", [0]), array("q")
    with tempfile.TemporaryFile(prefix="swarm-sort-") as spool:
        for key, document in items:
            if document.get("session") or document.get("depends_on"):
                raise InputError("--sort would change the order within sessions and dependencies", hint="leave --sort out")
            lengths.append(len(msgspec.json.encode(document.get("request"))))
            offsets.append(offsets[-1] + spool.write(msgspec.json.encode((key, document))))
        for at in sorted(range(len(lengths)), key=lambda i: -lengths[i] if longest_first else lengths[i]):
            spool.seek(offsets[at])
            found: Item = msgspec.json.decode(spool.read(offsets[at + 1] - offsets[at]), type=tuple[str, dict[str, Any]])
            yield found


def _dry_lines(scan: Scan, new: int, ended: dict[TaskState, int], first: list[dict[str, Any]]) -> tuple[str, ...]:
    waiting = scan.items - new - sum(ended.values())
    known = f", {count(sum(ended.values()))} have ended, {count(waiting)} wait or run" if new < scan.items else ""
    return (
        f"batch {scan.batch_id}: {plural(scan.items, 'item')} ({scan.format}), {count(new)} new{known}",
        *(f"model {model}: {plural(number, 'item')}" for model, number in sorted(scan.models.items())),
        *(f"task {number}: {_short(task)}" for number, task in enumerate(first, start=1)),
        "nothing was written: this was a dry run",
    )


def _short(task: dict[str, Any]) -> str:
    asked = {name: value for name, value in task.items() if name != "metadata"}
    text = msgspec.json.encode(asked).decode()
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
