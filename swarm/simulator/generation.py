"""One request that has its slot: from the prompt to the last piece of the answer, whatever the face.

A face reads a request into an ``Ask`` and gives a ``Wire``, which writes pieces and ends in the face's own form.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from swarm.simulator import made_up_text as answers
from swarm.simulator.faults import SLOW_FACTOR
from swarm.simulator.http import ApiError, Response
from swarm.simulator.knobs import Knobs
from swarm.simulator.loaded_model import LoadedModel
from swarm.simulator.pace import Pace
from swarm.simulator.slot_pool import Slot

PROMPT_SHARE = 0.05
"""Part of a request's time that is reported as spent on the prompt."""
EMBED_SPEED = 10
HELD_S = 0.01
"""How often a request looks whether it is held still."""
ENDLESS_PIECE = "endless " * 512
Piece = dict[str, Any]
"""``text``, or ``thinking``, or ``text`` and ``tool_calls``: names of functions, called without arguments."""


@dataclass(slots=True)
class Ask:
    """What a request wants of the model."""

    arrived: float
    """On the loop's clock."""
    prompt: str = ""
    texts: list[str] = field(default_factory=list)
    """To be embedded."""
    limit: int = -1
    """Tokens of the answer at most; 0 or less is open."""
    form: Any = None
    """``"json"`` or a JSON Schema."""
    thinks: bool = True
    """Whether a model that can think may."""
    tool: str = ""
    """The function to call instead of an answer."""
    stream: bool = False
    fault: str | None = None


@dataclass(slots=True)
class Done:
    """A finished answer, and what it took."""

    answer: answers.Answer
    pieces: list[Piece]
    slot: Slot
    total_s: float
    """Since the request arrived."""
    waited_s: float
    """Of that, until it had its slot."""
    prompt_s: float
    decode_s: float


class Wire(Protocol):
    """Writes one answer in a face's form."""

    response: Response

    def piece(self, piece: Piece) -> None:
        """One piece of a stream."""

    def last(self, done: Done) -> None:
        """The end of a stream."""

    def whole(self, done: Done) -> None:
        """An answer that is not streamed."""

    def bad_line(self) -> None:
        """Something in place of a piece that cannot be parsed; the answer ends with it."""

    def half(self) -> None:
        """An answer that is not streamed and lacks what marks it as finished."""

    def raw(self, data: bytes) -> None:
        """Bytes of a stream."""

    def framed(self, piece: Piece) -> bytes:
        """A piece as it would be sent in a stream."""
        ...


class FixedWork:
    """Work whose duration is known from the start."""

    def __init__(self, loaded: LoadedModel, duration_s: float) -> None:
        self._loaded = loaded
        self._duration_s = duration_s
        self._start = asyncio.get_running_loop().time()

    async def until(self, share: float) -> None:
        """Wait until this share of it is done. Raises ``ApiError`` if the runner dies meanwhile."""
        await self._loaded.sleep_until(self._start + self._duration_s * share)

    def end(self) -> None:
        """It is done, or given up."""


class SharedWork:
    """Work that shares a rate with that of other requests."""

    def __init__(self, loaded: LoadedModel, pace: Pace, tokens: float) -> None:
        self._loaded = loaded
        self._pace = pace
        self._tokens = tokens
        self._start = pace.join()

    async def until(self, share: float) -> None:
        """Wait until this share of it is done. Raises ``ApiError`` if the runner dies meanwhile."""
        if self._loaded.ended.is_set():
            raise self._loaded.stopped()
        await self._loaded.wait(self._pace.reach(self._start + self._tokens * share))

    def end(self) -> None:
        """It is done, or given up: the others get its share."""
        self._pace.leave()


