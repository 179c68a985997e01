"""Byte order marks: programs of other systems begin text files with one."""

from __future__ import annotations

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
