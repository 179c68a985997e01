"""A request of known good: whether a model server answers at all, asked the way its tasks ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from swarm.config.settings import ModelSettings
from swarm.core.faults import CancelToken, TaskFault
from swarm.core.model_options import ModelTable
from swarm.core.model_server import Limits
from swarm.runtime.ports import ModelServer

PROMPT = "Hello"
MAX_REPLY_BYTES = 16 << 20
"""An embedding has thousands of numbers, and a server may ignore the limit of one token."""


class Prober(Protocol):
    """Finds out whether a server works, and says so to who repairs it."""

    def probe(self, model: str, endpoint: str, *, limit_s: float, cancel: CancelToken) -> TaskFault | None:
        """Ask for one token, on any thread. None: it was answered; else what happened."""
        ...

    def broke(self, fault: TaskFault, task: str | None, began_s: float) -> bool:
        """A request that began then (monotonic) met this fault, and the server is to blame. True: it loads anew now."""
        ...


class KnownGood:
    """Fits ``Prober``: with the options the model is loaded with, so that nothing is loaded anew for it."""

    def __init__(
        self,
        server: ModelServer,
        repair: Callable[[TaskFault, str | None, float], bool],
        *,
        models: Mapping[str, ModelSettings],
    ) -> None:
        self._server = server
        self._models = ModelTable(models)
        self._repair = repair

    def probe(self, model: str, endpoint: str, *, limit_s: float, cancel: CancelToken) -> TaskFault | None:
        """As the port says. A server that refuses the probe in good order works."""
        limits = Limits(total_s=limit_s, first_token_s=limit_s, token_gap_s=limit_s, max_reply_bytes=MAX_REPLY_BYTES)
        try:
            self._server.run(endpoint, self._body(model, endpoint), limits=limits, cancel=cancel, progress=None, marker=None)
        except TaskFault as fault:
            if fault.fault == "deterministic":
                return None
            if fault.kind in ("timeout", "first_token_timeout"):
                return TaskFault("infra", "probe_timeout", f"a probe was not answered within {limit_s:g} s")
            return fault
        return None

    def broke(self, fault: TaskFault, task: str | None, began_s: float) -> bool:
        """As the port says."""
        return self._repair(fault, task, began_s)

    def _body(self, model: str, endpoint: str) -> dict[str, Any]:
        fixed = self._models.of(model)
        body: dict[str, Any] = {"model": model, "options": dict(fixed.options)}
        if fixed.keep_alive is not None:
            body["keep_alive"] = fixed.keep_alive
        match endpoint:
            case "/api/embed":
                return body | {"input": PROMPT}
            case "/api/chat":
                body["messages"] = [{"role": "user", "content": PROMPT}]
            case _:
                body["prompt"] = PROMPT
        body["options"]["num_predict"] = 1
        return body
