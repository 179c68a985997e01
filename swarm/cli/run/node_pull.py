"""Downloads on several machines at once, each through one server or relay there; and which machines there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import msgspec

from swarm.cli.run.pull_progress import PullBar, PullBars
from swarm.core.faults import CancelToken, TaskFault
from swarm.core.nodes.relay_workers import THIS_NODE
from swarm.core.placement.node_models import node_name
from swarm.core.worker import WorkerRow
from swarm.errors import ModelServerError, SwarmError, UnknownName, name_hint
from swarm.views.row_servers import RowServer
from swarm.worker.attempt import Cancel

Open = Callable[[], AbstractContextManager[tuple[RowServer, str]]]
"""Finds, or starts, what can pull on one machine, and says its name. Raises ``SwarmError`` where nothing can."""


class Place(msgspec.Struct, frozen=True):
    """A machine to which a model may be pulled."""

    node: str
    """Empty: this one."""
    rows: tuple[WorkerRow, ...] = ()
    """Its living workers that have a model server."""


class NodePull(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's part."""

    node: str
    """Empty: this machine."""
    through: str = ""
    """The worker whose server did it, or the temporary server."""
    seconds: float
    mib: int = 0
    """Of the layers that the server spoke of, those that existed already included."""
    error: str = ""
    """Why the model is not there; empty where it is."""


def places(rows: Iterable[WorkerRow], wanted: Sequence[str]) -> tuple[Place, ...]:
    """The machines whose living workers have a model server, or those of them that are wanted; this one if there are none.

    Raises ``UnknownName``.
    """
    by_node: dict[str, list[WorkerRow]] = {}
    for row in rows:
        if row.url is not None:
            by_node.setdefault(row.node, []).append(row)
    named = {"" if name == THIS_NODE else name for name in wanted}
    unknown = sorted(named - {"", *by_node})
    if unknown:
        known = sorted({THIS_NODE, *map(node_name, by_node)})
        raise UnknownName(f"no worker of a node {unknown[0]!r} is running", hint=name_hint(unknown[0], known))
    return tuple(Place(node, tuple(by_node.get(node, ()))) for node in sorted(named or by_node or {""}))


def pull_alone(model: str, node: str, open_: Open, bars: PullBars) -> NodePull:
    """One download on one machine. Raises ``ModelServerError`` with what the server said, or with why there is none."""
    return _pull(model, node, open_, bars.bar(model), None)


def pull_together(model: str, pulls: Sequence[tuple[str, Open]], bars: PullBars) -> list[NodePull]:
    """A download on each of these nodes at once; one that fails is an answer too. An interrupt ends them all."""
    cancel = Cancel()
    with ThreadPoolExecutor(max_workers=len(pulls)) as threads:
        try:
            begun = [threads.submit(_answer, model, node, open_, bars, cancel) for node, open_ in pulls]
            return [one.result() for one in begun]
        except BaseException:
            cancel.cancel("stopping")
            raise


def _answer(model: str, node: str, open_: Open, bars: PullBars, cancel: CancelToken) -> NodePull:
    bar, began_s = bars.bar(f"{node_name(node)}: {model}"), time.monotonic()
    try:
        return _pull(model, node, open_, bar, cancel)
    except SwarmError as error:
        why = error.message
    except OSError as error:
        why = f"{type(error).__name__}: {error}"
    bar.failed(why)
    return NodePull(node=node, seconds=_since(began_s), error=why)


def _pull(model: str, node: str, open_: Open, bar: PullBar, cancel: CancelToken | None) -> NodePull:
    began_s = time.monotonic()
    with open_() as (server, through):
        try:
            server.pull(model, bar.step, cancel=cancel)
        except TaskFault as fault:
            raise _words(model, through, fault) from fault
    return NodePull(node=node, through=through, seconds=_since(began_s), mib=bar.total_mib)


def _since(began_s: float) -> float:
    return round(time.monotonic() - began_s, 3)


def _words(model: str, through: str, fault: TaskFault) -> ModelServerError:
    hints = {
        "transient": "run it again: what was downloaded is kept",
        "infra": f"check its server: swarm doctor, swarm logs ollama-{through}",
    }
    hint = hints.get(fault.fault, "look the name up at https://ollama.com/library")
    return ModelServerError(f"{model} could not be pulled through {through}: {fault.message}", hint=hint)
