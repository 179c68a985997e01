"""The model server of a registered worker, for who is not that worker: on this machine, or through the relay of another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from swarm.core.worker import WorkerRow

if TYPE_CHECKING:
    from swarm.config.settings import Settings
    from swarm.core.faults import CancelToken
    from swarm.core.models.model_server import InstalledModel, ModelDetails, PullStep


class RowServer(Protocol):
    """What may be asked of it. Every call raises ``TaskFault``."""

    def tags(self, timeout_s: float = 10.0) -> Sequence[InstalledModel]:
        """The models on its disk."""
        ...

    def show(self, model: str, timeout_s: float = 10.0) -> ModelDetails:
        """What it knows of one."""
        ...

    def pull(
        self, model: str, progress: Callable[[PullStep], None] | None = None, *, cancel: CancelToken | None = None
    ) -> None:
        """Download one; returns only with success. Cancelling hangs up."""
        ...


def is_asked(row: WorkerRow) -> bool:
    """Whether there is one that says which models it has: an Ollama server, or whatever a relay stands for."""
    return row.ollama_url is not None or bool(row.node and row.url)


@contextmanager
def server_of(row: WorkerRow, settings: Settings) -> Iterator[RowServer]:
    """For one that is asked (``is_asked``). Raises ``TaskFault`` where the token of its relay cannot be had."""
    if row.node:
        with _through_relay(row, settings) as remote:
            yield remote
        return
    from swarm.engines.ollama.server import client_of

    assert row.ollama_url is not None
    with client_of(row.name, row.ollama_url, root=Path(settings.queue.root), adopted=row.adopted) as client:
        yield client


@contextmanager
def _through_relay(row: WorkerRow, settings: Settings) -> Iterator[RowServer]:
    from swarm.core.faults import TaskFault
    from swarm.core.nodes.relay_workers import RelayPlace
    from swarm.core.placement.worker_plan import WorkerPlan
    from swarm.engines.remote.relay_calls import RelayCalls
    from swarm.engines.remote.remote_server import RemoteServer
    from swarm.errors import SwarmError
    from swarm.queue.layout import Layout
    from swarm.worker.remote_wiring import relay_address

    own_token = any(spec.name == row.name and spec.url is not None for spec in settings.workers)
    place = RelayPlace(node=row.node, card="", own_token=own_token)
    plan = WorkerPlan(name=row.name, url=row.url, relay=place)
    try:
        server = RemoteServer(RelayCalls(relay_address(plan, settings, Layout(settings.queue.root), os.environ)))
    except (SwarmError, OSError) as error:
        raise TaskFault("infra", "no_relay", str(error)) from error
    try:
        yield server
    finally:
        server.close()
