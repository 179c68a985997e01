"""The swarm in Prometheus's text format: one look, one text.

The HTTP endpoint that Prometheus scrapes, in threads of its own.

Metrics of one queue root, for the command and for the brain's endpoint.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from swarm.brain.metrics import Seen, families
from swarm.config.settings import Settings
from swarm.errors import EngineError
from swarm.proc.ports import is_free, who_listens
from swarm.queue.layout import Layout
from swarm.queue.stats.gauges import QueueGauges
from swarm.queue.storage.locks import is_held
from swarm.queue.stores import registry
from swarm.runtime.open import open_observer
from swarm.supervisor.state import NAME as SUPERVISOR
from swarm.supervisor.what_runs import orphans

FRESH_S = 1.0
"""Scrapes closer together share one look."""


class SwarmCollector(Collector):
    """Fits a registry of ``prometheus_client``. Safe from several threads; ``look`` is called by one at a time."""

    def __init__(self, look: Callable[[], Seen], settings: Settings) -> None:
        self._look = look
        self._settings = settings
        self._lock = threading.Lock()
        self._last: tuple[float, tuple[Metric, ...]] | None = None

    def collect(self) -> Iterable[Metric]:
        """All families, in a fixed order."""
        with self._lock:
            now_s = time.monotonic()
            if self._last is None or now_s - self._last[0] > FRESH_S:
                self._last = (now_s, tuple(families(self._look(), self._settings)))
            return self._last[1]

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: registering makes no look."""
        return ()


def registry_of(collector: SwarmCollector) -> CollectorRegistry:
    """A registry with nothing else in it."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def text(collector: SwarmCollector) -> str:
    """One scrape in the text format."""
    return generate_latest(registry_of(collector)).decode()


log = logging.getLogger(__name__)


class MetricsServer:
    """Answers on ``http://host:port/metrics`` until closed. A look that fails is that scrape's error, and nobody else's."""

    def __init__(self, collector: SwarmCollector, *, host: str, port: int) -> None:
        """Raises ``EngineError`` when the address cannot be listened on, naming who has it."""
        try:
            if not is_free(host, port):
                raise EngineError(
                    f"metrics: port {port} on {host} is taken by {who_listens(port, host) or 'somebody'}",
                    hint="set metrics.port to another one",
                )
            self._server, self._thread = start_http_server(port, addr=host, registry=registry_of(collector))
        except (OSError, UnicodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "no host can be called so"
            raise EngineError(f"metrics: cannot listen on {host}:{port}: {problem}", hint="see metrics.host") from error
        self.url = f"http://{host}:{port}/metrics"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_metrics(settings: Settings) -> SwarmCollector:
    """A collector with eyes of its own: it shares nothing with a brain in the same process."""
    layout = Layout(settings.queue.root)
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
    try:
        server = MetricsServer(open_metrics(settings), host=settings.metrics.host, port=settings.metrics.port)
    except EngineError as error:
        log.warning("No metrics endpoint: %s (%s)", error.message, error.hint)
        yield
        return
    with server:
        log.info("Metrics on %s", server.url)
        yield
