"""Answers in Ollama's form: JSON lines, and one object at the end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from swarm.simulator.faults import BAD_LINE
from swarm.simulator.generation import Done, Piece, whole_piece
from swarm.simulator.http import Response
from swarm.simulator.ollama.call import CHAT, GENERATE, Call

NS = 1_000_000_000


def now_text() -> str:
    """RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class OllamaWire:
    """One generate or chat answer. ``context_limit`` caps the prompt tokens that are reported."""

    def __init__(self, call: Call, response: Response, context_limit: int) -> None:
        self.response = response
        self._call = call
        self._chat = call.endpoint == CHAT
        self._context_limit = context_limit

    def piece(self, piece: Piece) -> None:
        self.response.line(self._line(piece))

    def last(self, done: Done) -> None:
        self.response.line(self._final(done) | self._payload({}), last=True)

    def whole(self, done: Done) -> None:
        self.response.send_object(self._final(done) | self._payload(whole_piece(done.pieces)))

    def bad_line(self) -> None:
        self.response.raw(BAD_LINE, last=True)

    def half(self) -> None:
        self.response.send_object(self._line({"text": "half"}))

    def raw(self, data: bytes) -> None:
        self.response.raw(data)

    def framed(self, piece: Piece) -> bytes:
        return msgspec.json.encode(self._line(piece)) + b"\n"

    def _line(self, piece: Piece) -> dict[str, Any]:
        return {"model": self._call.name, "created_at": now_text(), **self._payload(piece), "done": False}

    def _payload(self, piece: Piece) -> dict[str, Any]:
        """A piece in the form of the endpoint."""
        rest = {key: value for key, value in piece.items() if key == "thinking"}
        if names := piece.get("tool_calls"):
            calls = [{"index": n, "name": name, "arguments": {}} for n, name in enumerate(names)]
            rest["tool_calls"] = [{"id": "call_simulated", "function": call} for call in calls]
        text = piece.get("text", "")
        return {"message": {"role": "assistant", "content": text, **rest}} if self._chat else {"response": text, **rest}

    def _final(self, done: Done) -> dict[str, Any]:
        reason = done.answer.done_reason
        final: dict[str, Any] = {"model": self._call.name, "created_at": now_text(), "done": True, "done_reason": reason}
        prompt_tokens = min(done.slot.cached + done.slot.processed, self._context_limit)
        if self._call.endpoint == GENERATE and not self._call.body.get("raw"):
            final["context"] = list(range(min(prompt_tokens + done.answer.tokens, 512)))
        metrics = {
            "total_duration": int(done.total_s * NS),
            "load_duration": int(done.waited_s * NS),
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": int(done.prompt_s * NS),
            "eval_count": done.answer.tokens,
            "eval_duration": int(done.decode_s * NS),
        }
        return final | {"simulated": True} | {name: value for name, value in metrics.items() if value}
