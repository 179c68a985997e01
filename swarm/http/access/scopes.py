"""Which scope a request needs: one table of methods and paths. What it does not list needs ``admin``.

A path that ends in ``/*`` stands for all paths below it that have no entry of their own; the nearest one counts.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from swarm.core.access import Scope

Size = Literal["body", "upload"]


class Rule(NamedTuple):
    """What a request needs."""

    scope: Scope | None
    """None: nothing, it is answered to everybody who reaches the server."""
    size: Size = "body"
    """Which limit its body has: that of a document, or of an uploaded file."""


UNLISTED = Rule(Scope.ADMIN)
_OPEN, _READ, _SUBMIT, _ADMIN = Rule(None), Rule(Scope.READ), Rule(Scope.SUBMIT), Rule(Scope.ADMIN)
_UPLOAD = Rule(Scope.SUBMIT, "upload")

RULES: dict[tuple[str, str], Rule] = {
    ("GET", "/healthz"): _OPEN,
    ("GET", "/login"): _OPEN,
    ("POST", "/login"): _OPEN,
    ("POST", "/logout"): _OPEN,
    ("GET", "/static/*"): _OPEN,
    # OpenAI's API
    ("GET", "/v1/models"): _READ,
    ("GET", "/v1/models/*"): _READ,
    ("POST", "/v1/chat/completions"): _SUBMIT,
    ("POST", "/v1/completions"): _SUBMIT,
    ("POST", "/v1/embeddings"): _SUBMIT,
    ("GET", "/v1/files"): _READ,
    ("GET", "/v1/files/*"): _READ,
    ("POST", "/v1/files"): _UPLOAD,
    ("DELETE", "/v1/files/*"): _SUBMIT,
    ("GET", "/v1/batches"): _READ,
    ("GET", "/v1/batches/*"): _READ,
    ("POST", "/v1/batches"): _SUBMIT,
    ("POST", "/v1/batches/*"): _SUBMIT,
    # Ollama's API
    ("GET", "/api/tags"): _READ,
    ("GET", "/api/ps"): _READ,
    ("GET", "/api/version"): _READ,
    ("POST", "/api/show"): _READ,
    ("POST", "/api/chat"): _SUBMIT,
    ("POST", "/api/generate"): _SUBMIT,
    ("POST", "/api/embed"): _SUBMIT,
    ("POST", "/api/embeddings"): _SUBMIT,
    # The swarm's API
    ("GET", "/swarm/*"): _READ,
    ("GET", "/metrics"): _READ,
    ("GET", "/openapi.json"): _READ,
    ("POST", "/swarm/tasks/*"): _SUBMIT,
    ("POST", "/swarm/batches/*"): _SUBMIT,
    ("POST", "/swarm/pause"): _ADMIN,
    ("POST", "/swarm/resume"): _ADMIN,
    ("POST", "/swarm/workers/*"): _ADMIN,
    ("POST", "/swarm/processes/*"): _ADMIN,
    ("POST", "/swarm/nodes/*"): _ADMIN,
    # The page
    ("GET", "/"): _READ,
    ("GET", "/batches"): _READ,
    ("GET", "/batches/*"): _READ,
    ("GET", "/tasks/*"): _READ,
    ("GET", "/workers/*"): _READ,
    ("GET", "/new"): _READ,
    ("GET", "/find"): _READ,
}


def rule_for(method: str, path: str) -> Rule:
    """What a request needs; ``UNLISTED`` where the table does not say."""
    if method == "HEAD":
        method = "GET"
    found = RULES.get((method, path))
    while found is None and path not in ("", "/"):
        path = path.rpartition("/")[0]
        found = RULES.get((method, f"{path}/*"))
    return UNLISTED if found is None else found
