"""Reading replies: bounded, line by line, merged into the one object that a whole answer is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.model_server import MIB, Limits
from swarm.engines.ollama.classify import fault_of_text, shown_text

MAX_LINE_BYTES = 8 * MIB
"""Of one streamed line; the longest honest one is the final line of ``/api/generate`` with its context tokens."""

Line = dict[str, Any]


class Deadlines:
    """Which limit of a request ends next, and which has passed. All on the monotonic clock."""

    def __init__(self, limits: Limits, *, streamed: bool = True) -> None:
        self.limits = limits
        self.started = time.monotonic()
        self.first_s: float | None = None
        """Seconds to the first line; None before it."""
        self._end = self.started + limits.total_s
        self.next = min(self._end, self.started + limits.first_token_s) if streamed else self._end
        """Monotonic time by which the next line (or the end) must be here."""

    def line_seen(self) -> None:
        """A whole line came: the gap starts anew. Bytes that do not end a line change nothing."""
        now = time.monotonic()
        if self.first_s is None:
            self.first_s = now - self.started
        self.next = min(self._end, now + self.limits.token_gap_s)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def fault(self) -> TaskFault:
        """The fault for the limit that passed."""
        if self.next >= self._end:
            return TaskFault("transient", "timeout", f"no complete answer within {self.limits.total_s:g} s")
        if self.first_s is None:
            return TaskFault("transient", "first_token_timeout", f"no first token within {self.limits.first_token_s:g} s")
        return TaskFault("transient", "token_gap_timeout", f"no further token for {self.limits.token_gap_s:g} s")


def read_all(body: Iterable[bytes], max_bytes: int) -> bytes:
    """The whole body. Raises ``TaskFault`` kind ``reply_too_large`` past ``max_bytes``."""
    parts: list[bytes] = []
    size = 0
    for data in body:
        size += len(data)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(data)
    return b"".join(parts)


def read_start(body: Iterable[bytes], max_bytes: int) -> bytes:
    """The start of a body, ``max_bytes`` at most; all of it is read only if it is no longer."""
    start = b""
    for data in body:
        start += data
        if len(start) > max_bytes:
            break
    return start[:max_bytes]


def read_lines(body: Iterable[bytes], deadlines: Deadlines, max_bytes: int) -> Iterator[Line]:
    """Each line of a streamed body as an object. Raises ``TaskFault`` for error lines, garbage, and too much of it."""
    size = 0
    rest = b""
    for data in body:
        size += len(data)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if b"\n" not in data:
            rest += data
        else:
            *whole, rest = (rest + data).split(b"\n")
            for raw in whole:
                if raw.strip():
                    deadlines.line_seen()
                    yield decode_object(raw)
        if len(rest) > MAX_LINE_BYTES:
            raise TaskFault("infra", "garbage", f"a line of the answer is longer than {MAX_LINE_BYTES} bytes")
    if rest.strip():
        deadlines.line_seen()
        yield _last_line(rest)


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


def _too_large(max_bytes: int) -> TaskFault:
    return TaskFault("deterministic", "reply_too_large", f"the answer is longer than {max_bytes} bytes; set num_predict")


def merge_stream(lines: Iterator[Line], progress: Callable[[int], None] | None) -> Line:
    """The final object with the text of all lines. Raises ``TaskFault`` kind ``half_stream`` without ``"done": true``."""
    merger = _Merger()
    for line in lines:
        merger.add(line)
        if line.get("done") is True:
            return merger.finish(line)
        if progress is not None:
            progress(1)
    raise half_stream()


class _Merger:
    """Collects what arrives in pieces; everything else is in the final line anyway."""

    def __init__(self) -> None:
        self._text: dict[str, list[str]] = {"response": [], "content": [], "thinking": []}
        self._lists: dict[str, list[Any]] = {"tool_calls": [], "logprobs": []}
        self._role = "assistant"
        self._chat = False

    def add(self, line: Line) -> None:
        self._collect(line)
        message = line.get("message")
        if isinstance(message, dict):
            self._chat = True
            self._role = shown_text(str(message.get("role") or self._role), 40)
            self._collect(message)

    def _collect(self, part: Line) -> None:
        for key, value in part.items():
            if isinstance(value, str) and key in self._text:
                self._text[key].append(value)
            elif isinstance(value, list) and key in self._lists:
                self._lists[key].extend(value)

    def finish(self, last: Line) -> Line:
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
