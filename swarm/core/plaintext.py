"""Text of others, made safe to show: no control characters or escape sequences, no change of direction. Pure."""

from __future__ import annotations

from unicodedata import category

_JOINERS = "\u200c\u200d"
"""They join letters and emoji, and hide nothing."""


def _shown(char: str) -> str:
    if char in _JOINERS or char.isprintable() or category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode("ascii")


def one_line(text: str, limit: int | None = None) -> str:
    r"""The text with whatever a terminal or a log would obey written out (``\x1b``, ``\n``, ``\u202e``, ``\ud800``).

    With ``limit`` at most so many of its characters are kept, and an ellipsis says so.
    """
    if limit is not None and len(text) > limit:
        return one_line(text[:limit]) + "…"
    return text if text.isprintable() else "".join(map(_shown, text))


def lines(text: str) -> str:
    """The same for text of several lines: line breaks and tabs stay."""
    parts = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(one_line, part.split("\t"))) for part in parts)
