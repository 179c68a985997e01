"""Embedding requests that differ only in their texts travel together, each with its own answer or fault.

* What waits when a pack leaves goes into it, bounded by texts and characters; nothing is waited for.
* Those with other limits travel in another pack, so that none has its time cut by another's.
* A pack that the server refuses, or breaks under, is halved until one text alone has the fault: the others are answered.
* A pack that takes too long tells nothing of its texts: they fail just before their own time is up, by a fault that uses up
  no attempt, and fewer travel together from then on.
* Where nothing is answered any more, each request of the pack gets the fault, and is tried again as the fault's class says.

For one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.health.blame import AMBIGUOUS, HANGS
from swarm.core.models.model_server import MIB, Limits, Reply
from swarm.core.policy.pack_size import PackSize, after_pack, after_timeout
from swarm.core.task import EMBED
from swarm.runtime.ports import ModelServer

MOST_CHARACTERS = 200_000
"""Of one pack, some 50,000 tokens; a longer text travels alone."""
AT_ONCE = 2
"""Packs under way: one that the server works on, one that it finds when that is done."""
SPLIT = AMBIGUOUS - HANGS - {"busy"}
"""Faults that one text may have caused, and that come soon: worth finding out which."""
BROKEN_AFTER = 2
"""Texts in a row that fail alone: the server is to blame, and no more is asked of it."""
MOST_REPLY_BYTES = 512 * MIB
PATIENCE = 0.9
"""The part of its time that a request gives to others; once all of it is over the task itself is to blame."""
_encode = msgspec.json.Encoder(order="sorted").encode


class _Request:
    """One task's part of a pack."""

    def __init__(self, body: Mapping[str, Any], texts: list[str], limits: Limits, marker: str | None) -> None:
        self.body = body
        self.texts = texts
        self.limits = limits
        self.marker = marker
        self.characters = sum(map(len, texts))
        self.kind = str(body.get("model") or ""), limits.total_s
        """Requests of one kind have one size of packs."""
        self.sent = False
        self.together = 0
        """Texts of the pack in which it was sent; 0: alone."""
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()


Pack = Sequence[_Request]


class _Split:
    """What the parts of one pack met so far."""

    def __init__(self) -> None:
        self.broken: TaskFault | None = None
        """The server is; what is left gets this fault unasked."""
        self._in_a_row = 0

    def answered(self) -> None:
        self._in_a_row = 0

    def failed(self, fault: TaskFault) -> None:
        """One text alone met this, or several a fault that no text causes."""
        if fault.fault == "deterministic":
            return
        self._in_a_row += 1
        if self._in_a_row >= BROKEN_AFTER or fault.kind not in SPLIT:
            self.broken = fault


