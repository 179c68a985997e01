"""The routes of this package."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

from swarm.http.batches.batches_api import BatchesApi
from swarm.http.batches.driver_process import DriverProcess
from swarm.http.batches.files_api import FilesApi
from swarm.http.parts import HttpParts


def routes(parts: HttpParts) -> Sequence[BaseRoute]:
    """See ``swarm.http.app``."""
    driver = DriverProcess(parts)
    parts.background.append(driver.running)
    files, batches = FilesApi(parts, driver), BatchesApi(parts, driver)
    return (
        Route("/v1/files", files.upload, methods=["POST"]),
        Route("/v1/files", files.list, methods=["GET"]),
        Route("/v1/files/{file_id}", files.get, methods=["GET"]),
        Route("/v1/files/{file_id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", files.content, methods=["GET"]),
        Route("/v1/batches", batches.create, methods=["POST"]),
        Route("/v1/batches", batches.list, methods=["GET"]),
        Route("/v1/batches/{batch_id}", batches.get, methods=["GET"]),
        Route("/v1/batches/{batch_id}/cancel", batches.cancel, methods=["POST"]),
    )
