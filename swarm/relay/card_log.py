"""A model server's log, in the parts that have come since somebody asked last."""

from __future__ import annotations

import os
from pathlib import Path

from swarm.core.nodes.relay_wire import LOG_BYTES, LogPart
from swarm.errors import OddEntry
from swarm.filesystem.entries import open_file


def log_part(path: Path, life: str, after: int) -> LogPart:
    """What has come since. The log is one file for long; one that was replaced (another ``life``) is read from near its end,
    one that was cut from its start.

    Whole lines, but for one longer than ``LOG_BYTES``. Raises ``OSError``.
    """
    try:
        fd = open_file(str(path))
    except (FileNotFoundError, OddEntry):
        return LogPart(life=life, after=after, text="")
    try:
        status = os.fstat(fd)
        now, size = str(status.st_ino), status.st_size
        start = _line_start(fd, size - LOG_BYTES) if life != now else after if after <= size else 0
        data = os.pread(fd, LOG_BYTES, start)
    finally:
        os.close(fd)
    whole = data.rfind(b"\n") + 1
    if not whole and len(data) < LOG_BYTES:
        return LogPart(life=now, after=start, text="")
    data = data[: whole or len(data)]
    return LogPart(life=now, after=start + len(data), text=data.decode("utf-8", "replace"))


def _line_start(fd: int, at: int) -> int:
    """Where the first line begins after ``at``."""
    if at <= 0:
        return 0
    return at + os.pread(fd, LOG_BYTES, at).find(b"\n") + 1
