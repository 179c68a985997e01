"""Judges what came of numbered lines: each exactly once, none changed, nothing beside them. A byte of memory a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tests.endurance.checks import prompt_of, text_of, told

Document = Mapping[str, Any]


class Expected:
    """What each line asks, and what it is answered."""

    def __init__(self, feed_id: str, prompt: Callable[[int], str], answer: Callable[[str], str]) -> None:
        self._head = f"{feed_id}-"
        self._prompt = prompt
        self._answer = answer

    def line_of(self, document: Document) -> int | str:
        """The line this record belongs to, or what is wrong with it."""
        task_id = str(document.get("task_id"))
        number = task_id.removeprefix(self._head)
        if not task_id.startswith(self._head) or not number.isdecimal() or len(number) != 10:
            return f"{task_id} comes from no line"
        prompt = self._prompt(int(number))
        if document.get("status") != "completed":
            return f"line {int(number)}: {task_id} is {document.get('status')}, {document.get('error')}"
        if prompt_of(document) != prompt:
            return f"line {int(number)}: {task_id} asks something else"
        if text_of(document) != self._answer(prompt):
            return f"line {int(number)}: {task_id} holds another line's answer, or none"
        return int(number)


class LineLedger:
    """Counts the lines of these numbers."""

    def __init__(self, numbers: range) -> None:
        self._first = numbers[0]
        self._seen = bytearray(len(numbers))
        self._foreign: list[int] = []
        self._wrong: list[str] = []
        self.records = 0

    def note(self, found: Iterable[int | str]) -> None:
        """Add records, as ``Expected.line_of`` tells them."""
        for line in found:
            self.records += 1
            if isinstance(line, str):
                self._wrong.append(line)
            elif 0 <= line - self._first < len(self._seen):
                self._seen[line - self._first] = min(2, self._seen[line - self._first] + 1)
            else:
                self._foreign.append(line)

    def findings(self) -> list[str]:
        """A line each; none is the only good end."""
        return [
            *told(self._wrong, str),
            *told(self._foreign, lambda number: f"line {number} is not in the input"),
            *self._few(0, "has no record"),
            *self._few(2, "has more than one record"),
        ]

    def _few(self, times: int, what: str) -> list[str]:
        number = self._seen.count(times)
        shown = [f"line {line} {what}" for line, _ in zip(self._lines(times), range(5), strict=False)]
        return shown + ([f"… and {number - 5} more: {what}"] if number > 5 else [])

    def _lines(self, times: int) -> Iterator[int]:
        at = self._seen.find(times)
        while at >= 0:
            yield at + self._first
            at = self._seen.find(times, at + 1)
