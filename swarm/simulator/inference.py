"""One generate, chat or embed request that has its slot: from the prompt to the last line."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime
from typing import Any

import msgspec

from swarm.simulator import made_up_text as answers
from swarm.simulator.call import CHAT, GENERATE, Call
from swarm.simulator.faults import BAD_LINE, SLOW_FACTOR
from swarm.simulator.http import ApiError, Response
from swarm.simulator.knobs import Knobs
from swarm.simulator.scheduler import ModelInMemory, runner_stopped

NS = 1_000_000_000
PROMPT_SHARE = 0.05
"""Part of a request's time that is reported as spent on the prompt."""
EMBED_SPEED = 10
ENDLESS_PIECE = "endless " * 512
Piece = dict[str, Any]


def now_text() -> str:
    """RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Generation:
    """The work of one request on a loaded model."""

    def __init__(self, call: Call, loaded: ModelInMemory, knobs: Knobs, response: Response) -> None:
        self._call = call
        self._loaded = loaded
        self._knobs = knobs
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._assigned = self._loop.time()
        self._chat = call.endpoint == CHAT
        prompt = answers.prompt_of(call.body)
        self._prompt_tokens = self._fit(answers.count_tokens(prompt))
        self._answer = self._compose(prompt)

    def _fit(self, tokens: int) -> int:
        """Too long a prompt is silently shortened, unless the request forbids it. Raises ``ApiError`` 400."""
        limit = self._loaded.options.num_ctx
        if tokens > limit and self._call.body.get("truncate") is False:
            raise ApiError(400, "the input length exceeds the context length")
        return min(tokens, limit)

    def _compose(self, prompt: str) -> answers.Answer:
        body, model = self._call.body, self._loaded.model
        thinks = model.thinking and body.get("think") is not False
        limit = int(self._call.options.get("num_predict") or -1)
        ordered = answers.obeyed(prompt) if self._knobs.obey else None
        seed, form = self._knobs.seed, body.get("format")
        answer = answers.compose(prompt, seed=seed, form=form, thinks=thinks, limit=limit, ordered=ordered)
        if self._call.fault == "length_cut":
            return answers.Answer(answer.thinking, answer.text[: len(answer.text) // 2], "length")
        return answer

    async def run(self) -> None:
        """Answer, at the speed the knobs say. Raises ``ApiError`` when something goes wrong (on purpose or not)."""
        start = self._loop.time()
        pieces = self._pieces()
        duration_s = self._duration_s()
        if self._call.fault == "hang_first":
            await self._loaded.sleep_until(math.inf)
        for n, piece in enumerate(pieces):
            await self._loaded.sleep_until(start + duration_s * (n + 1) / (len(pieces) + 1))
            if n == len(pieces) // 2 and self._call.fault and not await self._go_wrong():
                return
            if self._call.stream:
                self._response.line(self._line(piece))
        await self._loaded.sleep_until(start + duration_s)
        final = self._final(duration_s)
        if self._call.stream:
            self._response.line(final | self._payload({}), last=True)
        else:
            self._response.send_object(final | self._payload(self._whole(pieces)))

    def _duration_s(self) -> float:
        knobs = self._knobs
        if knobs.request_s > 0:
            duration_s = knobs.request_s
        else:
            duration_s = self._answer.tokens / knobs.tokens_per_s
            duration_s *= 1 + (knobs.spill_factor - 1) * self._loaded.cpu_share
        return duration_s * (SLOW_FACTOR if self._call.fault == "slow" else 1)

    def _pieces(self) -> list[Piece]:
        count = self._knobs.lines
        pieces: list[Piece] = [
            {"thinking": text} for text in answers.grouped(self._answer.thinking, max(count // 2, min(count, 1)))
        ]
        if self._chat and self._call.body.get("tools"):
            function = self._call.body["tools"][0].get("function", {})
            call = {"id": "call_simulated", "function": {"index": 0, "name": function.get("name", ""), "arguments": {}}}
            return [*pieces, {"text": "", "tool_calls": [call]}]
        return pieces + [{"text": text} for text in answers.grouped(self._answer.text, count)]

    def _whole(self, pieces: list[Piece]) -> Piece:
        whole: Piece = {"text": "".join(piece.get("text", "") for piece in pieces)}
        if thinking := "".join(piece.get("thinking", "") for piece in pieces):
            whole["thinking"] = thinking
        calls = [call for piece in pieces for call in piece.get("tool_calls", ())]
        return whole | ({"tool_calls": calls} if calls else {})

    def _payload(self, piece: Piece) -> dict[str, Any]:
        """A piece in the form of the endpoint."""
        rest = {key: value for key, value in piece.items() if key != "text"}
        text = piece.get("text", "")
        return {"message": {"role": "assistant", "content": text, **rest}} if self._chat else {"response": text, **rest}

    def _line(self, piece: Piece) -> dict[str, Any]:
        return {"model": self._call.name, "created_at": now_text(), **self._payload(piece), "done": False}

    def _final(self, duration_s: float) -> dict[str, Any]:
        reason = self._answer.done_reason
        final: dict[str, Any] = {"model": self._call.name, "created_at": now_text(), "done": True, "done_reason": reason}
        if self._call.endpoint == GENERATE and not self._call.body.get("raw"):
            final["context"] = list(range(min(self._prompt_tokens + self._answer.tokens, 512)))
        metrics = {
            "total_duration": int((self._loop.time() - self._call.arrived) * NS),
            "load_duration": int((self._assigned - self._call.arrived) * NS),
            "prompt_eval_count": self._prompt_tokens,
            "prompt_eval_duration": int(duration_s * PROMPT_SHARE * NS),
            "eval_count": self._answer.tokens,
            "eval_duration": int(duration_s * (1 - PROMPT_SHARE) * NS),
        }
        return final | {"simulated": True} | {name: value for name, value in metrics.items() if value}

    async def _go_wrong(self) -> bool:
        """Half of the answer is out: the fault strikes. True if the answer goes on all the same."""
        match self._call.fault:
            case "hang_mid":
                await self._loaded.sleep_until(math.inf)
            case "error_line":
                raise ApiError(500, self._knobs.fault_text)
            case "bad_line":
                self._response.raw(BAD_LINE, last=True)
            case "cut_mid":
                self._response.raw(b"{")
                self._response.cut()
            case "reset_mid":
                self._response.reset()
            case "kill_runner":
                await kill_runner(self._loaded)
            case "half_stream" | "repeat":
                self._end_without_done()
            case "endless" | "long_line":
                await self._flood()
            case _:
                return True
        return False

    def _end_without_done(self) -> None:
        if not self._call.stream:
            self._response.send_object(self._line({"text": "half"}))
            return
        for _ in range(30 if self._call.fault == "repeat" else 0):
            self._response.line(self._line({"text": "the "}))
        self._response.end()

    async def _flood(self) -> None:
        """Lines without end, or one line without end, until the client hangs up."""
        line = msgspec.json.encode(self._line({"text": ENDLESS_PIECE})) + b"\n"
        if self._call.fault == "long_line":
            line = msgspec.json.encode({"endless": ENDLESS_PIECE * 32})
        while not self._response.closed:
            self._response.raw(line)
            await self._response.drained()
            await asyncio.sleep(0.001)


async def kill_runner(loaded: ModelInMemory) -> None:
    """Let the runner die under its requests. Raises what they all get to hear."""
    if loaded.process is None:
        raise runner_stopped()
    loaded.process.crash()
    await loaded.sleep_until(math.inf)


async def embed(call: Call, loaded: ModelInMemory, knobs: Knobs, response: Response) -> None:
    """Answer an embed request. Raises ``ApiError``: as in the real one, 400 for whatever fails after loading."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    value = call.body.get("input")
    texts = [str(one) for one in (value if isinstance(value, list) else [value])]
    counts = [answers.count_tokens(text) for text in texts]
    if call.body.get("truncate") is False and max(counts) > loaded.options.num_ctx:
        raise ApiError(400, "the input length exceeds the context length")
    duration_s = knobs.request_s or sum(counts) / knobs.tokens_per_s / EMBED_SPEED
    try:
        await _embed_fault(call, loaded, knobs)
        await loaded.sleep_until(start + duration_s * (SLOW_FACTOR if call.fault == "slow" else 1))
    except ApiError as error:
        raise ApiError(400, error.text) from error
    metrics = {
        "total_duration": int((loop.time() - call.arrived) * NS),
        "load_duration": int((start - call.arrived) * NS),
        "prompt_eval_count": sum(min(count, loaded.options.num_ctx) for count in counts),
    }
    vectors = [answers.vector(text, call.body.get("dimensions")) for text in texts]
    counters = {name: value for name, value in metrics.items() if value}
    response.send_object({"model": call.name, "embeddings": vectors, "simulated": True, **counters})


async def _embed_fault(call: Call, loaded: ModelInMemory, knobs: Knobs) -> None:
    match call.fault:
        case None | "slow":
            return
        case "hang_first" | "hang_mid":
            await loaded.sleep_until(math.inf)
        case "kill_runner":
            await kill_runner(loaded)
        case _:
            raise ApiError(500, knobs.fault_text)
