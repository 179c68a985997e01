"""The HTTP endpoint that Prometheus scrapes, in threads of its own."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from prometheus_client import start_http_server

from swarm.brain.metrics_endpoint import SwarmCollector, registry_of
from swarm.errors import EngineError
from swarm.proc.ports import is_free, who_listens

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
