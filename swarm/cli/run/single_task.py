"""`swarm submit` of one task: from a prompt or a document, and its answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from swarm.cli.command_options import Outcome, SubmitRequest
from swarm.cli.run.input_options import LineCheck, check_options, read_options, task_fields
from swarm.cli.run.servable import check_models
from swarm.config.settings import Settings
from swarm.core.models.model_options import option_problems
from swarm.core.task import TaskClass
from swarm.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TASKS_FAILED,
    EngineError,
    InputError,
    NotRunning,
)
from swarm.formats.input.problems import FieldError
from swarm.formats.input.source import InputItem, read_json
from swarm.formats.tasks.task_builder import builder
from swarm.queue.file_queue import FileQueue
from swarm.queue.lookup import read_result
from swarm.queue.root import prepare
from swarm.runtime.open import open_queue, swarm_lives

ANSWER_POLL_S = 0.02
"""A user waits for one answer."""


_FILE_ONLY = ("limit", "format", "max_fails", "images_dir", "prompt_field", "dry_run", "sort")
_PROMPT_ONLY = ("template", "system")
_LLM_ONLY = ("endpoint", "option", "schema", "cache")


def one_task(request: SubmitRequest, settings: Settings) -> dict[str, Any]:
    """The document that ``--prompt`` or ``--task`` asks for, checked. Raises ``InputError``."""
    if request.prompt is not None:
        if not request.model:
            raise InputError("--prompt needs --model", hint="swarm submit --prompt 'Hello' --model llama3.2:3b")
        _refuse(request, _FILE_ONLY, "--prompt")
        targets = {"notify": list(request.notify)} if request.notify else {}
        document, label = {**_prompt_document(request), **targets, **task_fields(request)}, "--prompt"
    else:
        _refuse(request, (*_FILE_ONLY, *_PROMPT_ONLY), "--task")
        label = str(request.task)
        document = _overridden(read_json(label, label, dict[str, Any]), request, label)
    check = LineCheck(settings)
    try:
        check(document)
        for name, problem in option_problems((document.get("request") or {}).get("options") or {}):
            raise FieldError(f"request.options.{name}", problem)
    except FieldError as error:
        raise InputError(f"{label}: {error}") from error
    check.say_unknown()
    return document


def _refuse(request: SubmitRequest, names: tuple[str, ...], beside: str) -> None:
    """An option that would change nothing is a misunderstanding, and said."""
    unset = SubmitRequest()
    given = [name for name in names if getattr(request, name) != getattr(unset, name)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"{options}: has no meaning with {beside}", hint=f"leave it out, or give a file instead of {beside}"
        )


def _overridden(document: dict[str, Any], request: SubmitRequest, label: str) -> dict[str, Any]:
    """The task with what the command line says of it: it is the later word, and about this one task."""
    kind = document.get("task_class")
    if kind != TaskClass.LLM:
        _refuse(request, _LLM_ONLY, f"a task of class {kind!r} ({label})")
    if kind not in (TaskClass.LLM, TaskClass.RESOURCE):
        _refuse(request, ("model",), f"a task of class {kind!r} ({label})")
    options = read_options(request)
    fields = task_fields(request)
    if request.model is not None:
        fields["model"] = request.model
    if request.endpoint is not None:
        fields["endpoint"] = options.endpoint
    if request.notify:
        fields["notify"] = list(request.notify)
    asked: dict[str, Any] = document.get("request") or {}
    if isinstance(asked, dict):  # what is none is refused with the rest
        own = asked.get("options") or {}
        if options.options and isinstance(own, dict):
            asked = {**asked, "options": {**own, **options.options}}
        if options.schema is not None:
            asked = {**asked, "format": options.schema}
        if asked:
            fields["request"] = asked
    return {**document, **fields}


def _prompt_document(request: SubmitRequest) -> dict[str, Any]:
    """As if it were the one line of an input, so that every option means the same."""
    try:
        built = builder("jsonl", read_options(request))(InputItem(1, {"prompt": request.prompt}))
    except FieldError as error:
        raise InputError(f"--prompt: {error.message}") from error
    return {name: value for name, value in built.document.items() if name != "metadata"}


def submit_one(settings: Settings, request: SubmitRequest) -> Outcome:
    """Accept one task, with ``--wait`` until it has ended. Raises ``InputError``, ``NotRunning`` without a swarm."""
    queue = open_queue(settings)
    check_options(settings, request)
    document = one_task(request, settings)
    _check_mentions(queue, document, settings)
    prepare(queue.layout, queue.storage)
    is_llm = document.get("task_class") == TaskClass.LLM
    models = [str(document["model"])] if is_llm and document.get("model") else []
    if models and swarm_lives(settings):
        check_models(settings, models, unfit="note")
    if not request.wait:
        task_id = queue.enqueue(document)
        note_if_nobody_works(settings)
        lines = (f"accepted {task_id}", f"see: swarm queue show {task_id}")
        return Outcome(EXIT_OK, {"task_id": task_id}, lines)
    return _wait(queue, settings, document, models)


def _check_mentions(queue: FileQueue, document: Mapping[str, Any], settings: Settings) -> None:
    """Refuse a program that is not allowed, a task to wait for that is nowhere, a target that cannot be notified.

    What is no list of texts is refused later.
    """
    if document.get("command"):
        from swarm.worker.executors.allowlist import check_submitted

        check_submitted(document, settings.scripts)
    for wanted in _texts(document.get("depends_on")):
        if queue.find(wanted) is None:
            raise InputError(f"depends_on: there is no task {wanted!r}", hint="`swarm queue list` shows the tasks")
    for target in _texts(document.get("notify")):
        from swarm.notify.targets import check_target

        check_target(target, settings)


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _wait(queue: FileQueue, settings: Settings, document: dict[str, Any], models: list[str]) -> Outcome:
    from swarm.cli.run.hosting import Hosting
    from swarm.cli.run.servable import unservable_words
    from swarm.cli.run.watch import RunWatch, interrupts

    host = Hosting(own=None)
    with interrupts(host) as heard:  # from here on: an interruption says that the task is accepted
        task_id = queue.enqueue(document)
        somebody_works(settings, f"task {task_id} is accepted", then=f"`swarm queue show {task_id}`")
        watch = RunWatch(queue, (task_id,), settings, time.monotonic(), models=models, look_s=ANSWER_POLL_S)
        end = watch.wait(lambda _view: None, host, heard)
    if end == "unservable":
        ways = f"task {task_id} waits until that has changed; `swarm queue cancel {task_id}` ends it"
        lines = (*unservable_words(watch.unservable), ways)
        answer: dict[str, Any] = {"task_id": task_id, "unservable": watch.unservable}
        return Outcome(EXIT_TASKS_FAILED, answer, lines)
    if end == "interrupted":
        ways = f"`swarm queue show {task_id}` shows its answer, `swarm queue cancel {task_id}` ends it"
        lines = (f"interrupted: task {task_id} is accepted and goes on; {ways}",)
        return Outcome(EXIT_INTERRUPTED, {"task_id": task_id, "interrupted": True}, lines)
    return _answer(queue, task_id)


def _answer(queue: FileQueue, task_id: str) -> Outcome:
    ended = read_result(queue.layout, task_id)
    if ended is None:
        raise EngineError(f"task {task_id} has ended, but its record is missing", hint="`swarm queue fsck` checks the queue")
    if ended["status"] != "completed":
        error = ended.get("error") or {}
        words = f"{ended['status']}: {error.get('message', 'no reason was recorded')}"
        return Outcome(EXIT_TASKS_FAILED, ended, (words,))
    result = ended.get("result") or {}
    text = (result.get("message") or {}).get("content") or result.get("response") or result.get("stdout") or "done"
    simulated = ("(simulated)",) if ended.get("simulated") else ()
    return Outcome(EXIT_OK, ended, simulated, answer=str(text))


def note_if_nobody_works(settings: Settings) -> None:
    """A note on standard error if no swarm runs: where the root is the wrong one, none ever will."""
    if not swarm_lives(settings):
        print(f"note: no swarm is running on {settings.queue.root}; the tasks wait for `swarm up`", file=sys.stderr)


def somebody_works(settings: Settings, accepted: str, *, then: str = "") -> None:
    """Raises ``NotRunning`` if no swarm runs. ``then``: what to do once one does."""
    if not swarm_lives(settings):
        raise NotRunning(
            f"{accepted}, but no swarm is running on {settings.queue.root}",
            hint=f"`swarm up` (or `swarm up --simulate 2`){then and f', then {then}'}",
        )
