"""The HTTP server's process: wires the application, under the process lock ``http``."""

from __future__ import annotations

import math

import msgspec
import uvicorn

from swarm.config.listen import Address, http_address
from swarm.core.worker import WorkerRow
from swarm.errors import EXIT_USAGE, ConfigError
from swarm.http.access.guarded_protocol import with_limits
from swarm.http.app import make_app
from swarm.http.parts import HttpParts
from swarm.http.server import STALLED_MS, HttpServer
from swarm.proc.listening import listening_sockets
from swarm.proc.open_files import allow_many_files
from swarm.queue.stores.tokens import check_entry
from swarm.runtime.bootstrap import RunOptions, beats_of, living, logging_as, open_root, own_row
from swarm.runtime.loop import on_hangup, root_watch
from swarm.supervisor.state import HTTP

KEEP_ALIVE_S = 75
"""An idle connection is closed after this; clients keep theirs for about a minute."""


def run_http(options: RunOptions) -> int:
    """Serve this root until asked to stop; returns the exit status.

    Raises ``LockHeld`` when a server runs already, ``EngineError`` where the port is taken, ``ConfigError`` without one.
    """
    address = http_address(options.settings)
    if address is None:
        raise ConfigError("the HTTP server has no port", hint="--listen [HOST:]PORT, or port in [http]")
    queue, instead = open_root(options)
    check_entry(queue.layout, options.settings)
    root_trouble = root_watch(queue.layout.root)
    with living(queue, _row(address)) as row, logging_as(HTTP, options) as log:
        for check in instead:
            log.info("Fallback: %s", check)
        sockets = listening_sockets(address, stalled_ms=STALLED_MS, hint="choose another one: --listen, --http, http.port")
        if few := allow_many_files():
            log.warning("HTTP server: %s", few)
        parts = HttpParts(
            settings=options.settings,
            queue=queue,
            log=log,
            config_file=None if options.config is None else str(options.config),
            config_sources=options.sources,
        )
        server = HttpServer(
            _config(parts),
            ending=parts.ending,
            beat=beats_of(queue, row),
            root_trouble=root_trouble,
            log=log,
        )
        on_hangup(server.handle_exit)
        log.info("HTTP server on %s", address.url)
        print(f"HTTP server on {address.url}", flush=True)  # noqa: T201
        code = server.run_to_end(sockets)
        return EXIT_USAGE if server.lost else code


def _row(address: Address) -> WorkerRow:
    return msgspec.structs.replace(own_row(HTTP, HTTP), url=address.url, port=address.port)


def _config(parts: HttpParts) -> uvicorn.Config:
    proxies = list(parts.settings.http.proxies)
    return uvicorn.Config(
        make_app(parts),
        http=with_limits(parts.settings.http.max_connections),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")],
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(parts.settings.http.stop_grace_s),
    )
