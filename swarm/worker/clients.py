"""A client for the model server of a worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swarm.ollama.server import server_proof

if TYPE_CHECKING:
    from swarm.ollama.client import OllamaClient


def client_of(worker: str, url: str, *, root: Path, adopted: bool) -> OllamaClient:
    """Speaks to nobody but the server that swarm started for this worker, or to whoever is at an adopted ``url``."""
    from swarm.ollama.client import OllamaClient  # noqa: PLC0415  (HTTP: many commands import this and ask no server)

    return OllamaClient(url, on_connect=None if adopted else server_proof(worker, root))
