"""``Swarm``: the client class for Python programs and notebooks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from swarm import __version__
from swarm.api.documents import DocumentMaker, EarlierNames, Work, drafts_of, is_linked, plain
from swarm.api.results import Alive, Result, Results, as_ended, read_result
from swarm.cli.run.hosting import Hosting, hosting
from swarm.cli.run.input_options import LineCheck
from swarm.cli.run.servable import check_models
from swarm.clock import now_iso
from swarm.config.load import load
from swarm.config.settings import Settings
from swarm.core.task import ID_RE
from swarm.errors import ConfigError, DuplicateTask, InputError, NotRunning, TaskInvalid
from swarm.formats.input.problems import FieldError
from swarm.formats.tasks.links import links
from swarm.formats.tasks.scan import ItemKeys
from swarm.formats.tasks.task_builder import Built
from swarm.notify.targets import check_target
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.file_queue import FileQueue
from swarm.queue.lookup import ended_in, read_ended
from swarm.runtime.bootstrap import run_options
from swarm.runtime.open import open_queue
from swarm.worker.executors.allowlist import check_submitted


class Handle:
    """One submitted task."""

    def __init__(self, swarm: Swarm, task_id: str) -> None:
        self._swarm = swarm
        self.id = task_id

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    def done(self) -> bool:
        """Whether the task has ended, successfully or not."""
        return ended_in(self._swarm.queue.layout, self.id) is not None

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for its end. A failed task is a result with ``ok`` False. Raises ``TimeoutError``; the task goes on then."""
        return self._swarm.wait([self], timeout_s)[0]

    def cancel(self) -> None:
        """Cancel it: at once while it waits, by asking its worker while it runs; one that has ended stays as it is."""
        if not self.done():
            self._swarm.queue.cancel(self.id, "cancelled through the Python API")


