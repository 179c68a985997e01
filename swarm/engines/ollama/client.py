"""The Ollama client: native API, every call bounded and cancellable.

Requests for work run on an event loop, all others block their thread. Every failure is a ``TaskFault`` whose class says
what to do next; see ``swarm.engines.classify``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

from swarm.core.faults import CancelToken, TaskFault, fault_of_stop
from swarm.core.models.model_server import (
    MIB,
    InstalledModel,
    Limits,
    LoadAnswer,
    LoadedModel,
    LoadOrder,
    ModelDetails,
    OnPiece,
    PullStep,
    Reply,
)
from swarm.core.task import Endpoint
from swarm.engines.classify import fault_of_status, fault_of_transport, shown_text
from swarm.engines.control_http import Abort, HttpClient, OnConnect, body_of, read_all, read_start
from swarm.engines.deadlines import Deadlines
from swarm.engines.ollama import replies
from swarm.engines.ollama.stream import (
    Answer,
    LineReader,
    decode_object,
    half_stream,
    read_lines,
)
from swarm.engines.work_call import answered, encoded, marker_header, whole_body
from swarm.engines.work_http import WorkHttp, WorkReply
from swarm.http_session import TRANSPORT_ERRORS, cause_of

_ERROR_BYTES = MIB // 4
_DRAIN_S = 0.5
"""How long the end of a reply may trail its last line before the connection is given up instead of reused."""


class OllamaClient:
    """One server. Thread-safe but for ``run``, which is for one event loop; keeps connections alive. Uses no proxy."""

    def __init__(self, base_url: str, *, on_connect: OnConnect | None = None) -> None:
        """``on_connect`` sees each new connection before anything is sent, and may refuse it (``server_proof.ServerProof``).

        Raises ``ConfigError`` unless ``base_url`` is ``http://host:port``.
        """
        self.base_url = base_url.rstrip("/")
        self._http = HttpClient(base_url, on_connect)
        self._work = WorkHttp(base_url, on_connect)

    def close(self) -> None:
        """Close idle connections; requests in flight go on."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- questions -----------------------------------------------------------------------------------------------

    def version(self, timeout_s: float = 5.0) -> str:
        """The server's version; answers even when the scheduler is wedged. ``is_simulated`` recognises a simulated one."""
        return replies.version(self._object("GET", "/api/version", None, Limits(total_s=timeout_s)).final)

    def ps(self, timeout_s: float = 5.0) -> tuple[LoadedModel, ...]:
        """Models that are loaded now. A model that is still loading is not listed."""
        return replies.loaded_models(self._object("GET", "/api/ps", None, Limits(total_s=timeout_s)).final)

    def tags(self, timeout_s: float = 10.0) -> tuple[InstalledModel, ...]:
        """Models on disk, newest first."""
        return replies.installed_models(self._object("GET", "/api/tags", None, Limits(total_s=timeout_s)).final)

    def show(self, model: str, timeout_s: float = 10.0) -> ModelDetails:
        """What the server knows of one model. Raises ``TaskFault`` kind ``model_missing``."""
        found = self._object("POST", "/api/show", {"model": model}, Limits(total_s=timeout_s)).final
        return replies.model_details(model, found)

    # -- models --------------------------------------------------------------------------------------------------

    def load(self, order: LoadOrder, *, timeout_s: float = 600.0, cancel: CancelToken | None = None) -> LoadAnswer:
        """Preload a model. For how many requests at once is the server's own (``parallel.ParallelSlots``).

        Cancelling (or the timeout) hangs up, which makes the server abort the load.
        """
        body: dict[str, Any] = {"model": order.model, "options": dict(order.options), "keep_alive": order.keep_alive}
        if order.keep_alive is None:
            del body["keep_alive"]
        endpoint = "/api/embed" if order.embedding else "/api/generate"
        if order.embedding:
            body["input"] = []
        else:
            body["stream"] = False
        reply = self._object("POST", endpoint, body, Limits(total_s=timeout_s), cancel)
        reason = "load" if order.embedding else shown_text(str(reply.final.get("done_reason") or ""), 100)
        if not order.embedding and reply.final.get("done") is not True:
            raise half_stream()
        return LoadAnswer(done_reason=reason, total_s=reply.total_s)

    def unload(self, model: str, timeout_s: float = 30.0) -> None:
        """Order a model out. It goes once its requests have ended: poll ``ps``, then the card, to know that it has."""
        body = {"model": model, "keep_alive": 0, "stream": False}
        self._object("POST", "/api/generate", body, Limits(total_s=timeout_s))

    def pull(
        self,
        model: str,
        progress: Callable[[PullStep], None] | None = None,
        *,
        limits: Limits | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        """Download a model. Returns only if the server said ``success``; most failures come inside a 200."""
        limits = limits or Limits(total_s=24 * 3600.0, first_token_s=60.0, token_gap_s=300.0, max_reply_bytes=1024 * MIB)
        last = ""
        body = {"model": model, "stream": True}
        with self._reply("POST", "/api/pull", body, limits, cancel=cancel) as (received, deadlines):
            for line in read_lines(received, deadlines, limits.max_reply_bytes):
                step = replies.pull_step(line)
                last = step.status
                if progress is not None:
                    progress(step)
        if last != "success":
            raise TaskFault(
                "transient", "pull_incomplete", f"the download of {model} ended after {last or 'nothing'!r}; pull it again"
            )

    # -- work ----------------------------------------------------------------------------------------------------

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Callable[[int], None] | None = None,
        marker: str | None = None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """Run one request (``/api/chat``, ``/api/generate`` or ``/api/embed``); ``body`` names the model.

        All calls on one event loop; cancelling one hangs up. ``progress`` is called with 1 for each piece of text.
        ``marker`` travels as header ``X-Swarm-Task``.
        """
        streamed = endpoint != "/api/embed"
        deadlines = Deadlines(limits, streamed=streamed)
        sent = {**body, "stream": True} if streamed else body
        refused = partial(fault_of_status, endpoint=endpoint)
        async with answered(self._work, endpoint, sent, marker_header(marker), deadlines, refused) as reply:
            if streamed:
                answer = Answer(progress, on_piece)
                await _read_stream(answer, reply, deadlines, limits.max_reply_bytes)
                final, last = answer.final, answer.last
            else:
                final = last = decode_object(await whole_body(reply, limits.max_reply_bytes))
        return replies.whole_reply(replies.answer(final), deadlines, last=replies.answer(last))

    async def close_work(self) -> None:
        """Close the idle connections of ``run``; to be awaited on its event loop."""
        await self._work.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _object(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        limits: Limits,
        cancel: CancelToken | None = None,
    ) -> Reply:
        """A reply that is one JSON object; only the total limit holds, since nothing comes before the end."""
        with self._reply(method, path, body, limits, cancel=cancel, streamed=False) as (received, deadlines):
            return replies.whole_reply(decode_object(read_all(received, limits.max_reply_bytes)), deadlines)

    @contextmanager
    def _reply(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        limits: Limits,
        *,
        cancel: CancelToken | None = None,
        streamed: bool = True,
    ) -> Iterator[tuple[Iterator[bytes], Deadlines]]:
        """The body of a reply with status 200; whatever goes wrong in the block leaves as ``TaskFault``."""
        raw = None if body is None else encoded(body)
        deadlines = Deadlines(limits, streamed=streamed)
        abort = Abort(deadlines, cancel)
        response = None
        try:
            if abort.fired:
                raise fault_of_stop(abort.reason)
            response = self._http.send(method, path, raw, {}, abort)
            received = body_of(response)
            if response.status_code != 200:
                text = read_start(received, _ERROR_BYTES).decode("utf-8", "replace")
                raise fault_of_status(response.status_code, text, endpoint=path)
            yield received, deadlines
            _drain(received, deadlines)
        except TRANSPORT_ERRORS as error:
            raise self._fault(cause_of(error), abort, deadlines) from error
        except TaskFault as fault:
            if abort.fired and fault.fault != "cancelled":
                raise fault_of_stop(abort.reason) from fault
            raise
        finally:
            abort.release()
            if response is not None:
                response.close()

    def _fault(self, error: BaseException, abort: Abort, deadlines: Deadlines) -> TaskFault:
        """A cut connection looks like many things; that we cut it ourselves comes first."""
        if abort.fired:
            return fault_of_stop(abort.reason)
        return deadlines.fault() if isinstance(error, TimeoutError) else fault_of_transport(error, url=self.base_url)


async def _read_stream(answer: Answer, reply: WorkReply, deadlines: Deadlines, max_bytes: int) -> None:
    reader = LineReader(deadlines, max_bytes)
    async for data in reply.pieces():
        for line in reader.feed(data):
            answer.add(line)
        if answer.complete:
            return
    for line in reader.end():
        answer.add(line)


def _drain(received: Iterator[bytes], deadlines: Deadlines) -> None:
    """Read what follows the last line, so that the connection can be used again. The answer is whole already."""
    deadlines.next = min(deadlines.next, time.monotonic() + _DRAIN_S)
    with suppress(*TRANSPORT_ERRORS):
        next(received, None)


def is_simulated(version: str) -> bool:
    """Whether this version is that of a simulated server."""
    return version.endswith("-simulated")
