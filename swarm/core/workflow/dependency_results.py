"""The results a task may ask for, looked up once each. Pure but for the reader it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from swarm.core.task import Task
from swarm.core.workflow import templating
from swarm.core.workflow.templating import TemplateError

ReadEnded = Callable[[str], Mapping[str, Any] | None]
"""The finished document of a task id, ``status`` set; None if there is none."""


class Results:
    """Answers one task's references."""

    def __init__(self, task: Task, read: ReadEnded) -> None:
        self._ids = {**{task_id: task_id for task_id in task.depends_on}, **task.results}
        self._read = read
        self._known: dict[str, Mapping[str, Any]] = {}

    def result(self, name: str) -> Mapping[str, Any]:
        """The result of a task that is waited for. Raises ``TemplateError`` naming one that has none."""
        task_id = self._ids[name]
        if name not in self._known:
            ended = self._read(task_id)
            who = f"{name} (task {task_id})" if name != task_id else f"task {task_id}"
            if ended is None:
                raise TemplateError(f"the result of {who} is not there (any more)")
            result = ended.get("result")
            if ended.get("status") != "completed" or not isinstance(result, Mapping):
                raise TemplateError(f"{who} has no result: it is {ended.get('status')}")
            self._known[name] = result
        return self._known[name]

    def answer(self, reference: str) -> str:
        """What stands for ``results.NAME.PATH``; any other reference stands for itself. Raises ``TemplateError``."""
        if not reference.startswith("results."):
            return f"{{{reference}}}"
        wanted = templating.parse(reference, self._ids)
        result = self.result(wanted.name)
        try:
            return value_of(result, wanted.path)
        except TemplateError as error:
            source = self._ids[wanted.name]
            raise TemplateError(f"{{{reference}}} cannot be filled in from task {source}: {error}") from error


def value_of(result: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """What a reference's path stands for in a result. Raises ``TemplateError``."""
    match path:
        case ("list",):
            if "list" not in result:
                raise TemplateError("it was not mapped over a list; use .text or .json")
            return templating.as_text(result["list"])
        case ("json", *rest):
            return templating.as_text(templating.part_of(templating.json_of(templating.text_of(result)), rest))
        case _:
            return templating.text_of(result)
