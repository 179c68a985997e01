"""`swarm feed`: feeds a lane from a source of lines, keeping its waiting tasks between two marks.

The order of writes makes sure that a kill neither skips nor doubles a line: tasks are made durable under ids derived from
the line's number, then the cursor moves. Lines between the two at a kill are offered again and found to exist. At most
``MAX_LINES`` lines can be in that state, so a feeder that starts checks ids until that many in a row were new, and none
after that.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, cast

import msgspec

from swarm import __version__
from swarm.cli.command_options import FeedRequest, Outcome
from swarm.cli.run.input_options import LineCheck, check_options, read_options, task_fields
from swarm.cli.run.servable import check_models
from swarm.cli.run.single_task import note_if_nobody_works
from swarm.clock import now_iso
from swarm.config.load import Loaded
from swarm.config.settings import Settings
from swarm.core.lanes import lane_of
from swarm.core.workflow.feed import FeedLine, FeedState, FeedStatus, behind, refill, task_id_of, with_rejection
from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TASKS_FAILED, EngineError, InputError, ModelNotFound
from swarm.formats.input.feed_sources import CommandLines, CsvRows, FileLines
from swarm.formats.input.problems import FieldError
from swarm.formats.input.readers import parse_object, resolve_format
from swarm.formats.input.source import Format, InputItem, ReadOptions, as_text, source_of, text_of
from swarm.formats.tasks.scan import slug
from swarm.formats.tasks.task_builder import builder
from swarm.notify.targets import check_target
from swarm.queue.stores.feeds import FeedBook, FeedPool, OpenFeed, note_batch
from swarm.queue.submit.producer import waits
from swarm.runtime.loop import RootGuard, handling
from swarm.runtime.open import open_queue, swarm_lives
from swarm.views.words import count

FeedSource = FileLines | CommandLines | CsvRows
POLL_S = 0.02
LONGEST_POLL_S = 0.2
MAX_LINES = 1000
"""Lines looked at in one step, however many are rejected: they are offered together, and the cursor is saved then."""


class Offer(msgspec.Struct, frozen=True):
    """A line as a task: its document and the lane it will wait in."""

    document: dict[str, Any]
    lane: str
    waits: bool
    """It goes to ``blocked`` first."""


Make = Callable[[FeedLine], Offer | str]
"""A line's task, or why there is none."""


class Feeder:
    """Feeds until its source ends or an operator stops it."""

    def __init__(self, lines: FeedSource, make: Make, pool: FeedPool, book: OpenFeed, state: FeedState) -> None:
        self._lines = lines
        self._make = make
        self._pool = pool
        self._book = book
        self.state = state
        self._lane: str | None = None
        self._waits = False
        self._held: tuple[FeedLine, Offer | str] | None = None
        self._pause_s = POLL_S
        self._doubtful = MAX_LINES
        """So many tasks must yet be new, one after the other, until it is sure that no earlier feeder got as far."""

    @property
    def finished(self) -> bool:
        """No further step is wanted."""
        return self.state.status in ("finished", "stopped", "failed")

    def step(self) -> float:
        """Do what is due; returns the seconds to wait before the next. Raises ``StorageFault``: nothing is lost by it."""
        wish, reason = self._book.wish()
        match wish:
            case "stop":
                self._become("stopped", reason)
                return 0.0
            case "pause":
                self._become("paused", reason)
                return LONGEST_POLL_S
            case "run":
                self._become("running", "")
        self._held = self._held or self._next()
        if self._held is None:
            if self._lines.ended:
                fault = self._lines.fault
                self._become("failed" if fault else "finished", fault or "")
            return self._patience()
        room = self.state.target
        if self._lane is not None:
            own = f"{self.state.feed_id}-" if self._waits else ""
            pending = self._pool.pending(self._lane, blocked=own)
            room = refill(pending, self.state.min, self.state.target)
        if room <= 0:
            return self._patience()
        self._pause_s = POLL_S
        self._fill(room)
        return 0.0

    def _patience(self) -> float:
        self._pause_s = min(self._pause_s * 1.5, LONGEST_POLL_S)
        return self._pause_s

    def _fill(self, room: int) -> None:
        state, documents, looked = self.state, list[dict[str, Any]](), 0
        lane = self._lane
        while len(documents) < room and looked < MAX_LINES:
            held = self._held or self._next()
            self._held = None
            if held is None:
                break
            looked += 1
            line, offer = held
            if isinstance(offer, str):
                state = with_rejection(behind(state, line), line.first, offer)
                continue
            if offer.lane != self._lane:  # its own lane's marks count: look there before it is offered
                self._lane, self._waits, self._held = offer.lane, offer.waits, held
                break
            self._waits = self._waits or offer.waits
            documents.append(
                {"task_id": task_id_of(state.feed_id, line.number), "batch_id": state.feed_id, **offer.document}
            )
            state = behind(state, line)
        if looked == MAX_LINES and not documents and not state.accepted:
            why = state.rejections[0] if state.rejections else "none could be read"
            self._become("failed", f"none of the first {looked:,} lines makes a task; {why}")  # and the cursor stays
        elif state != self.state:
            self._accept(documents, lane, state)

    def _accept(self, documents: list[dict[str, Any]], lane: str | None, state: FeedState) -> None:
        """First the tasks, all of one lane, then the cursor."""
        again = 0
        if documents:
            assert lane is not None
            again = self._pool.offer(documents, lane, doubtful=self._doubtful > 0)
        self._doubtful = MAX_LINES if again else max(0, self._doubtful - len(documents))
        accepted = state.accepted + len(documents)
        self.state = msgspec.structs.replace(state, accepted=accepted, again=state.again + again)
        self._book.save(self.state, tuple(document["task_id"] for document in documents))

    def _next(self) -> tuple[FeedLine, Offer | str] | None:
        line = self._lines.read()
        return None if line is None else (line, self._make(line))

    def _become(self, status: FeedStatus, reason: str) -> None:
        if (status, reason) != (self.state.status, self.state.reason):
            self.state = msgspec.structs.replace(self.state, status=status, reason=reason)
            self._book.save(self.state, ())


