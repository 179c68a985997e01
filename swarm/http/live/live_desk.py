"""Takes live requests to workers: waits for a place, tries elsewhere, gives the place back.

* Until the client was sent a byte, what a worker refuses or fails is asked elsewhere: refusals for as long as a request may
  wait, faults ``MAX_TRIES`` times in all. A fault of the request itself goes to the client.
* A cancelled request (its client has gone) leaves queue and worker at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec

from swarm.core.explain.live import live_obstacles
from swarm.core.live.demand import ModelDemand
from swarm.core.live.dispatch import LiveDispatch
from swarm.core.live.routing import LiveWorker
from swarm.core.live.waiting import Ticket
from swarm.errors import StorageFault
from swarm.http.answers import ApiError
from swarm.http.live import refusals
from swarm.http.live.demand_writer import DemandWriter
from swarm.http.live.live_ask import LiveAsk
from swarm.http.live.worker_sockets import AnswerFault, LiveStream, NotTaken, WorkerSockets
from swarm.http.live.worker_watch import WorkerWatch
from swarm.http.parts import HttpParts

T = TypeVar("T")
MAX_TRIES = 3
BUSY_S = 0.1
"""After a refusal for want of a place a worker is asked again so much later: places come back at any moment."""


class LiveDesk:
    """Used on the event loop only."""

    def __init__(self, parts: HttpParts) -> None:
        live = parts.settings.live
        self._dispatch = LiveDispatch(queue_max=live.queue_max, max_wait_s=live.max_wait_s)
        self._timeout_s = parts.settings.llm.timeout_s
        self._waiting: dict[Ticket, asyncio.Future[str]] = {}
        self._unanswered: dict[str, set[asyncio.Task[LiveStream]]] = {}
        """By worker: requests of which nothing has come yet."""
        self._log = parts.log
        self._timer: asyncio.TimerHandle | None = None
        self._sockets = WorkerSockets(parts.queue.layout)
        self._writer: DemandWriter | None = None
        self._parts = parts
        self.watch = WorkerWatch(parts.queue, parts.settings, self._workers_changed)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve within the block."""
        self._writer = DemandWriter(self._parts.queue, self._demand)
        async with self.watch.running(), self._writer.running():
            try:
                yield
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                await self._sockets.close()

    def check(self, model: str) -> None:
        """Raise ``ApiError`` for a model that no worker has, or that nobody may serve now. By its canonical name."""
        refusals.check(self._dispatch, model)

    def worker(self, name: str) -> LiveWorker:
        """What is known of a worker now."""
        return self._dispatch.workers.get(name) or LiveWorker(name=name)

    async def ask(self, ask: LiveAsk, read: Callable[[LiveStream], Awaitable[T]]) -> T:
        """Have a worker answer, and read of its answer what can still be asked elsewhere.

        ``read`` closes the stream, or returns it with what it has read so far. Raises ``ApiError``.
        """
        ticket = Ticket(client=ask.client, model=ask.canonical, keys=ask.keys())
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(deadline_s):
                worker = await self._first_place(ticket)
                asked = tries = 0
                while True:
                    # Each under an id of its own: a worker may not have put away the last one yet.
                    sent = msgspec.structs.replace(ask, id=f"{ask.id}-{asked}") if asked else ask
                    asked += 1
                    try:
                        return await self._try(sent, ticket, worker, deadline_s - loop.time(), read)
                    except NotTaken as refusal:
                        for_s = BUSY_S if refusal.kind == "busy" else refusal.retry_after_s
                        self._dispatch.hold(worker, loop.time(), for_s)
                    except AnswerFault as fault:
                        tries += 1
                        self._log.warning("Live request %s: %s failed it: %s", ask.id, worker, fault.kind)
                        if not fault.elsewhere or tries >= MAX_TRIES:
                            raise refusals.of_fault(fault, tries) from fault
                        self._dispatch.avoid(ticket, worker)
                    self.watch.look_soon()
                    worker = await self._wait(ticket, again=True)
        except TimeoutError as error:
            raise refusals.too_late(self._timeout_s) from error

    async def wait_for(self, model: str, client: str) -> None:
        """Return once a worker holds this model and has a place free. Raises ``ApiError``."""
        ticket = Ticket(client=client, model=model)
        worker = await self._first_place(ticket)
        self._give_back(ticket, worker)

    async def _try(
        self, ask: LiveAsk, ticket: Ticket, worker: str, timeout_s: float, read: Callable[[LiveStream], Awaitable[T]]
    ) -> T:
        """Ask one worker, whose place was taken. Gives the place back unless ``read`` keeps the stream open."""
        gone = False

        def ended() -> None:
            nonlocal gone
            if not gone:
                gone = True
                self._give_back(ticket, worker)

        stream: LiveStream | None = None
        try:
            stream = await self._begin(ask, worker, timeout_s, ended)
            return await read(stream)
        except BaseException:
            if stream is not None:
                stream.close()
            ended()
            raise

    async def _begin(self, ask: LiveAsk, worker: str, timeout_s: float, ended: Callable[[], None]) -> LiveStream:
        """The head of the answer; given up once its worker is not heard of any more."""
        epoch = self.worker(worker).epoch
        asking = asyncio.ensure_future(self._sockets.ask(worker, epoch, ask, timeout_s=timeout_s, ended=ended))
        others = self._unanswered.setdefault(worker, set())
        others.add(asking)
        try:
            return await asking
        except asyncio.CancelledError:
            if asking.done() and not asking.cancelled() and asking.exception() is None:
                asking.result().close()  # it came in the same moment
            if _cancelled_from_outside():
                raise
            raise AnswerFault("worker_silent", f"{worker} has not been heard of lately") from None
        finally:
            others.discard(asking)

    async def _first_place(self, ticket: Ticket) -> str:
        now_s = asyncio.get_running_loop().time()
        worker = self._dispatch.place_now(ticket, now_s)
        if worker is None:
            return await self._wait(ticket, again=False)
        self._tell_brain()
        return worker

    async def _wait(self, ticket: Ticket, *, again: bool) -> str:
        """The worker that has a place for it. Raises ``ApiError`` (429)."""
        loop = asyncio.get_running_loop()
        if again:
            self._dispatch.queue.put_back(ticket, loop.time())
        elif not self._dispatch.queue.put(ticket, loop.time()):
            raise refusals.queue_full(self._dispatch, ticket.model)
        future: asyncio.Future[str] = loop.create_future()
        self._waiting[ticket] = future
        self._pump()
        try:
            return await future
        except ApiError as refusal:
            raise await self._explained(refusal, ticket.model) from refusal
        except asyncio.CancelledError:
            if self._waiting.pop(ticket, None) is not None:
                self._dispatch.queue.remove(ticket)
            elif future.done() and not future.cancelled() and future.exception() is None:
                self._dispatch.give_back(ticket, future.result(), loop.time())
            self._pump()
            raise

    async def _explained(self, refusal: ApiError, model: str) -> ApiError:
        """A refusal for want of a card says why the model has none."""
        if refusal.code != refusals.LOADING:
            return refusal
        try:
            seen = (await self._parts.observer.look()).value
        except StorageFault:
            return refusal
        settings, brain = self._parts.settings, seen.status.brain_alive
        reasons = await asyncio.to_thread(live_obstacles, model, seen.snapshot, settings, brain_alive=brain)
        return refusals.with_reasons(refusal, reasons)

    def _give_back(self, ticket: Ticket, worker: str) -> None:
        self._dispatch.give_back(ticket, worker, asyncio.get_running_loop().time())
        self._pump()

    def _workers_changed(self) -> None:
        seen = self.watch.seen
        self._dispatch.see(seen.workers, seen.pauses, starting=seen.supervised)
        for one in seen.workers:
            if one.silent:
                for asking in self._unanswered.get(one.name, ()):
                    asking.cancel()
        self._pump()

    def _pump(self) -> None:
        """Give free places to who waits, refuse who has waited too long, and come again when that may be so of another."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for late in self._dispatch.queue.expired(now_s):
            future = self._waiting.pop(late)
            if not future.done():
                future.set_exception(refusals.waited_too_long(self._dispatch, late.model))
        for ticket, worker in self._dispatch.assign(now_s):
            future = self._waiting.pop(ticket)
            if future.done():  # cancelled, and not yet come to leave
                self._dispatch.give_back(ticket, worker, now_s)
                loop.call_soon(self._pump)
            else:
                future.set_result(worker)
        if self._timer is not None:
            self._timer.cancel()
        next_s = self._dispatch.next_s()
        self._timer = None if next_s is None else loop.call_at(next_s, self._pump)
        self._tell_brain()

    def _tell_brain(self) -> None:
        if self._writer is not None:
            self._writer.changed()

    def _demand(self) -> dict[str, ModelDemand]:
        return self._dispatch.demand(asyncio.get_running_loop().time())


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(receive: Callable[[], Awaitable[object]], work: Awaitable[T]) -> T:
    """The result of the work; it is cancelled as soon as the client has gone, and ``ClientGone`` raised.

    The body of the request was read whole, so that the next message can only be that the client has gone.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for one in (working, leaving):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError, ApiError):
                    await one
