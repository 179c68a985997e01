"""Metrics of one queue root, for the command and for the brain's endpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.config.settings import Settings
from swarm.errors import EngineError
from swarm.queue.layout import Layout
from swarm.queue.stats.gauges import QueueGauges
from swarm.queue.storage.locks import is_held
from swarm.queue.stores import registry
from swarm.runtime.open import open_observer
from swarm.supervisor.supervisor import NAME as SUPERVISOR
from swarm.supervisor.what_runs import orphans

if TYPE_CHECKING:
    from swarm.brain.metrics import Seen
    from swarm.brain.metrics_endpoint import SwarmCollector

# ruff: noqa: PLC0415  (the metrics library and an HTTP server, which most brains never need)


def open_metrics(settings: Settings) -> SwarmCollector:
    """A collector with eyes of its own: it shares nothing with a brain in the same process."""
    from swarm.brain.metrics import Seen
    from swarm.brain.metrics_endpoint import SwarmCollector

    layout = Layout(str(Path(settings.queue.root).absolute()))
    observer = open_observer(settings)
    gauges = QueueGauges(layout)

    def look() -> Seen:
        row, beat = registry.read_row(layout, "brain"), registry.read_heartbeat(layout, "brain")
        return Seen(
            observer.snapshot(),
            ended=gauges.ended(),
            stale=gauges.stale(settings.brain.stale_queued_s) if settings.brain.stale_queued_s else {},
            brain=beat if beat is not None and row is not None and beat.epoch == row.epoch else None,
            brain_alive=is_held(layout, "brain"),
            supervisor_alive=is_held(layout, SUPERVISOR),
            orphans=len(orphans(settings)),
        )

    return SwarmCollector(look, settings)


@contextmanager
def serving_if_wanted(settings: Settings, log: logging.Logger) -> Iterator[None]:
    """The endpoint within the block, if ``metrics.port`` is set. Without the port the brain does its work all the same."""
    if settings.metrics.port is None:
        yield
        return
    from swarm.brain.metric_server import MetricsServer

    try:
        server = MetricsServer(open_metrics(settings), host=settings.metrics.host, port=settings.metrics.port)
    except EngineError as error:
        log.warning("No metrics endpoint: %s (%s)", error.message, error.hint)
        yield
        return
    with server:
        log.info("Metrics on %s", server.url)
        yield
