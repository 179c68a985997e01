"""Small typed look-ups in objects that people wrote. Each raises ``FieldError`` with the field's path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from swarm.formats.input.problems import FieldError

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