class Generation:
    """The work of one request on a loaded model."""

    def __init__(
        self, ask: Ask, loaded: LoadedModel, slot: Slot, knobs: Knobs, wire: Wire, held: Callable[[], bool]
    ) -> None:
        """``held``: whether its end has to wait."""
        self._held = held
        self._ask = ask
        self._loaded = loaded
        self._slot = slot
        self._knobs = knobs
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self.answer = self._compose()

    def _compose(self) -> answers.Answer:
        ask, knobs = self._ask, self._knobs
        answer = answers.compose(
            ask.prompt,
            seed=knobs.seed,
            form=ask.form,
            thinks=ask.thinks and self._loaded.model.thinking,
            limit=ask.limit,
            ordered=answers.obeyed(ask.prompt) if knobs.obey else None,
        )
        if ask.fault == "length_cut":
            return answers.Answer(answer.thinking, answer.text[: len(answer.text) // 2], "length")
        return answer

    async def run(self) -> None:
        """Answer, at the speed the knobs say. Raises ``ApiError`` when something goes wrong (on purpose or not)."""
        tokens = self._slot.cached + self._slot.processed + self.answer.tokens
        try:
            self._loaded.take(tokens)
            await self._run()
        finally:
            self._loaded.give_back(tokens)

    async def _run(self) -> None:
        start = self._loop.time()
        pieces = self._pieces()
        if self._ask.fault == "hang_first":
            await self._loaded.sleep_until(math.inf)
        await self._read_prompt()
        decoding = self._loop.time()
        work = self._work()
        try:
            steps = len(pieces) if self._ask.stream or self._ask.fault else 0
            for n in range(steps):
                await work.until((n + 1) / (steps + 1))
                if n == steps // 2 and self._ask.fault and not await self._go_wrong():
                    return
                if self._ask.stream:
                    self._wire.piece(pieces[n])
            await work.until(1.0)
            while self._held():
                await self._loaded.sleep_until(self._loop.time() + HELD_S)
        finally:
            work.end()
        self._slot.decoded = self.answer.tokens
        prompt_s, decode_s = decoding - start, self._loop.time() - decoding
        if self._knobs.prompt_tokens_per_s == 0:
            prompt_s, decode_s = decode_s * PROMPT_SHARE, decode_s * (1 - PROMPT_SHARE)
        asked = self._ask.arrived
        self._finish(Done(self.answer, pieces, self._slot, self._loop.time() - asked, start - asked, prompt_s, decode_s))

    def _finish(self, done: Done) -> None:
        if self._ask.stream:
            self._wire.last(done)
        else:
            self._wire.whole(done)

    async def _read_prompt(self) -> None:
        if self._knobs.prompt_tokens_per_s > 0 and self._knobs.request_s == 0:
            reading = SharedWork(self._loaded, self._loaded.prompts, self._slot.processed)
            try:
                await reading.until(1.0)
            finally:
                reading.end()

    def _work(self) -> FixedWork | SharedWork:
        knobs, loaded = self._knobs, self._loaded
        slower = SLOW_FACTOR if self._ask.fault == "slow" else 1
        if knobs.request_s > 0:
            return FixedWork(loaded, knobs.request_s * slower)
        tokens = self.answer.tokens * slower / loaded.luck()
        if knobs.curve:
            return SharedWork(loaded, loaded.answers, tokens)
        return FixedWork(loaded, tokens / knobs.tokens_per_s / loaded.factor())

    def _pieces(self) -> list[Piece]:
        count = self._knobs.lines
        pieces: list[Piece] = [
            {"thinking": text} for text in answers.grouped(self.answer.thinking, max(count // 2, min(count, 1)))
        ]
        if self._ask.tool:
            return [*pieces, {"text": "", "tool_calls": [self._ask.tool]}]
        return pieces + [{"text": text} for text in answers.grouped(self.answer.text, count)]

    async def _go_wrong(self) -> bool:
        """Half of the answer is out: the fault strikes. True if the answer goes on all the same."""
        match self._ask.fault:
            case "hang_mid":
                await self._loaded.sleep_until(math.inf)
            case "error_line":
                raise ApiError(500, self._knobs.fault_text)
            case "bad_line":
                self._wire.bad_line()
            case "cut_mid":
                self._wire.raw(b"{")
                self._wire.response.cut()
            case "reset_mid":
                self._wire.response.reset()
            case "kill_runner":
                await self._loaded.crash()
            case "half_stream" | "repeat":
                self._end_unfinished()
            case "endless" | "long_line":
                await self._flood()
            case _:
                return True
        return False

    def _end_unfinished(self) -> None:
        if not self._ask.stream:
            self._wire.half()
            return
        for _ in range(30 if self._ask.fault == "repeat" else 0):
            self._wire.piece({"text": "the "})
        self._wire.response.end()

    async def _flood(self) -> None:
        """Lines without end, or one line without end, until the client hangs up."""
        line = self._wire.framed({"text": ENDLESS_PIECE})
        if self._ask.fault == "long_line":
            line = b'{"endless": "' + ENDLESS_PIECE.encode() * 32 + b'"}'
        while not self._wire.response.closed:
            self._wire.raw(line)
            await self._wire.response.drained()
            await asyncio.sleep(0.001)


def whole_piece(pieces: list[Piece]) -> Piece:
    """All pieces in one."""
    whole: Piece = {"text": "".join(piece.get("text", "") for piece in pieces)}
    if thinking := "".join(piece.get("thinking", "") for piece in pieces):
        whole["thinking"] = thinking
    calls = [call for piece in pieces for call in piece.get("tool_calls", ())]
    return whole | ({"tool_calls": calls} if calls else {})


async def embed(ask: Ask, loaded: LoadedModel, knobs: Knobs) -> list[int]:
    """Do the work of embedding ``ask.texts``; the tokens of each. Raises ``ApiError``."""
    counts = [answers.count_tokens(text) for text in ask.texts]
    slower = SLOW_FACTOR if ask.fault == "slow" else 1
    match ask.fault:
        case None | "slow":
            duration_s = knobs.request_s or sum(counts) / knobs.tokens_per_s / EMBED_SPEED / loaded.factor()
            await FixedWork(loaded, duration_s * slower).until(1.0)
        case "hang_first" | "hang_mid":
            await loaded.sleep_until(math.inf)
        case "kill_runner":
            await loaded.crash()
        case _:
            raise ApiError(500, knobs.fault_text)
    return counts