class Swarm:
    """A swarm to put work into, for as long as the ``with`` block lasts.

    One that runs on this root already is used and left running; otherwise one is started, and drained at the end of the
    block. What has not ended by then stays in the queue.
    """

    def __init__(
        self, root: str | Path | None = None, config: str | Path | None = None, simulate: int | None = None
    ) -> None:
        """``root`` and ``config`` as for the commands; ``simulate``: so many simulated cards instead of real ones.

        Raises ``ConfigError``.
        """
        self._loaded = load(_path("config", config), os.environ, _path("root", root))
        self._simulate = simulate
        self._stack: ExitStack | None = None
        self._host = Hosting(own=None)
        self._line_check = LineCheck(self._loaded.settings)
        self._checked: set[str] = set()
        self._notifiable: set[str] = set()
        self.queue: FileQueue = open_queue(self._loaded.settings)
        self._names = EarlierNames(self.queue.find)

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self._loaded.settings

    def start(self) -> Self:
        """Start like entering the ``with`` block, for notebooks; ``close`` ends it. Raises ``EngineError``."""
        if self._stack is None:
            stack = ExitStack()
            self.queue.prepare()
            self._host = stack.enter_context(hosting(run_options(self._loaded, simulate=self._simulate)))
            self._stack = stack
        return self

    def close(self) -> None:
        """End what ``start`` began: a swarm started here finishes its running tasks and ends."""
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def submit(self, work: Work, *, model: str | None = None, **fields: Any) -> Handle:  # noqa: ANN401 - task fields
        """Put one task into the queue; it is safely on disk when this returns.

        ``work``: a prompt, chat messages, or a dictionary (a line as in a JSONL input, or a whole task). ``fields``: task
        fields (``priority``, ``session``, ``timeout_s`` …), ``system``, ``options={"num_predict": 64}``, ``endpoint``,
        ``format`` (``"json"`` or a JSON Schema), ``images`` (paths) and ``images_dir``. ``depends_on`` takes handles, task
        ids, and names (``name``, ``custom_id``) of tasks submitted before through this object.
        Raises ``InputError``, ``ModelNotFound``, ``ModelDoesNotFit``, ``StorageFault``.
        """
        self._must_run()
        made = DocumentMaker(model=model, fields=plain(fields)).make(work)
        document = self._names.linked(made.document)
        self._check(made)
        try:
            task_id = self.queue.enqueue(document)
        except (TaskInvalid, DuplicateTask) as problem:
            raise InputError(problem.message, hint=problem.hint) from problem
        self._names.note(made.document, task_id)
        return Handle(self, task_id)

    def map(
        self,
        items: Iterable[Work],
        *,
        model: str | None = None,
        template: str | None = None,
        batch: str | None = None,
        **fields: Any,  # noqa: ANN401 - task fields
    ) -> Results:
        """Put one task per item into the queue and return an iterator of their results as they finish.

        Items as for ``submit``; with ``template`` dictionaries whose columns fill it (``"Sum up: {text}"``). ``items`` is
        read to its end first and accepted in chunks that are durable one by one. ``depends_on`` of an item may hold the
        ``custom_id`` or ``name`` of others, task ids and handles. With ``batch`` the same call again, in another process
        too, does not repeat what is known: items count by content. Raises as ``submit``, naming the item; nothing was
        accepted then.
        """
        self._must_run()
        if isinstance(items, str | Mapping):
            raise InputError("items: is one piece of work, not a list of them", hint="submit() takes one; map([item], …)")
        if batch is not None and not ID_RE.match(batch):
            fit = re.sub(r"[^A-Za-z0-9_-]+", "-", batch).strip("-_")[:60] or "my-batch"
            raise InputError(f"{batch!r} is no name for a batch", hint=f"letters, digits, - and _: {fit}")
        batch_id = batch or f"map-{self.queue.new_id()}"
        fields = plain(fields)
        maker = DocumentMaker(model=model, template=template, fields=fields)
        book = self.queue.batches()
        given = items if isinstance(items, Sequence) else list(items)
        for _ in self._pairs(maker, given):
            pass  # what cannot be meant is said before anything is accepted
        linked = links(drafts_of(self._pairs(maker, given)), "items", self.queue.find) if is_linked(given, fields) else None
        manifest = Manifest(
            batch_id=batch_id,
            source="python",
            format="jsonl",
            created_at=now_iso(),
            models={model: 0} if model else {},
            options={name: value for name, value in (("template", template), *fields.items()) if value is not None},
            version=__version__,
        )
        grouped = self.settings.llm.prefix_order
        for _ in book.submit(manifest, self._pairs(maker, given), linked, prefix_order=grouped):
            pass
        ids = list(book.task_ids(batch_id))
        return Results(self.queue.layout, batch_id, ids, Alive(self.settings, self._host))

    def wait(self, handles: Iterable[Handle], timeout_s: float | None = None) -> list[Result]:
        """Wait until all have ended; results in the order of the handles. Raises ``TimeoutError``, ``EngineError``."""
        ids = [handle.id for handle in handles]
        if any(read_ended(self.queue.layout, task_id) is None for task_id in ids):
            self._must_run()
            for _ in as_ended(self.queue.layout, ids, Alive(self.settings, self._host), timeout_s):
                pass
        return [read_result(self.queue.layout, task_id) for task_id in ids]

    def _pairs(self, maker: DocumentMaker, items: Iterable[Work]) -> Iterator[tuple[str, dict[str, Any]]]:
        key_of = ItemKeys()
        for index, work in enumerate(items):
            made = maker.make(work, index)
            self._check(made)
            yield key_of(made.digest), made.document

    def _check(self, made: Built) -> None:
        """Whether it can be done: by the engine, a model that is there and has room, a program that is allowed.

        And whether its targets can be notified.
        """
        check_submitted(made.document, self.settings.scripts)
        for target in made.document.get("notify") or ():
            if isinstance(target, str) and target not in self._notifiable:
                check_target(target, self.settings)
                self._notifiable.add(target)
        try:
            self._line_check(made.document)
        except FieldError as error:
            refused = error.__cause__  # in the queue's own words, where it is what refuses
            raise InputError(
                refused.message if isinstance(refused, TaskInvalid) else f"item {made.line_no}: {error}"
            ) from error
        model = made.document.get("model")
        if isinstance(model, str) and model not in self._checked:
            check_models(self.settings, [model], unfit="refuse")
            self._checked.add(model)

    def _must_run(self) -> None:
        if self._stack is None:
            raise NotRunning("this Swarm is not started", hint="use it as `with Swarm() as swarm: …`, or call start()")


def _path(name: str, given: str | Path | None) -> Path | None:
    """None and paths as they are. Raises ``ConfigError`` for an empty text: it would mean the current directory."""
    if given == "":
        raise ConfigError(f"{name}: is empty", hint="name a path, or leave it out")
    return None if given is None else Path(given)
