"""Metrics of one queue root as Prometheus text, for ``swarm metrics`` and the HTTP endpoint."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from swarm.brain.metrics import Seen, families
from swarm.config.settings import Settings
from swarm.errors import EngineError
from swarm.proc.ports import who_listens
from swarm.queue.coordination import is_held
from swarm.queue.counts import QueueGauges
from swarm.queue.layout import Layout
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
        """No families in advance: registering observes nothing."""
        return ()


def text(collector: SwarmCollector) -> str:
    """One scrape in the text format."""
    return generate_latest(_registry_of(collector)).decode()


def _registry_of(collector: SwarmCollector) -> CollectorRegistry:
    """A registry with nothing else in it."""
    made = CollectorRegistry()
    made.register(collector)
    return made


@contextmanager
def serving(collector: SwarmCollector, *, host: str, port: int) -> Iterator[str]:
    """Serve within the block, on the URL it yields; a failed observation is an error of that scrape only.

    Raises ``EngineError`` when the address cannot be listened on, naming who has it.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=_registry_of(collector))
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            holder = who_listens(port, host) or "somebody"
            problem, hint = f"port {port} on {host} is taken by {holder}", "set metrics.port to another one"
        else:
            why = error.strerror if isinstance(error, OSError) else "this is no valid host name"
            problem, hint = f"cannot listen on {host}:{port}: {why}", "see metrics.host"
        raise EngineError(f"metrics: {problem}", hint=hint) from error
    try:
        yield f"http://{host}:{port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def open_metrics(settings: Settings) -> SwarmCollector:
    """A collector with its own observer: it shares nothing with a brain in the same process."""
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
    with ExitStack() as stack:
        if settings.metrics.port is not None:
            try:
                endpoint = serving(open_metrics(settings), host=settings.metrics.host, port=settings.metrics.port)
                log.info("Metrics on %s", stack.enter_context(endpoint))
            except EngineError as error:
                log.warning("No metrics endpoint: %s (%s)", error.message, error.hint)
        yield
