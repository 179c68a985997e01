"""Fan-out: the elements of a task mapped over a list, and each child's document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.core.task import Task
from swarm.core.workflow import templating
from swarm.core.workflow.templating import EarlierResults, TemplateError

MOST_CHILDREN = 10_000
_INHERITED = (
    *("task_class", "model", "endpoint", "images", "cache"),
    *("priority", "timeout_s", "max_attempts", "batch_id", "created_at"),
)


class MapFault(Exception):
    """The task can never be mapped; the message says why."""


def child_ids(task_id: str, count: int) -> tuple[str, ...]:
    """Ids of the children."""
    return tuple(f"{task_id}-{index}" for index in range(count))


def elements(task: Task, results: EarlierResults) -> list[Any]:
    """The list that the task is mapped over. Raises ``MapFault``."""
    assert task.map is not None
    over, path = task.map.over, task.map.path
    where = f"{over}.{path}" if path else over
    try:
        result = results.result(over)
        if "list" in result and not path:
            found = result["list"]
        else:
            found = templating.part_of(templating.json_of(templating.text_of(result)), path.split(".") if path else ())
    except TemplateError as error:
        raise MapFault(f"cannot be mapped over {where}: {error}") from error
    if not isinstance(found, list):
        raise MapFault(f"cannot be mapped over {where}: it is no list but {type(found).__name__}")
    if len(found) > MOST_CHILDREN:
        raise MapFault(f"cannot be mapped over {where}: it has {len(found)} elements; {MOST_CHILDREN} are the most")
    return found


def child_document(
    document: Mapping[str, Any], task: Task, index: int, item: object, results: EarlierResults
) -> dict[str, Any]:
    """The task for one element: the map task's request with ``{item}`` (or a part, ``{item.field}``) filled in.

    EarlierResults that it asks for are filled in as well: an element that looks like a reference stays what it is.
    Raises ``MapFault``.
    """

    def answer(reference: str) -> str:
        if reference.startswith("results."):
            return results.answer(reference)
        return templating.as_text(templating.part_of(item, reference.split(".")[1:]))

    try:
        request = templating.fill(task.request, answer)
    except TemplateError as error:
        raise MapFault(f"element {index} does not fit its request: {error}") from error
    child = {name: document[name] for name in _INHERITED if name in document}
    return child | {
        "task_id": f"{task.task_id}-{index}",
        "name": f"{task.name or task.custom_id or task.task_id}[{index}]",
        "metadata": {"map_task": task.task_id, "map_index": index},
        "request": request,
    }
