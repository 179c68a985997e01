"""One line of a worker's journal: a task file as it is from here on, where it was and where it is to be.

A segment of a journal is read with ``jq``: a header and then lines, with blanks between them, each one JSON object whose
last field is the task's whole document, byte for byte. A line counts if its checksum and its generation are right.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

BLOCK_BYTES = 4096
"""What disks write in one piece; a write into a journal begins and ends with one."""
_HEADER = re.compile(rb'\{"crc":"([0-9a-f]{8})","generation":([0-9]+)\} *\n')
_LINE = re.compile(
    rb'\s*\{"crc":"([0-9a-f]{8})","generation":([0-9]+),"number":([0-9]+),"bytes":([0-9]+),'
    rb'"was":("(?:[^"\\]|\\.)*"),"now":("(?:[^"\\]|\\.)*"),"task":'
)
_CRC_END = len('00000000",')
_string = msgspec.json.Encoder().encode


class Redo(NamedTuple):
    """A move of a task file that its worker has made: the file at ``now`` holds ``data``, and at ``was`` is none.

    Both are paths below the root.
    """

    was: str
    now: str
    data: bytes


def header(generation: int) -> bytes:
    """The first block of a segment: lines of this generation count, no others."""
    rest = b'"generation":%d}' % generation
    text = b'{"crc":"%08x",%s' % (zlib.crc32(rest), rest)
    return text.ljust(BLOCK_BYTES - 1) + b"\n"


def encode(redos: Sequence[Redo], generation: int, number: int) -> bytes:
    """Lines, numbered from ``number`` on, filled up with blanks to whole blocks."""
    lines = []
    for redo in redos:
        head = b'"generation":%d,"number":%d,"bytes":%d,"was":%s,"now":%s,"task":' % (
            generation,
            number,
            len(redo.data),
            _string(redo.was),
            _string(redo.now),
        )
        crc = zlib.crc32(redo.data, zlib.crc32(head))
        lines.append(b'{"crc":"%08x",%s%s}\n' % (crc, head, redo.data))
        number += 1
    text = b"".join(lines)
    return text + b" " * (-len(text) % BLOCK_BYTES)


def decode(segment: bytes) -> Iterator[tuple[int, Redo]]:
    """The lines of a segment that count, with their numbers, up to the first that does not."""
    found = _HEADER.match(segment)
    if found is None or zlib.crc32(b'"generation":%s}' % found[2]) != int(found[1], 16):
        return
    generation, at = found[2], found.end()
    while (line := _LINE.match(segment, at)) is not None and line[2] == generation:
        end = line.end() + int(line[4])
        if zlib.crc32(segment[line.start(1) + _CRC_END : end]) != int(line[1], 16):
            return
        names = msgspec.json.decode(line[5], type=str), msgspec.json.decode(line[6], type=str)
        yield int(line[3]), Redo(*names, segment[line.end() : end])
        at = end + len("}\n")
