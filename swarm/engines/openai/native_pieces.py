"""Pieces of an answer from OpenAI's form to Ollama's, as they come. Pure but for the callback.

* Texts and probabilities go on with each event. A tool call comes in fragments here and whole there: it goes on at the end.
* What the pieces bring, and the last one, add up to ``translate_answer.native_answer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.core.models.model_server import OnPiece
from swarm.engines.openai.translate_answer import creation, native_logprobs

_TEXTS = ("content", "thinking")


class NativePieces:
    """Passes on what each event of one answer brings."""

    def __init__(self, endpoint: str, request: Mapping[str, Any], on_piece: OnPiece) -> None:
        """``request`` is the one in Ollama's form that is answered."""
        self._endpoint = endpoint
        self._model = request.get("model")
        self._top = (request.get("top_logprobs") or 0) if request.get("logprobs") else None
        self._on_piece = on_piece

    def add(self, event: Mapping[str, Any]) -> None:
        """Take an event that has the form of an answer's piece. One without text is passed over."""
        choice = event["choices"][0]
        delta = choice.get("delta") or choice.get("message") or {}
        text = delta.get("content") or choice.get("text") or ""
        thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
        logprobs = choice.get("logprobs") if self._top is not None else None
        if not (text or thinking or logprobs):
            return
        said = {"thinking": thinking} if thinking else {}
        piece: dict[str, Any] = {"model": self._model, **creation(event.get("created")), "done": False}
        if self._endpoint == "/api/chat":
            piece["message"] = {"role": "assistant", "content": text, **said}
        else:
            piece |= {"response": text, **said}
        if isinstance(logprobs, Mapping):
            piece["logprobs"] = native_logprobs(logprobs, self._top or 0)
        self._on_piece(piece)


def native_end(final: Mapping[str, Any], *, streamed: bool) -> list[dict[str, Any]]:
    """The pieces that are left at the end of an answer; the last one has the counts. ``streamed``: its text has gone on."""
    message = final.get("message")
    common = {name: final[name] for name in ("model", "created_at") if name in final} | {"done": False}
    last = {name: value for name, value in final.items() if name not in ("response", "thinking", "logprobs")}
    if not isinstance(message, Mapping):
        said = {name: final[name] for name in ("response", "thinking", "logprobs") if name in final}
        return [*([] if streamed else [common | said]), last | {"response": ""}]
    said = {"message": {name: value for name, value in message.items() if not streamed or name not in _TEXTS}}
    if streamed:
        said["message"]["content"] = ""
    elif "logprobs" in final:
        said["logprobs"] = final["logprobs"]
    left = not streamed or "tool_calls" in message
    return [*([common | said] if left else []), last | {"message": {"role": "assistant", "content": ""}}]