class EmbeddingPacks:
    """The packs to one server."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._sizes: dict[tuple[str, float], PackSize] = {}
        self._waiting: deque[tuple[bytes, _Request]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._splits = 0
        """Packs that are being halved: meanwhile nothing is sent beside, which might break together with them."""
        self._due = False
        self._kind = "", 0.0

    @property
    def size(self) -> int:
        """Texts of a pack now. Safe from any thread."""
        return self._sizes.get(self._kind, PackSize()).size

    async def embed(self, body: Mapping[str, Any], *, limits: Limits, marker: str | None) -> Reply:
        """The answer to one request, sent together with others. ``final`` says how many texts travelled: ``packed``.

        Of a pack only the sum of its tokens is known: it is shared out by length. Raises ``TaskFault``.
        """
        texts = texts_of(body)
        if texts is None:
            return await self._server.run(EMBED, body, limits=limits, progress=None, marker=marker)
        request = _Request(body, texts, limits, marker)
        alike = {name: value for name, value in body.items() if name != "input"}
        self._waiting.append((_encode((alike, limits)), request))
        self._send_soon()
        timer = asyncio.get_running_loop().call_later(PATIENCE * limits.total_s, self._give_up, request)
        try:
            return await request.answer
        finally:
            timer.cancel()

    def _give_up(self, request: _Request) -> None:
        """Its time is nearly up; what is asked for alone has all of it."""
        if request.answer.done() or (request.sent and not request.together):
            return
        what = "it waited for others"
        if request.together:
            state = self._sizes.get(request.kind, PackSize())
            self._sizes[request.kind] = after_timeout(state, texts=request.together)
            what = f"it travelled with others, {request.together} texts in all; from now on fewer travel together"
        message = f"no answer within {PATIENCE * request.limits.total_s:g} s: {what}"
        request.answer.set_exception(TaskFault("infra", "timeout", message))

    def _send_soon(self) -> None:
        """After all that starts in this turn of the loop has been queued."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._due = False
        while self._waiting and len(self._under_way) < (1 if self._splits else AT_ONCE):
            pack = self._take()
            if pack:
                task = asyncio.get_running_loop().create_task(self._answer(pack))
                self._under_way.add(task)
                task.add_done_callback(self._ended)
                _cut_when_unwanted(pack, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._send_soon()

    def _take(self) -> Pack:
        """The next pack: the oldest request, and those behind it that may travel with it."""
        pack: list[_Request] = []
        others: list[tuple[bytes, _Request]] = []
        key, texts, characters = b"", 0, 0
        while self._waiting:
            own_key, request = entry = self._waiting.popleft()
            if request.answer.done():  # cancelled while it waited
                continue
            if not pack:
                key, self._kind = own_key, request.kind
            elif own_key != key:
                others.append(entry)
                continue
            elif texts + len(request.texts) > self.size or characters + request.characters > MOST_CHARACTERS:
                others.append(entry)
                break
            pack.append(request)
            texts, characters = texts + len(request.texts), characters + request.characters
        self._waiting.extendleft(reversed(others))
        return pack

    async def _answer(self, pack: Pack, split: _Split | None = None) -> None:
        """Send it, and give each its answer. Never raises."""
        pack = [one for one in pack if not one.answer.done()]
        if not pack:
            return
        if split is not None and split.broken is not None:
            _fail(pack, split.broken)
            return
        try:
            reply = await self._ask(pack)
        except TaskFault as fault:
            if len(pack) > 1 and (fault.fault == "deterministic" or fault.kind in SPLIT):
                await self._halve(pack, split or _Split())
                return
            _fail(pack, fault)
            if split is not None:
                split.failed(fault)
        except Exception as error:  # noqa: BLE001 - each request raises it where it is waited for
            _fail(pack, error)
        else:
            if split is not None:
                split.answered()
            for request, own in zip(pack, _shares(pack, reply), strict=True):
                if not request.answer.done():
                    request.answer.set_result(own)

    async def _halve(self, pack: Pack, split: _Split) -> None:
        self._splits += 1
        middle = len(pack) // 2
        try:
            await self._answer(pack[:middle], split)
            await self._answer(pack[middle:], split)
        finally:
            self._splits -= 1

    async def _ask(self, pack: Pack) -> Reply:
        """One request for all. Raises ``TaskFault``, also for an answer that has not one vector for each text."""
        first, alone = pack[0], len(pack) == 1
        texts = [text for one in pack for text in one.texts]
        for one in pack:
            one.sent, one.together = True, 0 if alone else len(texts)
        body = first.body if alone else {**first.body, "input": texts}
        most_bytes = min(len(pack) * first.limits.max_reply_bytes, MOST_REPLY_BYTES)
        limits = msgspec.structs.replace(first.limits, max_reply_bytes=most_bytes)
        began_s = monotonic()
        reply = await self._server.run(EMBED, body, limits=limits, progress=None, marker=first.marker)
        vectors = reply.final.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(texts):
            found = len(vectors) if isinstance(vectors, list) else "no"
            raise TaskFault("infra", "garbage", f"{found} embeddings came for {len(texts)} texts")
        characters = sum(one.characters for one in pack)
        state = self._sizes.get(first.kind, PackSize())
        self._sizes[first.kind] = after_pack(state, texts=len(texts), characters=characters, seconds=monotonic() - began_s)
        return reply


def texts_of(body: Mapping[str, Any]) -> list[str] | None:
    """The texts of an embedding request; None if it has none that may travel with others."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return None
    return texts


def _shares(pack: Pack, reply: Reply) -> list[Reply]:
    """Each request's own part of the answer."""
    vectors, total = reply.final["embeddings"], sum(one.characters for one in pack)
    shares, start, given = [], 0, 0
    for number, one in enumerate(pack):
        last = number == len(pack) - 1
        tokens_in = reply.tokens_in - given if last else round(reply.tokens_in * one.characters / max(total, 1))
        tokens_in = max(0, min(tokens_in, reply.tokens_in - given))
        given += tokens_in
        final = {**reply.final, "embeddings": vectors[start : start + len(one.texts)], "packed": len(vectors)}
        if "prompt_eval_count" in final:
            final["prompt_eval_count"] = tokens_in
        start += len(one.texts)
        shares.append(msgspec.structs.replace(reply, final=final, tokens_in=tokens_in))
    return shares


def _fail(pack: Pack, error: Exception) -> None:
    for request in pack:
        if not request.answer.done():
            request.answer.set_exception(error)


def _cut_when_unwanted(pack: Pack, task: asyncio.Task[None]) -> None:
    """Hang up once nobody waits for an answer any more: cancelled, or given up."""

    def look(_answer: asyncio.Future[Reply]) -> None:
        if all(one.answer.done() for one in pack):
            task.cancel()

    for request in pack:
        request.answer.add_done_callback(look)
