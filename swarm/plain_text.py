"""Text of others: byte order marks taken off when read, made safe to show. Pure, a leaf.

Safe is without control characters, escape sequences and changes of direction.
"""

from __future__ import annotations

import re
from unicodedata import category

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode that terminals and editors obey instead of showing: controls, formats, halves, line ends."""
_JOINERS = "\u200c\u200d"
"""They join letters and emoji, and hide nothing."""
_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def _shown(char: str) -> str:
    if category(char) not in _OBEYED or char in _JOINERS:
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
    if text.isprintable():
        return text
    parts = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(one_line, part.split("\t"))) for part in parts)


def json_shown(document: str) -> str:
    r"""A JSON document that means the same, with what a terminal would obey written as ``\u009b`` and the like.

    Such characters stand in its strings alone; those below U+0020 are escaped in any JSON.
    """
    return document if document.isascii() and "\x7f" not in document else _IN_JSON.sub(_json_escape, document)


def _json_escape(hit: re.Match[str]) -> str:
    return f"\\u{ord(hit[0]):04x}"


UTF8 = b"\xef\xbb\xbf"
_FOREIGN = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


class ForeignText(ValueError):
    """A text begins with the byte order mark of another encoding than UTF-8."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"begins with a byte order mark of {encoding}; save it as UTF-8")
        self.encoding = encoding


def without_bom(data: bytes) -> bytes:
    """The same without a UTF-8 byte order mark, which means nothing. Raises ``ForeignText`` for any other."""
    encoding = next((name for mark, name in _FOREIGN if data.startswith(mark)), None)
    if encoding is not None:
        raise ForeignText(encoding)
    return data.removeprefix(UTF8)