MAX_SLUG = 30
ASK_AGAIN_S = 5.0
"""Servers are not asked more often for a model that none had."""
Report = Callable[[FeedState], None]
RecordOf = Callable[[bytes], dict[str, Any]]


def feed(loaded: Loaded, request: FeedRequest, report: Report) -> Outcome:
    """Feed until the source ends, `swarm feed stop`, or Ctrl-C; the same call again goes on behind the last line fed.

    Raises ``InputError``, ``LockHeld`` while another feeder of it runs, ``StorageFault``.
    """
    options = read_options(request, loaded.settings)
    check_options(loaded.settings, request)
    defaults = task_fields(request)
    fresh = _fresh(request, options, *_marks(request, loaded.settings))
    queue = open_queue(loaded.settings).prepare()
    note_if_nobody_works(loaded.settings)
    if fresh.model and swarm_lives(loaded.settings):
        check_models(loaded.settings, [fresh.model], unfit="ignore")
    guard = RootGuard(queue.layout.root)
    book = FeedBook(queue.layout, queue.storage)
    with book.alone(fresh.feed_id):
        known = book.find(fresh.feed_id) or fresh
        state = msgspec.structs.replace(known, min=fresh.min, target=fresh.target, status="running", reason="")
        if book.wish(state.feed_id) == "stop":
            book.set_wish(state.feed_id, "run")
        note_batch(queue.batches(), state, version=__version__)
        asked: list[int] = []  # Ctrl-C, SIGTERM and a terminal that closes end it between two steps
        with closing(_lines(request, state)) as lines, handling(lambda number, _frame: asked.append(number)):
            pool = FeedPool(queue.layout, queue.storage)
            if isinstance(lines, CsvRows):
                state = msgspec.structs.replace(state, header_digest=lines.header_digest)
            make = _maker(options, state, _record_of(lines, state, options), defaults, loaded.settings)
            feeder = Feeder(lines, make, pool, book.open(state.feed_id), state)
            while not feeder.finished and not asked:
                if why := guard.trouble():
                    raise EngineError(f"{why}: the feed has stopped", hint="find out who did that; the same command resumes")
                pause_s = feeder.step()
                report(feeder.state)
                if pause_s:
                    time.sleep(pause_s)
        note_batch(queue.batches(), feeder.state, version=__version__)
    return _outcome(feeder.state, began=state, interrupted=not feeder.finished)


def _marks(request: FeedRequest, settings: Settings) -> tuple[int, int]:
    """Refill below the first, up to the second. One of them alone moves the configured other one. Raises ``InputError``."""
    wanted = settings.feed
    low = request.low if request.low is not None else min(wanted.min, request.target or wanted.min)
    target = request.target if request.target is not None else max(wanted.target, request.low or 0)
    if low > target:
        raise InputError(f"--min {low} is above --target {target}")
    return low, target


