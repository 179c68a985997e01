"""Answers in OpenAI's form, whole or as server-sent events; ``Style`` says where llama-server and vLLM differ."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

import msgspec

from swarm.simulator.compatible.openai_request import Kind, OpenAiRequest
from swarm.simulator.generation import Done, Piece, whole_piece
from swarm.simulator.http import Response

EVENTS = "text/event-stream"
DONE = b"data: [DONE]\n\n"
FINGERPRINT = "b0-simulated"
_encode = msgspec.json.Encoder().encode


class Style(msgspec.Struct, frozen=True):
    """What an answer holds beside the text."""

    thinking: Literal["reasoning_content", "reasoning"]
    """Where a chat answer has the model's thinking."""
    first_content: str | None
    """``content`` of the first piece of a chat stream, which names the role."""
    timings: bool
    cached: bool
    """``usage`` says how many prompt tokens were reused."""
    usage: bool = True
    """``usage`` is there at all."""


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % _encode(document)


def timings_of(done: Done) -> dict[str, float]:
    """llama-server's ``timings``."""
    prompt_n, predicted_n = done.slot.processed, done.answer.tokens
    prompt_ms, predicted_ms = done.prompt_s * 1000, done.decode_s * 1000
    return {
        "cache_n": done.slot.cached,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(prompt_n, 1),
        "prompt_per_second": prompt_n / done.prompt_s if done.prompt_s else 0.0,
        "predicted_n": predicted_n,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / max(predicted_n, 1),
        "predicted_per_second": predicted_n / done.decode_s if done.decode_s else 0.0,
    }


class OpenAiWire:
    """One chat or completion answer."""

    def __init__(self, request: OpenAiRequest, response: Response, model: str, style: Style) -> None:
        self.response = response
        self._request = request
        self._style = style
        self._chat = request.kind == "chat"
        self._base = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
            "simulated": True,
        }

    def piece(self, piece: Piece) -> None:
        first = b"" if self.response.started or not self._chat else event(self._chunk(self._opening(), None))
        self.raw(first + self.framed(piece))

    def last(self, done: Done) -> None:
        finish = _finish_reason(done)
        extra: dict[str, Any] = {"timings": timings_of(done)} if self._style.timings else {}
        usage = {"usage": self._usage(done)} if self._style.usage else {}
        chunk = self._chunk({}, finish)
        if not self._chat and self._style.timings:
            chunk |= usage  # llama-server says it whether asked or not
            usage = {}
        if self._request.include_usage and usage:
            data = event(chunk) + event(self._chunk({}, finish) | {"choices": [], **usage, **extra})
        else:
            data = event(chunk | extra)
        self.response.raw(data + DONE, last=True, content_type=EVENTS)

    def whole(self, done: Done) -> None:
        answer = self._whole(whole_piece(done.pieces), _finish_reason(done))
        if self._style.usage:
            answer["usage"] = self._usage(done)
        if self._style.timings:
            answer["timings"] = timings_of(done)
        self.response.send_object(answer)

    def bad_line(self) -> None:
        self.response.raw(b'data: {"choices": simulated nonsense\n\n', last=True, content_type=EVENTS)

    def half(self) -> None:
        self.response.send_object(self._whole({"text": "half"}, None))

    def raw(self, data: bytes) -> None:
        self.response.raw(data, content_type=EVENTS)

    def framed(self, piece: Piece) -> bytes:
        return event(self._chunk(self._content(piece), None))

    def _opening(self) -> dict[str, Any]:
        return {"role": "assistant", "content": self._style.first_content}

    def _content(self, piece: Piece) -> dict[str, Any]:
        """A piece as a message or a part of one; a completion has text alone."""
        if not self._chat:
            return {"text": piece.get("text", "")}
        message: dict[str, Any] = {}
        if thinking := piece.get("thinking"):
            message[self._style.thinking] = thinking
        if text := piece.get("text"):
            message["content"] = text
        if names := piece.get("tool_calls"):
            functions = [{"name": name, "arguments": "{}"} for name in names]
            message["tool_calls"] = [
                {"index": n, "id": f"call_simulated_{n}", "type": "function", "function": function}
                for n, function in enumerate(functions)
            ]
        return message

    def _chunk(self, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
        if not self._chat:
            choice = {"text": "", **content, "index": 0, "logprobs": None, "finish_reason": finish}
            return {**self._base, "object": "text_completion", "choices": [choice]}
        choice = {"index": 0, "delta": content, "finish_reason": finish}
        return {**self._base, "object": "chat.completion.chunk", "choices": [choice]}

    def _whole(self, piece: Piece, finish: str | None) -> dict[str, Any]:
        if not self._chat:
            return self._chunk(self._content(piece), finish)
        message = {"role": "assistant", "content": None if piece.get("tool_calls") else "", **self._content(piece)}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {**self._base, "object": "chat.completion", "choices": [choice]}

    def _usage(self, done: Done) -> dict[str, Any]:
        prompt, answer = done.slot.cached + done.slot.processed, done.answer.tokens
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": None,
        }
        return usage | ({"prompt_tokens_details": {"cached_tokens": done.slot.cached}} if self._style.cached else {})


def _finish_reason(done: Done) -> str:
    if done.answer.done_reason == "length":
        return "length"
    return "tool_calls" if any(piece.get("tool_calls") for piece in done.pieces) else "stop"


class NativeWire:
    """One answer of llama-server's own ``/completion``."""

    def __init__(self, request: OpenAiRequest, response: Response, model: str) -> None:
        self.response = response
        self._request = request
        self._model = model

    def piece(self, piece: Piece) -> None:
        self.raw(self.framed(piece))

    def last(self, done: Done) -> None:
        self.response.raw(event(self._final(done, "")) + DONE, last=True, content_type=EVENTS)

    def whole(self, done: Done) -> None:
        self.response.send_object(self._final(done, whole_piece(done.pieces)["text"]))

    def bad_line(self) -> None:
        self.response.raw(b'data: {"content": simulated nonsense\n\n', last=True, content_type=EVENTS)

    def half(self) -> None:
        self.response.send_object({"index": 0, "content": "half", "stop": False})

    def raw(self, data: bytes) -> None:
        self.response.raw(data, content_type=EVENTS)

    def framed(self, piece: Piece) -> bytes:
        return event({"index": 0, "content": piece.get("text", ""), "tokens": [], "stop": False})

    def _final(self, done: Done, content: str) -> dict[str, Any]:
        evaluated = done.slot.cached + done.slot.processed
        return {
            "index": 0,
            "content": content,
            "tokens": [],
            "id_slot": done.slot.index,
            "stop": True,
            "model": self._model,
            "tokens_predicted": done.answer.tokens,
            "tokens_evaluated": evaluated,
            "generation_settings": {},
            "prompt": self._request.ask.prompt,
            "has_new_line": False,
            "truncated": False,
            "stop_type": "limit" if done.answer.done_reason == "length" else "eos",
            "stopping_word": "",
            "tokens_cached": evaluated + done.answer.tokens,
            "timings": timings_of(done),
            "simulated": True,
        }


def kind_of(path: str) -> Kind:
    """What a path asks for."""
    if path.endswith("chat/completions"):
        return "chat"
    if path.endswith(("embeddings", "embedding")):
        return "embedding"
    return "completion" if path.startswith("/v1/") else "native"
