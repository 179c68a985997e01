"""The swarm in Prometheus's text format: one look, one text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from swarm.brain.metrics import Seen, families
from swarm.config.settings import Settings

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