def _fresh(request: FeedRequest, options: ReadOptions, low: int, target: int) -> FeedState:
    """The state of this feed before its first line."""
    if request.command is not None:
        source, label = request.command, _words_of(request.command)[0]
        form: Format = options.format or "text"
    else:
        source = os.path.abspath(request.source or "")
        if as_text(source) != source:
            raise InputError(f"{as_text(source)}: is not UTF-8", hint="a feed is kept by the name of its file: rename it")
        label = os.path.splitext(os.path.basename(source))[0]
        form = options.format or resolve_format(source_of(source), options)
    if form == "csv" and request.command is not None:
        raise InputError("--command: a command's lines cannot be CSV", hint="have it print JSON lines: --format jsonl")
    meaning = msgspec.json.encode([request.command is not None, source, form, options.meaning()], order="sorted")
    mark = hashlib.blake2b(meaning, digest_size=4, person=b"swarm-feed-1").hexdigest()
    return FeedState(
        feed_id=f"feed-{slug(label, MAX_SLUG) or 'lines'}-{mark}",
        source=source,
        is_command=request.command is not None,
        format=form,
        model=options.model,
        min=low,
        target=target,
        created_at=now_iso(),
    )


def _words_of(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise InputError(f"--command {command!r}: {str(problem).lower()}") from problem
    if not words or not words[0]:
        raise InputError("--command: is empty", hint='--command "python list_work.py"')
    return words


def _lines(request: FeedRequest, state: FeedState) -> FeedSource:
    if request.command is not None:
        return CommandLines(_words_of(request.command), state)
    if state.format == "csv":
        return CsvRows(state.source, state, follow=request.follow)
    return FileLines(state.source, state, follow=request.follow)


def _maker(
    options: ReadOptions, state: FeedState, record_of: RecordOf, defaults: Mapping[str, Any], settings: Settings
) -> Make:
    if options.images_dir is None and not state.is_command:
        options = msgspec.structs.replace(options, images_dir=os.path.dirname(state.source))
    build = builder(cast("Format", state.format), options)
    check = LineCheck(settings)
    check_notify = functools.lru_cache(lambda target: check_target(target, settings))
    check_model = _ModelCheck(settings)

    def make(line: FeedLine) -> Offer | str:
        try:
            document = {**defaults, **build(InputItem(line.first, record_of(line.raw))).document}
            task = check(document)
            check.say_unknown()
            for target in task.notify:
                check_notify(target)
            check_model(task.model)
        except (InputError, ModelNotFound, FieldError) as error:
            return str(error)
        if task.depends_on:
            return "depends_on: the lines of a feed cannot wait for one another; submit them as a batch"
        return Offer(document, lane_of(task), waits(task))

    return make


class _ModelCheck:
    """Whether a server has a line's model, where any can be asked; each model is asked for now and then at most."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._there: set[str | None] = {None}
        self._missing: dict[str, tuple[float, ModelNotFound]] = {}

    def __call__(self, model: str | None) -> None:
        """Raises ``ModelNotFound``."""
        if model is None or model in self._there or not swarm_lives(self._settings):
            return
        asked_s, missing = self._missing.get(model, (0.0, None))
        if missing is not None and time.monotonic() - asked_s < ASK_AGAIN_S:
            raise missing
        try:
            check_models(self._settings, [model], unfit="ignore")
        except ModelNotFound as error:
            self._missing[model] = (time.monotonic(), error)
            raise
        self._there.add(model)


def _record_of(lines: FeedSource, state: FeedState, options: ReadOptions) -> RecordOf:
    """How a line is read: a row by its header, a text as a prompt, else a JSON object. It raises ``FieldError``."""
    if isinstance(lines, CsvRows):
        return lines.record
    if state.format != "text":
        return parse_object
    column = options.prompt_field or "prompt"
    return lambda raw: {column: text_of(raw)}


def _outcome(state: FeedState, *, began: FeedState, interrupted: bool) -> Outcome:
    numbers = f"{count(state.number)} lines read, {count(state.accepted)} tasks made, {count(state.rejected)} rejected"
    lines = [f"feed {state.feed_id}: {numbers}; {'interrupted' if interrupted else state.status}"]
    if state.reason:
        lines.append(state.reason)
    if began.number:
        lines.append(f"resumed after line {began.number:,}; {count(state.again - began.again)} existed already")
    lines += [f"rejected {why}" for why in state.rejections[:10]]
    if interrupted:
        lines.append("run the same command again to resume")
    lines.append(f"results: swarm results {state.feed_id} -o OUT")
    bad = state.status == "failed" or state.rejected > 0
    code = EXIT_INTERRUPTED if interrupted else EXIT_TASKS_FAILED if bad else EXIT_OK
    return Outcome(code, msgspec.to_builtins(state), tuple(lines))
