"""What a line must be beyond its format, by the configuration and by the queue: one check for run, submit and feed."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from typing import Any

from swarm.config.settings import Settings
from swarm.core.model_options import KNOWN_OPTIONS, load_option_conflict
from swarm.core.task import Task, canonical_model
from swarm.errors import TaskInvalid
from swarm.formats.input.problems import FieldError
from swarm.queue.ids import new_id
from swarm.queue.validate import validate

_FIELD = re.compile(r"field `(?P<field>[^`]*)`: (?P<what>.*)", re.DOTALL)
_TOLD = 5
_REMEMBERED = 100


class LineCheck:
    """Call it with each document. What it found unknown, though harmless, is said once by ``say_unknown``."""

    def __init__(self, settings: Settings) -> None:
        self._fixed = {canonical_model(name): model.options for name, model in settings.models.items()}
        self._task_id = new_id()
        self._canonical = functools.lru_cache(maxsize=64)(canonical_model)
        self._unknown: dict[str, None] = {}

    def __call__(self, document: Mapping[str, Any]) -> None:
        """Raises ``FieldError``: what would be refused at submission, or would fail of its options when it runs."""
        self.task(document)

    def task(self, document: Mapping[str, Any]) -> Task:
        """The same, and the task that the document describes; with an id of its own, whatever it will be."""
        try:
            task = validate({**document, "task_id": self._task_id})
        except TaskInvalid as error:
            raise field_error(error) from error
        if task.request.get("shift") is False:
            raise FieldError("request.shift", "false would make the server load the model again; leave it out")
        options = task.request.get("options")
        if options:
            self._check_options(task.model or "", options)
        return task

    def _check_options(self, model: str, options: Mapping[str, Any]) -> None:
        conflict = load_option_conflict(model, options, self._fixed.get(self._canonical(model), {}))
        if conflict is not None:
            raise FieldError("options", conflict.removeprefix("request.options."))
        if len(self._unknown) < _REMEMBERED:
            self._unknown.update(dict.fromkeys(name for name in options if name not in KNOWN_OPTIONS))

    def say_unknown(self) -> None:
        """A note on standard error about options that no server may know; each is said once."""
        if not self._unknown:
            return
        names = ", ".join(list(self._unknown)[:_TOLD]) + (" …" if len(self._unknown) > _TOLD else "")
        self._unknown.clear()
        print(f"note: not known here: options {names}; a model server ignores those it does not know", file=sys.stderr)


def field_error(error: TaskInvalid) -> FieldError:
    """The queue's refusal as a finding about a line."""
    found = _FIELD.fullmatch(error.message)
    return FieldError(found["field"], found["what"]) if found else FieldError("", error.message)
