"""``logs/<name>.err``: what a process said on standard error, which is mostly its last words, as entries of a log.

These lines carry no time. A process writes its last words when it dies, and is started again right after that; so they
take the time of the next start, which is noted in the file, and those of the last life the time of the file itself.
"""

from __future__ import annotations

import os

from swarm.cli.logs.log_files import Entry, parse, text_of
from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file

TAIL_BYTES = 1 << 18
"""Older words than these are not shown."""
STARTED = "started; what it says on standard error follows"
_FATAL = ("Traceback (most", "Fatal Python error")


def entries(source: str, path: str) -> list[Entry]:
    """What was said, oldest first: one record for each life that said anything. Starts alone are not worth a line."""
    try:
        with open(open_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            until_s = os.fstat(file.fileno()).st_mtime
            file.seek(max(0, size - TAIL_BYTES))
            lines = [text_of(line) for line in file.read().split(b"\n") if line.strip()]
    except (FileNotFoundError, OddEntry):
        return []
    found: list[Entry] = []
    words: list[str] = []
    for line in reversed(lines):
        start = parse(line, source, 0.0)
        if not is_start(start):
            words.append(line)
            continue
        found += _said(source, until_s, words)
        words, until_s = [], start.time_s
    return [*found, *_said(source, until_s, words)][::-1]


def is_start(entry: Entry) -> bool:
    """Whether this is the note of a start."""
    return entry.lines[0].endswith(STARTED)


def _said(source: str, time_s: float, backwards: list[str]) -> list[Entry]:
    if not backwards:
        return []
    level = "ERROR" if any(line.startswith(_FATAL) for line in backwards) else None
    return [Entry(time_s=time_s, source=source, level=level, lines=tuple(reversed(backwards)))]
