"""The HTTP server's process: wires the application, under the process lock ``http``."""

from __future__ import annotations

import uvicorn

from swarm.http.app import make_app
from swarm.http.parts import HttpParts
from swarm.runtime.bootstrap import RunOptions, living, logging_as, open_root, own_row

NAME = "http"
"""Of its process lock, registration and log."""


def run_http(options: RunOptions) -> int:
    """Serve this root until asked to stop; returns the exit status. Raises ``LockHeld`` when a server runs already."""
    settings = options.settings
    queue, _instead = open_root(options)
    with living(queue, own_row(NAME, NAME)), logging_as(NAME, options) as log:
        app = make_app(HttpParts(settings=settings, queue=queue, log=log))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=settings.http.host,
                port=settings.http.port or 0,
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )
        server.run()
        return 0
