"""Problems of an input, collected up to a bound and raised together; typed look-ups in JSON objects that find them.

A look-up raises ``FieldError`` with the field's path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from swarm.errors import InputError, nearest

MAX_LISTED = 100


class FieldError(Exception):
    """One field of one line is wrong; its text names the field. Caught where the line number is known."""

    def __init__(self, field: str, message: str) -> None:
        """``field`` may be empty when it is about the whole line."""
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class Problems:
    """The findings about one input. Keeps the first ``MAX_LISTED`` in line order and counts the rest."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.count = 0
        self._first: list[tuple[int, str]] = []

    def add(self, line_no: int, finding: object) -> None:
        """Note a finding: a text, or what was raised."""
        self.count += 1
        if len(self._first) < MAX_LISTED:
            self._first.append((line_no, f"{self.label}:{line_no}: {finding}"))

    def raise_if_any(self) -> None:
        """Raise ``InputError`` with all findings in line order when there is at least one."""
        if not self.count:
            return
        lines = [text for _, text in sorted(self._first, key=lambda entry: entry[0])]
        if self.count > len(lines):
            lines.append(f"… and {self.count - len(lines)} more")
        what = "1 problem" if self.count == 1 else f"{self.count} problems"
        raise InputError(
            f"{self.label}: {what}; nothing was submitted",
            problems=tuple(lines),
            hint="correct these lines and run it again",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a near miss, a list of what there is otherwise; empty if there is nothing."""
    names = [*dict.fromkeys(known)]
    near = nearest(name.lower(), [n.lower() for n in names], 3)
    if near:
        meant = [n for n in names if n.lower() in near]
        return f" (did you mean {' or '.join(repr(n) for n in meant)}?)"
    if not names:
        return ""
    shown = ", ".join(repr(n) for n in names[:12])
    return f" (there is {shown}{', …' if len(names) > 12 else ''})"


T = TypeVar("T")


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list() | tuple():
            return "a list"
        case _:
            return "an object"


def need_text(value: object, field: str) -> str:
    """``value`` as a text that is not empty."""
    if not isinstance(value, str):
        raise FieldError(field, f"must be a text, is {kind(value)}")
    if not value:
        raise FieldError(field, "is empty")
    return value


def need_object(value: object, field: str) -> dict[str, Any]:
    """``value`` as an object."""
    if not isinstance(value, dict):
        raise FieldError(field, f"must be an object, is {kind(value)}")
    return value


def need_list(value: object, field: str) -> list[Any]:
    """``value`` as a list that is not empty."""
    if not isinstance(value, list):
        raise FieldError(field, f"must be a list, is {kind(value)}")
    if not value:
        raise FieldError(field, "is empty")
    return value


def need_number(value: object, field: str, low: float | None, high: float | None) -> float:
    """``value`` as a number within bounds; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(field, f"must be a number, is {kind(value)}")
    _check_bounds(value, field, low, high)
    return value


def need_int(value: object, field: str, low: int | None, high: int | None) -> int:
    """``value`` as a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(field, f"must be a whole number, is {kind(value) if not isinstance(value, float) else value}")
    _check_bounds(value, field, low, high)
    return value


def need_bool(value: object, field: str) -> bool:
    """``value`` as true or false."""
    if not isinstance(value, bool):
        raise FieldError(field, f"must be true or false, is {kind(value)}")
    return value


def need_choice(value: object, field: str, choices: Mapping[str, T]) -> T:
    """What ``value`` stands for in ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise FieldError(field, f"must be one of {', '.join(choices)}; is {value!r}")
    return choices[value]


def _check_bounds(value: float, field: str, low: float | None, high: float | None) -> None:
    if low is not None and value < low:
        raise FieldError(field, f"must be at least {low}, is {value}")
    if high is not None and value > high:
        raise FieldError(field, f"must be at most {high}, is {value}")
