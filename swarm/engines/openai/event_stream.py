"""Reads server-sent events of OpenAI's API, bounded, and merges them into the one object that a whole answer is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from swarm.core.faults import TaskFault
from swarm.engines.classify import shown_text
from swarm.engines.ollama.stream import MAX_LINE_BYTES, half_stream
from swarm.engines.openai.openai_faults import fault_of_openai_error

_LAST = b"[DONE]"
Event = dict[str, Any]


def decode_answer(raw: bytes) -> Event:
    """One JSON object that is no error. Raises ``TaskFault``: what the error says, or kind ``garbage``."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _garbage(raw, str(error)) from error
    if not isinstance(document, dict):
        raise _garbage(raw, "no object")
    if fault := fault_of_openai_error(document):
        raise fault
    return document


class EventReader:
    """Events of a body that arrives in pieces. Raises ``TaskFault`` for errors, garbage, and too much of it.

    Each event of these servers is one line. Lines of other kinds are passed over: comments keep a connection alive.
    """

    def __init__(self, max_bytes: int) -> None:
        self.done = False
        """Whether the last event has come."""
        self._max_bytes = max_bytes
        self._size = 0
        self._rest = b""
        self._seen = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that end in this piece."""
        self._size += len(data)
        if self._size > self._max_bytes:
            what = f"the answer is longer than {self._max_bytes} bytes; set num_predict"
            raise TaskFault("deterministic", "reply_too_large", what)
        *whole, self._rest = (self._rest + data).split(b"\n") if b"\n" in data else (self._rest + data,)
        for line in whole:
            yield from self._event(line.strip())
        if len(self._rest) > MAX_LINE_BYTES:
            raise TaskFault("infra", "garbage", f"a line of the answer is longer than {MAX_LINE_BYTES} bytes")

    def end(self) -> Iterator[Event]:
        """The body has ended: a line without end counts, if it is a whole event."""
        rest, self._rest = self._rest.strip(), b""
        try:
            yield from self._event(rest)
        except TaskFault as fault:
            if fault.kind != "garbage" or not self._seen:
                raise
            raise half_stream() from fault

    def _event(self, line: bytes) -> Iterator[Event]:
        name, colon, value = line.partition(b":")
        if self.done or not line or line.startswith(b":"):
            return
        if name not in (b"data", b"error"):
            if colon and name in (b"event", b"id", b"retry"):
                return
            # No event at all: an error or a whole answer as plain JSON, or something else speaks here.
            value = line
        value = value.strip()
        if value == _LAST:
            self.done = True
            return
        event = decode_answer(value)
        if name == b"error":
            raise fault_of_openai_error({"error": event}) or half_stream()
        self._seen = True
        yield event


class StreamedAnswer:
    """What the events of a stream add up to: the document that the server would have sent in one piece."""

    def __init__(
        self, progress: Callable[[int], None] | None = None, on_event: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """``progress`` is called with 1 for each event that brings a piece of the answer, ``on_event`` with the event."""
        self._progress = progress
        self._on_event = on_event
        self._document: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": [], "text": []}
        self._calls: list[dict[str, Any]] = []
        self._open: dict[int | None, dict[str, Any]] = {}
        """The last of each index."""
        self._logprobs: dict[str, list[Any]] = {}
        self._finish_reason: str | None = None
        self._stranger: Mapping[str, Any] | None = None
        """The first event, if it is none of an answer."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Take the next event. Raises ``TaskFault`` kind ``garbage`` for one of another form."""
        for name in ("created", "usage", "timings", "simulated"):
            if event.get(name) is not None:
                self._document[name] = event[name]
        choices = event.get("choices")
        if choices is None and not self._document and self._stranger is None:
            self._stranger = event
        if not choices:
            return
        try:
            self._add_choice(choices[0])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _garbage(msgspec.json.encode(event), "no piece of an answer") from error
        if self._progress is not None:
            self._progress(1)
        if self._on_event is not None:
            self._on_event(event)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or choice.get("message") or {}
        for name, value in (
            ("content", delta.get("content")),
            ("reasoning", delta.get("reasoning_content") or delta.get("reasoning")),
            ("text", choice.get("text")),
        ):
            if value is not None:
                self._texts[name].append("" + value)
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        for name, values in (choice.get("logprobs") or {}).items():
            if isinstance(values, list):
                self._logprobs.setdefault(name, []).extend(values)
        if choice.get("finish_reason") is not None:
            self._finish_reason = "" + choice["finish_reason"]

    def _add_call(self, call: dict[str, Any]) -> None:
        """A fragment with a name and another id begins a call, also at an index in use: some servers number all calls 0."""
        index, call_id, function = call.get("index"), call.get("id"), call.get("function") or {}
        made = self._open.get(index)
        begins = function.get("name") and (index is None or (call_id and made and call_id != made.get("id")))
        if made is None or begins:
            made = {"index": len(self._calls) if index is None else int(index), "name": [], "arguments": []}
            self._open[index] = made
            self._calls.append(made)
        if call_id:
            made["id"] = "" + call_id
        for name in ("name", "arguments"):
            made[name].append("" + (function.get(name) or ""))

    @property
    def document(self) -> dict[str, Any]:
        """The whole answer. Raises ``TaskFault``: ``half_stream`` if the stream ended before it did, ``garbage``."""
        if self._finish_reason is None:
            raise half_stream() if self._stranger is None else _garbage(msgspec.json.encode(self._stranger), "no choices")
        choice: dict[str, Any] = {"finish_reason": self._finish_reason, "logprobs": self._logprobs or None}
        if self._texts["text"]:
            choice["text"] = "".join(self._texts["text"])
        else:
            calls = [
                {"id": call.get("id"), "function": {"name": "".join(call["name"]), "arguments": "".join(call["arguments"])}}
                for call in sorted(self._calls, key=lambda one: one["index"])
            ]
            texts = {name: "".join(self._texts[name]) for name in ("content", "reasoning")}
            choice["message"] = {**texts, "tool_calls": calls}
        return {**self._document, "choices": [choice]}


def _garbage(raw: bytes, why: str) -> TaskFault:
    shown = raw[:120].decode("utf-8", "replace")
    return TaskFault("infra", "garbage", f"the answer is not in OpenAI's form ({shown_text(why)}): {shown_text(shown)!r}")
