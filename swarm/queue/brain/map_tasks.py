"""Mapped tasks: one child per list element, and their answers gathered into one result.

* The map task stays in ``blocked``. Its ``Trail`` records its progress: ``children`` is -1 while they are being made
  (who finds it so looks for those that exist), then their number.
* Ids of children are ``<id>-<k>``, so that none is made twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from swarm.core.task import TERMINAL, Task, TaskState, Trail
from swarm.core.workflow import templating
from swarm.core.workflow.fan_out import MapFault, child_document, child_ids, elements
from swarm.core.workflow.templating import EarlierResults
from swarm.filesystem.entries import list_inside, list_names
from swarm.queue import codec
from swarm.queue.layout import Layout
from swarm.queue.lookup import list_state, read_ended
from swarm.queue.storage import Storage
from swarm.queue.submit.producer import Producer
from swarm.queue.worker.transitions import Transitions, rewrite_tail

MOST_GATHERED_BYTES = 24 << 20
"""Of all answers as JSON. The record holds them twice, and has ``codec.MAX_FILE_BYTES``."""
_encode = msgspec.json.Encoder().encode


class Mapper:
    """For the brain's one thread."""

    def __init__(self, layout: Layout, storage: Storage, producer: Producer) -> None:
        self._layout = layout
        self._storage = storage
        self._producer = producer
        self._transitions = Transitions(layout, storage)

    def expand(self, path: str) -> int:
        """Make the children of the map task at ``path``; how many. Safe to repeat after a death anywhere in it.

        Raises ``MapFault`` for what can never be mapped, ``FileNotFoundError``, ``StorageFault``.
        """
        parts = codec.read(path)
        task, trail = parts.task, parts.trail
        results = EarlierResults(task, self._record)
        items = elements(task, results)
        there = self._children_there(task) if trail.children is not None else set[str]()
        self._note(path, parts.body_size, msgspec.structs.replace(trail, children=-1))
        whole = codec.read_document(path)
        missing = (i for i in range(len(items)) if f"{task.task_id}-{i}" not in there)
        children = (child_document(whole, task, index, items[index], results) for index in missing)
        for _ in self._producer.enqueue_many(children):
            pass
        self._note(path, parts.body_size, msgspec.structs.replace(trail, children=len(items)))
        return len(items)

    def gather(self, path: str) -> int:
        """Complete the map task at ``path`` with its children's answers; how many. Raises as ``expand``."""
        parts = codec.read(path)
        task, trail = parts.task, parts.trail
        ids = child_ids(task.task_id, trail.children or 0)
        texts: list[str | None] = []
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        size, simulated = 0, False
        for child in ids:
            ended = self._record(child) or {}
            result = ended.get("result") or {} if ended.get("status") == "completed" else {}
            texts.append(_text(result))
            size += len(_encode(texts[-1]))
            if size > MOST_GATHERED_BYTES:
                raise MapFault(f"the answers of its {len(ids)} tasks have more than {MOST_GATHERED_BYTES:,} bytes")
            usage = {name: n + int((result.get("usage") or {}).get(name, 0)) for name, n in usage.items()}
            simulated = simulated or bool(ended.get("simulated"))
        joined = "\n\n".join(text for text in texts if text is not None)
        result = {
            "message": {"role": "assistant", "content": joined},
            "done_reason": "stop",
            "list": texts,
            "children": list(ids),
            "usage": usage,
        }
        done = msgspec.structs.replace(trail, result=result, simulated=simulated)
        self._transitions.end(path, task, parts.body_size, TaskState.COMPLETED, done)
        return len(ids)

    def _record(self, task_id: str) -> dict[str, Any] | None:
        try:
            return read_ended(self._layout, task_id)
        except ValueError as exc:
            raise MapFault(f"the record of {task_id} is damaged: {exc}") from exc

    def _note(self, path: str, body_size: int, trail: Trail) -> None:
        rewrite_tail(self._storage, path, body_size - 1, codec.encode_trail(trail))

    def _children_there(self, task: Task) -> set[str]:
        """Children made by an earlier try. A task on the move may be in neither of two listings: look twice."""
        head = f"{task.task_id}-"
        found: set[str] = set()
        for _ in range(2):
            for state in (TaskState.PENDING, TaskState.BLOCKED, TaskState.PROCESSING):
                found.update(one.task_id for one in list_state(self._layout, state) if one.task_id.startswith(head))
        return found | set(self._ended(head))

    def _ended(self, head: str) -> Iterator[str]:
        for state in TERMINAL:
            top = f"{self._layout.root}/{state}"
            for shard in list_names(top):
                if shard.startswith("x"):  # ids with a dash are none of ours
                    names = list_inside(f"{top}/{shard}")
                    yield from (name[:-5] for name in names if name.startswith(head) and name.endswith(".json"))


def _text(result: dict[str, Any]) -> str | None:
    try:
        return templating.text_of(result)
    except templating.TemplateError:
        return None
