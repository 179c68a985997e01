"""One live request on its way through the model server: its pieces as they come, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.faults import Progress, TaskFault
from swarm.core.live.live_request import LiveRequest
from swarm.core.models.model_options import ModelTable
from swarm.core.task import Claim, Task, TaskClass, Trail
from swarm.runtime.ports import ModelServer
from swarm.worker.attempt import Ending
from swarm.worker.executors.llm import request_body, request_limits, usage_of

_encode = msgspec.json.Encoder().encode


class LiveCall:
    """Fits the ``RequestExecutor`` port, for this one request. For one event loop."""

    def __init__(self, server: ModelServer, task: Task, body: Mapping[str, Any], settings: LlmSettings) -> None:
        self.task = task
        self.changed = asyncio.Event()
        """A piece has come, or the end."""
        self.ending: Ending | None = None
        self.last: dict[str, Any] = {}
        """The last piece, once the request was answered."""
        self._server = server
        self._body = body
        self._limits = request_limits(task, settings)
        self._lines: list[bytes] = []

    @property
    def limit_s(self) -> float:
        """Of the whole answer."""
        return self._limits.total_s

    async def run(self, claim: Claim, *, progress: Progress) -> Trail:
        """Ask the server. The trail tells the counts, without the text. Raises ``TaskFault``."""
        task = claim.task
        reply = await self._server.run(
            task.endpoint,
            self._body,
            limits=self._limits,
            progress=progress,
            marker=task.task_id,
            on_piece=self._on_piece,
        )
        self.last = reply.last
        return Trail(result={"usage": usage_of(reply)}, simulated=reply.simulated)

    def end(self, ending: Ending | None) -> None:
        """It has ended so."""
        self.ending = ending
        self.changed.set()

    def take(self) -> bytes:
        """The lines that have come since the last call."""
        lines, self._lines = self._lines, []
        return b"".join(lines)

    def line(self, piece: Mapping[str, Any]) -> bytes:
        """A piece as one line. It names the model as the request did: some engines have a name of their own for it."""
        return _encode({**piece, "model": self.task.model}) + b"\n"

    def _on_piece(self, piece: dict[str, Any]) -> None:
        self._lines.append(self.line(piece))
        self.changed.set()


class LiveModel:
    """Makes calls to one worker's model server."""

    def __init__(self, server: ModelServer, settings: LlmSettings, models: Mapping[str, ModelSettings]) -> None:
        self._server = server
        self._settings = settings
        self._models = ModelTable(models)

    def call(self, asked: LiveRequest) -> LiveCall:
        """The call, with what is fixed for its model as in a batch request. Raises ``TaskFault`` (deterministic)."""
        model = asked.request.get("model")
        if not isinstance(model, str) or not model:
            raise TaskFault("deterministic", "bad_request", "request.model must be the name of a model")
        task = Task(
            task_id=asked.id,
            task_class=TaskClass.LLM,
            name="live request",
            model=model,
            endpoint=asked.endpoint,
            request=asked.request,
            timeout_s=asked.timeout_s,
        )
        body = request_body(task, self._models, num_predict=self._settings.num_predict)
        return LiveCall(self._server, task, body, self._settings)
