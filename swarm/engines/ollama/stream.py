"""Reading replies: bounded, line by line, merged into the one object that a whole answer is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import MIB, OnPiece
from swarm.engines.classify import fault_of_text, shown_text
from swarm.engines.deadlines import Deadlines, too_large

MAX_LINE_BYTES = 8 * MIB
"""Of one streamed line; the longest honest one is the final line of ``/api/generate`` with its context tokens."""

Line = dict[str, Any]


def read_lines(body: Iterable[bytes], deadlines: Deadlines, max_bytes: int) -> Iterator[Line]:
    """Each line of a streamed body as an object. Raises ``TaskFault`` for error lines, garbage, and too much of it."""
    reader = LineReader(deadlines, max_bytes)
    for data in body:
        yield from reader.feed(data)
    yield from reader.end()


class LineReader:
    """Lines of a streamed body that arrives in pieces. Raises ``TaskFault`` for error lines, garbage, and too much of it."""

    def __init__(self, deadlines: Deadlines, max_bytes: int) -> None:
        self._deadlines = deadlines
        self._max_bytes = max_bytes
        self._size = 0
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Line]:
        """The lines that end in this piece."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise too_large(self._max_bytes)
        *whole, self._rest = (self._rest + data).split(b"\n") if b"\n" in data else (self._rest + data,)
        for raw in whole:
            if raw.strip():
                self._deadlines.line_seen()
                yield decode_object(raw)
        if len(self._rest) > MAX_LINE_BYTES:
            raise TaskFault("infra", "garbage", f"a line of the answer is longer than {MAX_LINE_BYTES} bytes")

    def end(self) -> Iterator[Line]:
        """The body has ended: a line without end counts."""
        if self._rest.strip():
            self._deadlines.line_seen()
            yield _last_line(self._rest)


def _last_line(rest: bytes) -> Line:
    """The unfinished last line: single objects come without a line end, cut streams end in half an object."""
    try:
        return decode_object(rest)
    except TaskFault as fault:
        if fault.kind != "garbage" or not rest.lstrip().startswith(b"{"):
            raise
        raise half_stream() from None


def decode_object(raw: bytes) -> Line:
    """One JSON object. Raises ``TaskFault``: what its ``error`` says, or kind ``garbage``."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise garbage(raw, str(error)) from error
    if not isinstance(document, dict):
        raise garbage(raw, "no object")
    if error_text := document.get("error"):
        raise fault_of_text(error_text if isinstance(error_text, str) else str(error_text))
    return document


def garbage(raw: bytes, why: str) -> TaskFault:
    """The fault for bytes that are no Ollama answer."""
    shown = raw[:120].decode("utf-8", "replace")
    return TaskFault("infra", "garbage", f"the answer is not Ollama's JSON ({shown_text(why)}): {shown_text(shown)!r}")


def half_stream() -> TaskFault:
    """The fault for a stream that ended without ``"done": true``; its partial text is never a result."""
    return TaskFault("transient", "half_stream", "the answer ended before its final line (repeated token, or a cut stream)")


class Answer:
    """The whole answer of a stream: the final line with the text, thinking and tool calls of all lines merged in."""

    def __init__(self, progress: Callable[[int], None] | None = None, on_piece: OnPiece | None = None) -> None:
        """``progress`` is called with 1 for each line before the final one, and ``on_piece`` with the line."""
        self._progress = progress
        self._on_piece = on_piece
        self._text: dict[str, list[str]] = {"response": [], "content": [], "thinking": []}
        self._lists: dict[str, list[Any]] = {"tool_calls": [], "logprobs": []}
        self._role = "assistant"
        self._chat = False
        self._final: Line | None = None
        self.last: Line = {}
        """The final line as it came, without what the lines before it brought."""

    @property
    def complete(self) -> bool:
        """Whether the line with ``"done": true`` has come; what follows it is ignored."""
        return self._final is not None

    @property
    def final(self) -> Line:
        """The answer. Raises ``TaskFault`` kind ``half_stream`` if it is not complete."""
        if self._final is None:
            raise half_stream()
        return self._final

    def add(self, line: Line) -> None:
        """Take the next line."""
        if self._final is not None:
            return
        self._collect(line)
        message = line.get("message")
        if isinstance(message, dict):
            self._chat = True
            self._role = shown_text(str(message.get("role") or self._role), 40)
            self._collect(message)
        if line.get("done") is True:
            self._final, self.last = self._merged(line), line
            return
        if self._progress is not None:
            self._progress(1)
        if self._on_piece is not None:
            self._on_piece(line)

    def _collect(self, part: Line) -> None:
        for key, value in part.items():
            if isinstance(value, str) and key in self._text:
                self._text[key].append(value)
            elif isinstance(value, list) and key in self._lists:
                self._lists[key].extend(value)

    def _merged(self, last: Line) -> Line:
        final = dict(last)
        thinking = "".join(self._text["thinking"])
        if self._lists["logprobs"]:
            final["logprobs"] = self._lists["logprobs"]
        if not self._chat:
            final["response"] = "".join(self._text["response"])
            return final | ({"thinking": thinking} if thinking else {})
        message: Line = {"role": self._role, "content": "".join(self._text["content"])}
        if thinking:
            message["thinking"] = thinking
        if self._lists["tool_calls"]:
            message["tool_calls"] = self._lists["tool_calls"]
        final["message"] = message
        return final
