"""Problems of an input: one per line, collected up to a bound, raised together."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.errors import InputError, nearest

MAX_LISTED = 100


class FieldError(Exception):
    """One field of one line is wrong. Raised where it is found, caught where the line number is known."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Problems:
    """The findings about one input. Keeps the first ``MAX_LISTED`` in line order and counts the rest."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.count = 0
        self._first: list[tuple[int, str]] = []

    def add(self, line_no: int, field: str, message: str) -> None:
        """Note a finding; ``field`` may be empty when it is about the whole line."""
        self.count += 1
        if len(self._first) < MAX_LISTED:
            where = f"{self.label}:{line_no}: {field}: " if field else f"{self.label}:{line_no}: "
            self._first.append((line_no, where + message))

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
