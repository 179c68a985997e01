"""Answers in OpenAI's form, made of pieces in Ollama's: whole ones, and the events of a stream.

A whole answer is made as the output of a batch is (``formats.output.rows``). The events are OpenAI's: the role first, then
what is added, the reason for the end, on request the usage, ``[DONE]``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from swarm.clock import now_iso
from swarm.core.live.routing import LiveWorker
from swarm.engines.ollama.stream import Answer
from swarm.formats.output.rows import chat_logprobs, finish_reason, response_body, text_logprobs, tool_call, usage_of
from swarm.formats.tasks.openai_batch import CHAT, EMBEDDINGS
from swarm.http.answers import ApiError
from swarm.http.live.live_ask import LiveAsk
from swarm.http.live.worker_sockets import AnswerFault, Piece

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode
_embeddings = msgspec.json.Decoder(dict[str, Any]).decode


def fingerprint(digest: str) -> str | None:
    """Of the model's file: another file, another fingerprint. None where it is not known."""
    return f"fp_{digest.removeprefix('sha256:')[:12]}" if digest else None


def whole_answer(url: str, ask: LiveAsk, pieces: Iterable[Piece], worker: LiveWorker) -> dict[str, Any]:
    """The body that OpenAI's endpoint would have answered with."""
    result = merged(ask, pieces)
    finished = {
        "task_id": ask.id,
        "model": ask.model,
        "completed_at": now_iso(),
        "result": result,
        "simulated": result.get("simulated") is True,
    }
    body = response_body({"metadata": {**ask.notes, "url": url}}, finished)
    return body if url == EMBEDDINGS else body | {"system_fingerprint": fingerprint(worker.digest)}


def merged(ask: LiveAsk, pieces: Iterable[Piece]) -> dict[str, Any]:
    """The one object that all pieces make. Raises ``AnswerFault``."""
    if ask.endpoint == "/api/embed":
        try:
            return _embeddings(next(iter(pieces)).raw)
        except (msgspec.DecodeError, StopIteration) as error:
            raise AnswerFault("garbage", f"the worker's answer holds no embeddings: {error}") from error
    answer = Answer()
    for piece in pieces:
        answer.add(piece.document)
    return answer.final


def event(document: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + _encode(document) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """A fault in the midst of a stream, as OpenAI's clients understand it."""
    said = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return event({"error": said})


class ChunkWriter:
    """The events of one streamed answer."""

    def __init__(self, url: str, ask: LiveAsk, worker: LiveWorker, *, usage: bool) -> None:
        """``usage``: the token counts are sent in an event of their own before the last one."""
        chat = url == CHAT
        self._usage = usage
        self._ask = ask
        self._calls = 0
        self._offset = 0
        self._said = False
        self._chats = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{ask.id}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": ask.model,
            "system_fingerprint": fingerprint(worker.digest),
            **({"simulated": True} if worker.simulated else {}),
        }

    def events(self, pieces: Iterable[Piece]) -> bytes:
        """What these pieces add."""
        return b"".join(part for piece in pieces for part in self._events(piece.document))

    def _events(self, piece: Mapping[str, Any]) -> Iterable[bytes]:
        if piece.get("simulated") is True:
            self._head["simulated"] = True
        if not self._said and self._chats:
            yield self._chunk([self._delta({"role": "assistant", "content": ""}, None, None)])
        self._said = True
        ended = piece.get("done") is True
        choice = self._chat(piece) if self._chats else self._text(piece)
        if choice:
            yield self._chunk([choice])
        if ended:
            yield self._chunk([self._end(finish_reason({**piece, "message": {"tool_calls": self._calls}}))])
            if self._usage:
                yield event({**self._head, "choices": [], "usage": usage_of(piece)})
            yield DONE

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        return event({**self._head, "choices": choices, **({"usage": None} if self._usage else {})})

    def _end(self, reason: str) -> dict[str, Any]:
        if self._chats:
            return self._delta({}, None, reason)
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": reason}

    def _chat(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        said = piece.get("message") or {}
        delta: dict[str, Any] = {}
        if said.get("content"):
            delta["content"] = said["content"]
        if said.get("thinking"):
            delta["reasoning"] = said["thinking"]
        if calls := said.get("tool_calls"):
            delta["tool_calls"] = [self._call(call) for call in calls]
        tokens = piece.get("logprobs")
        if not delta and not tokens:
            return {}
        return self._delta(delta, chat_logprobs(tokens) if tokens else None, None)

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        index = self._calls
        self._calls += 1
        return {"index": index, **tool_call(call, index, self._ask.id)}

    def _text(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        text, tokens = piece.get("response") or "", piece.get("logprobs")
        if not text and not tokens:
            return {}
        logprobs = text_logprobs(tokens, self._offset) if tokens else None
        self._offset += len(text)
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None}

    @staticmethod
    def _delta(delta: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
