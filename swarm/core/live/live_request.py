"""What the HTTP server asks of a worker, and the forms of its refusals. One JSON object each, on the worker's Unix socket.

* ``POST /run`` with a ``LiveRequest`` is answered with status 200 and one piece a line, as Ollama streams them.
* 409: not let in, another worker may be tried. 422: the request is at fault. 502: the server is. 404, 413: no such request.
* A line with ``error`` ends an answer that has begun.
"""

from __future__ import annotations

from typing import Any

import msgspec

from swarm.core.faults import NO_SERVER, FaultClass, TaskFault
from swarm.core.task import Endpoint, IdText, PositiveSeconds

PATH = "/run"
MAX_BODY_BYTES = 64 << 20
"""Of a request with its images."""


class LiveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One live request."""

    id: IdText
    """No other request in flight has it."""
    endpoint: Endpoint
    request: dict[str, Any]
    """In Ollama's form, with ``model``."""
    timeout_s: PositiveSeconds | None = None
    """Of the whole answer; None: ``[llm] timeout_s``."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a live request is not let in now (409); another worker may be tried, or this one again."""

    kind: str
    """``model_not_loaded``, ``busy``, ``unready`` or ``draining``."""
    message: str
    retry_after_s: float = 1.0


class LiveFault(msgspec.Struct, frozen=True, kw_only=True):
    """What a live request met."""

    fault: FaultClass
    kind: str
    message: str
    elsewhere: bool = False
    """Another worker may be tried: the request is not at fault, as far as is known, and has time left."""

    @property
    def status(self) -> int:
        """Of the answer, where none has begun."""
        return 422 if self.fault == "deterministic" else 502


def live_fault(fault: TaskFault) -> LiveFault | Refusal:
    """As it is told to who asked; a request that no server has seen was not let in."""
    if fault.kind in NO_SERVER:
        return Refusal("unready", fault.message)
    elsewhere = fault.fault in ("infra", "transient") and fault.kind != "timeout"
    return LiveFault(fault=fault.fault, kind=fault.kind, message=fault.message, elsewhere=elsewhere)
