"""A model server that runs one process for the model that it holds: a load starts it, an unload ends it.

* Fits ``ModelServer``. One model at a time; loads and unloads exclude one another, questions and requests wait for none.
* A process that died under a request is started again by the next request, as Ollama loads its runner again: what breaks a
  server can only be told from what a broken server breaks if the next request meets a working one.
* A worker that was killed leaves its process to its next life (``adopt``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from swarm.core.faults import CancelToken, Progress, TaskFault, fault_of_stop
from swarm.core.models.model_server import (
    InstalledModel,
    Limits,
    LoadAnswer,
    LoadedModel,
    LoadOrder,
    ModelDetails,
    OnPiece,
    Reply,
)
from swarm.core.task import Endpoint
from swarm.core.worker import ProcessIdentity
from swarm.engines.control_http import OnConnect
from swarm.engines.processes.model_process import ModelProcess, end_marked, running_note
from swarm.engines.processes.model_spec import ModelFiles, ModelServerSpec, ModelSpecMaker
from swarm.engines.processes.starts import SharedStart, held_alone
from swarm.engines.server_calls import ServerCalls
from swarm.engines.server_proof import ServerProof

LOOK_S = 5.0
DEATH_S = 0.2
_PAUSE_S, _PAUSE_MAX_S = 0.02, 0.5


class RequestClient(Protocol):
    """Sends requests to one server."""

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Progress | None,
        marker: str | None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """As the port's."""
        ...

    def close(self) -> None:
        """Close idle connections, from any thread."""
        ...

    async def close_work(self) -> None:
        """Close idle connections, on the event loop of ``run``."""
        ...


Connect = Callable[[str, str, OnConnect], RequestClient]
"""Base URL, key (empty: none) and proof of the server to a client of it."""


class _Running(msgspec.Struct, frozen=True, kw_only=True):
    """A process that was ready once."""

    process: ModelProcess
    calls: ServerCalls
    client: RequestClient
    loaded: LoadedModel


