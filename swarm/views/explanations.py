"""``swarm explain``: finds the object meant and shows what the explaining rules say of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from swarm.config.settings import Settings
from swarm.core.explain.models import explain_model, models_to_explain
from swarm.core.explain.nodes import explain_card
from swarm.core.explain.reason import Reason
from swarm.core.explain.tasks import explain_task, explain_worker
from swarm.core.health.liveness import workers_of
from swarm.core.nodes.node_record import NodeRecord
from swarm.core.snapshot import SwarmSnapshot, WorkerView
from swarm.core.task import Task, TaskState, Trail, canonical_model
from swarm.errors import TaskInvalid, UnknownName, UnknownTask, name_hint, nearest
from swarm.queue.layout import Layout
from swarm.queue.stores.node_book import read_nodes
from swarm.views import model_rows
from swarm.views.blocks import Block, Line
from swarm.views.worker_rows import worker_lines

if TYPE_CHECKING:
    from swarm.queue.file_queue import FileQueue
    from swarm.queue.lookup import QuarantinedFile


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task does not run, or a worker idles, and what to do; the most telling reason first."""

    subject: str
    kind: Literal["task", "worker", "model"]
    state: str
    reasons: tuple[Reason, ...]


LOOKED_UP = 20
"""Of the tasks that one waits for."""


def worker(view: WorkerView, snapshot: SwarmSnapshot, settings: Settings, *, brain: bool = True) -> Explanation:
    """Why a worker does what it does, or does nothing."""
    line = next(w for w in worker_lines(snapshot, settings) if w.name == view.name)
    node = _record_of(line.node, settings) if line.node else None
    reasons = tuple(explain_worker(view, snapshot, settings, brain_alive=brain, node=node))
    return Explanation(subject=view.name, kind="worker", state=line.state, reasons=reasons)


def _record_of(node: str, settings: Settings) -> NodeRecord | None:
    return next((record for record in read_nodes(Layout(settings.queue.root)) if record.name == node), None)


def card_without_worker(name: str, settings: Settings) -> Explanation | None:
    """Why the worker of this name, for a card that a node has, does not run; None where no node has such a card."""
    for record in read_nodes(Layout(settings.queue.root)):
        for card in record.cards:
            if card.worker == name:
                return Explanation(subject=name, kind="worker", state="none", reasons=tuple(explain_card(record, card)))
    return None


def missing_dependency(document: Mapping[str, Any], queue: FileQueue) -> str | None:
    """The first task that a blocked one waits for and that is not in the queue; one that was mapped waits for its own."""
    if document.get("state") != "blocked" or document.get("children") is not None:
        return None
    wanted = document.get("depends_on") or ()
    return next((i for i in wanted[:LOOKED_UP] if queue.find(i) is None), None)


def task(
    document: Mapping[str, Any],
    snapshot: SwarmSnapshot,
    settings: Settings,
    *,
    brain: bool = True,
    missing: str | None = None,
) -> Explanation:
    """Why a task is where it is; ``missing``: one it waits for that is nowhere. Raises ``TaskInvalid``."""
    try:
        body, trail = msgspec.convert(document, Task), msgspec.convert(document, Trail)
        state = TaskState(document["state"])
    except (msgspec.ValidationError, ValueError, KeyError) as problem:
        raise TaskInvalid(f"the task's document cannot be read: {problem}") from problem
    reasons = explain_task(body, state, snapshot, settings, trail=trail, brain_alive=brain)
    if missing is not None:
        text = f"There is no task {missing}, which it waits for: it is still to be submitted, or was removed."
        reasons = [Reason("not_there", text, f"swarm queue cancel {body.task_id}"), *reasons]
    return Explanation(subject=body.task_id, kind="task", state=str(state), reasons=tuple(reasons))


def quarantined(task_id: str, aside: QuarantinedFile, root: str) -> Explanation:
    """What happened to a task whose file was quarantined, in the queue at ``root``."""
    text = f"Its file {aside.words}. It will never end: the next of its session has begun, what depends on it fails."
    reasons = (
        Reason("corrupt", text, f"swarm submit --task {shlex.quote(f'{root}/corrupt/{aside.name}')}  (once it is repaired)"),
    )
    return Explanation(subject=task_id, kind="task", state=str(TaskState.CORRUPT), reasons=reasons)


def is_model(target: str, snapshot: SwarmSnapshot, settings: Settings) -> bool:
    """Whether it names a model that something is known of; a task's id holds neither ``:`` nor ``.`` nor ``/``."""
    if any(mark in target for mark in ":./"):
        return True
    return canonical_model(target) in models_to_explain(snapshot, settings)


def model(target: str, snapshot: SwarmSnapshot, settings: Settings) -> Explanation:
    """Why a model is on some cards and not on others."""
    name = canonical_model(target)
    holders = sum(1 for w in workers_of(snapshot) if w.alive and w.heartbeat is not None and w.heartbeat.model == name)
    state = f"loaded on {holders}" if holders else "not loaded"
    disk = model_rows.installed_models(snapshot, settings)
    have = disk[name].workers if name in disk else () if disk else None
    reasons = tuple(explain_model(name, snapshot, settings, installed_on=have))
    known = models_to_explain(snapshot, settings)
    if not have and name not in known and (near := nearest(name, {*disk, *known})):
        text = f"No task, server or setting knows {name}; the nearest name is {near[0]}."
        reasons = (Reason("unknown_model", text, f"swarm explain {near[0]}"), *reasons)
    return Explanation(subject=name, kind="model", state=state, reasons=reasons)


def no_such(target: str, snapshot: SwarmSnapshot) -> UnknownName | UnknownTask:
    """The error for a target that is neither; names the worker that was probably meant."""
    names = [view.name for view in workers_of(snapshot)]
    if nearest(target, names):
        return UnknownName(f"there is no task or worker {target}", hint=name_hint(target, names))
    known = f"workers: {', '.join(names)}; " if names else ""
    return UnknownTask(f"there is no task or worker {target}", hint=f"{known}`swarm queue list` shows tasks")


def explanation_blocks(found: Explanation) -> list[Block]:
    """Why, and what to do."""
    blocks: list[Block] = [Line(f"{found.kind} {found.subject}: {found.state}", "bold")]
    for reason in found.reasons or (Reason("none", "nothing blocks it", "swarm status"),):
        blocks.append(Line(f"  - {reason.text}"))
        if reason.next_step:
            blocks.append(Line(f"    try: {reason.next_step}", "dim"))
    return blocks