class ProcessServer:
    """The server of one worker and one engine. Thread-safe."""

    def __init__(
        self,
        maker: ModelSpecMaker,
        files: ModelFiles,
        connect: Connect,
        *,
        log: logging.Logger,
        vram_mib: Callable[[frozenset[int]], int] = lambda _pids: 0,
    ) -> None:
        """``vram_mib``: what these processes hold on the cards by the driver's word; 0: it does not say."""
        self._maker = maker
        self._files = files
        self._connect = connect
        self._log = log
        self._vram_mib = vram_mib
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._known: ProcessIdentity | None = None
        self._proof = ServerProof(maker.markers, known=lambda: self._known)
        self._mourned: ModelProcess | None = None
        self._closing = threading.Event()
        self._unfinished: ModelServerSpec | None = None
        """Of a start that was given up since nobody waited for it: the next request makes it anew."""
        self._revival: SharedStart[_Running] = SharedStart()
        """The start under way on behalf of requests."""

    # -- control -----------------------------------------------------------------------------------------------------

    def adopt(self) -> str | None:
        """Take over what an earlier life of this worker left, if it is what would be started now; else end it.

        A line for the log; None: there was nothing. Raises ``TaskFault`` when something cannot be killed.
        """
        with self._lock:
            note = running_note(self._maker.note_path, self._maker.markers)
            if note is not None:
                try:
                    spec = self._maker.spec(note.model, note.options, slots=note.slots, embedding=note.embedding)
                except TaskFault:  # its file is gone, say
                    spec = None
                process = (
                    ModelProcess.adopt(spec, note) if spec is not None and spec.fingerprint == note.fingerprint else None
                )
                if process is not None:
                    self._running = self._measured(self._made(process))
                    return f"the server of {note.model} adopted: it runs as pid {note.process.pid} on port {note.port}"
            ended = end_marked(self._maker.markers)
            return f"{ended} processes of an earlier life ended, which served another model or otherwise" if ended else None

    def load(self, order: LoadOrder, *, timeout_s: float = 600.0, cancel: CancelToken | None = None) -> LoadAnswer:
        """Start the process and wait until it is ready; another model's is ended before. It stays until it is unloaded.

        Raises ``TaskFault``: of ``ModelFiles.find`` and ``ModelProcess``, ``load_timeout``, ``out_of_memory`` …
        """
        began_s = time.monotonic()
        spec = self._maker.spec(order.model, order.options, slots=order.slots, embedding=order.embedding)
        stopped = threading.Event()
        if cancel is not None:
            cancel.on_cancel(stopped.set)
        with held_alone(self._lock, timeout_s, cancel):
            held = self._running
            if held is None or held.process.poll() is not None or held.process.spec.fingerprint != spec.fingerprint:
                self._end()
                left_s = timeout_s - (time.monotonic() - began_s)
                self._running = self._started(spec, min(left_s, spec.start_timeout_s), stopped, cancel)
        return LoadAnswer(done_reason="load", total_s=time.monotonic() - began_s)

    def unload(self, model: str, timeout_s: float = 30.0) -> None:
        """End the process of this model, its requests with it. Harmless if another is loaded, or none."""
        with held_alone(self._lock, timeout_s):
            spec = self._unfinished if self._running is None else self._running.process.spec
            if spec is not None and spec.model == model:
                self._end()

    def ps(self, timeout_s: float = LOOK_S) -> Sequence[LoadedModel]:
        """The model whose process runs and is healthy; none while it is loading."""
        held = self._running
        if held is None or self._is_dead(held):
            return ()
        try:
            trouble = held.calls.trouble(held.process.spec.health, timeout_s)
        except TaskFault:
            held.process.wait(DEATH_S)  # its connections break a moment before it has ended
            if self._is_dead(held):
                return ()
            raise
        if trouble:
            raise TaskFault("infra", "unhealthy", f"the server of {held.loaded.name} runs, but is not ready: {trouble}")
        return (held.loaded,)

    def show(self, model: str, timeout_s: float = LOOK_S) -> ModelDetails:
        """What the model's file says of it. Raises ``TaskFault`` (``ModelFiles.find``)."""
        del timeout_s  # nobody is asked
        return self._files.find(model).details

    def tags(self, timeout_s: float = LOOK_S) -> Sequence[InstalledModel]:
        """The models that could be loaded."""
        del timeout_s  # nobody is asked
        return self._files.listed()

    def close(self) -> None:
        """End the process. For an orderly end of the worker: a start under way is given up."""
        self._closing.set()
        with self._lock:
            self._end()

    async def close_work(self) -> None:
        """Close the connections of ``run``, on its event loop."""
        held = self._running
        if held is not None:
            await held.client.close_work()

    def release(self) -> None:
        """Leave the process to the worker's next life."""
        with self._lock:
            held, self._running = self._running, None
            if held is not None:
                held.process.release()

    # -- work --------------------------------------------------------------------------------------------------------

    async def run(
        self,
        endpoint: Endpoint,
        body: Mapping[str, Any],
        *,
        limits: Limits,
        progress: Progress | None = None,
        marker: str | None = None,
        on_piece: OnPiece | None = None,
    ) -> Reply:
        """One request to the process; one that has died is started again first."""
        model = str(body.get("model") or "")
        held = self._running
        if held is None or held.process.poll() is not None:
            held = await self._revival.wait(partial(self._revived, model, limits))
        body = {**body, "model": held.process.spec.served_as}
        return await held.client.run(endpoint, body, limits=limits, progress=progress, marker=marker, on_piece=on_piece)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _revived(self, model: str, limits: Limits, stopped: threading.Event) -> _Running:
        with self._lock:
            held = self._running
            if held is not None and held.process.poll() is None:
                return held
            spec = self._unfinished if held is None else held.process.spec
            if spec is None:
                raise TaskFault("infra", "not_loaded", f"no process serves {model} now: it has to be loaded first")
            if stopped.is_set():
                raise fault_of_stop("stopping")
            how = "its start was given up" if held is None else held.process.poll()
            self._log.warning("The server of %s ended (%s): it is started again", spec.model, how)
            self._end()
            try:
                self._running = self._started(spec, min(limits.total_s, spec.start_timeout_s), stopped, None)
            except TaskFault as fault:
                self._unfinished = spec if fault.fault == "cancelled" else None
                raise
            return self._running

    def _started(
        self, spec: ModelServerSpec, limit_s: float, stopped: threading.Event, cancel: CancelToken | None
    ) -> _Running:
        process = ModelProcess.start(spec)
        self._known = process.identity
        self._log.info("%s started for %s as pid %d on port %d", spec.engine, spec.model, process.identity.pid, spec.port)
        made = self._made(process)
        try:
            self._wait_ready(made, limit_s, stopped, cancel)
        except BaseException:
            self._close(made)
            raise
        return self._measured(made)

    def _measured(self, made: _Running) -> _Running:
        """With what the server itself says of its slots and context."""
        slots, context = self._capacity(made)
        loaded = self._loaded(made.process)
        if context and loaded.context_length:
            context = min(context, loaded.context_length)  # one pool for all slots
        told = {"slots": slots or loaded.slots, "context_length": context or loaded.context_length}
        return msgspec.structs.replace(made, loaded=msgspec.structs.replace(loaded, **told))

    def _capacity(self, made: _Running) -> tuple[int, int]:
        """Requests at once and tokens of one, by the server's own word; 0 where it does not say."""
        try:
            if self._maker.kind == "llama-server":
                return made.calls.capacity(LOOK_S)
            return 0, max((one.context_length for one in made.calls.models(LOOK_S)), default=0)
        except TaskFault as fault:
            self._log.warning("The server of %s does not say what it can do: %s", made.loaded.name, fault.message)
            return 0, 0

    def _wait_ready(self, made: _Running, limit_s: float, stopped: threading.Event, cancel: CancelToken | None) -> None:
        process, end_s, pause_s = made.process, time.monotonic() + limit_s, _PAUSE_S
        said = "no answer yet"
        while True:
            if process.poll() is not None:
                raise process.death()
            if stopped.is_set() or self._closing.is_set():
                raise fault_of_stop((cancel.reason if cancel is not None else None) or "stopping")
            try:
                said = made.calls.trouble(process.spec.health, LOOK_S)
                if not said:
                    return
            except TaskFault as fault:
                said = fault.message
            if time.monotonic() >= end_s:
                what = f"{process.spec.model} was not ready within {limit_s:g} s ({said}); see {process.spec.log_path}"
                raise TaskFault("infra", "load_timeout", what)
            stopped.wait(pause_s)
            pause_s = min(pause_s * 1.5, _PAUSE_MAX_S)

    def _made(self, process: ModelProcess) -> _Running:
        self._known = process.identity
        url, key = process.spec.url, process.key
        return _Running(
            process=process,
            calls=ServerCalls(url, key=key, on_connect=self._proof),
            client=self._connect(url, key, self._proof),
            loaded=self._loaded(process),
        )

    def _loaded(self, process: ModelProcess) -> LoadedModel:
        """All of it lies on the cards, where there are any: no process is started that may put a part elsewhere."""
        spec = process.spec
        size_mib = max(spec.size_mib, self._vram_mib(process.pids()))
        on_cards = spec.env.get("CUDA_VISIBLE_DEVICES") != "-1"
        return LoadedModel(
            name=spec.model,
            digest=spec.digest,
            size_mib=size_mib,
            size_vram_mib=size_mib if on_cards else 0,
            context_length=spec.context if "context" in spec.told else 0,
            context_fixed=True,
            slots=spec.slots if "slots" in spec.told else 0,
        )

    def _is_dead(self, held: _Running) -> bool:
        if held.process.poll() is None:
            return False
        if self._mourned is not held.process:
            self._mourned = held.process
            self._log.error("%s", held.process.death().message)
        return True

    def _end(self) -> None:
        held, self._running, self._unfinished = self._running, None, None
        if held is not None:
            self._close(held)

    def _close(self, held: _Running) -> None:
        self._known = None
        held.calls.close()
        held.client.close()
        held.process.end()
