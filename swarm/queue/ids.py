"""Task ids: 17 characters that sort by time, unique across processes without asking anybody; one process's always rise.

Nine characters of milliseconds since 1970, three of a sequence within the millisecond, five random; Crockford's base 32
in lower case (no i, l, o, u), so that ids survive being read aloud and sort as text.
"""

from __future__ import annotations

import os
import re
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {c: i for i, c in enumerate(_ALPHABET)}
_TIME_CHARS = 9
_SEQ_CHARS = 3
_RANDOM_CHARS = 5
_SEQ_MAX = 32**_SEQ_CHARS
_MADE_RE = re.compile(r"^[0-3][0-9a-hjkmnp-tv-z]{16}$")
_AHEAD_S = 86400.0
"""Further ahead of the clock lies no time of ours: it was read from somebody else's id that looks like one."""
ID_LENGTH = _TIME_CHARS + _SEQ_CHARS + _RANDOM_CHARS


def _encode(value: int, width: int) -> str:
    chars = []
    for _ in range(width):
        chars.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(chars))


class IdMaker:
    """Makes ids that rise strictly within this object, also when the wall clock steps back."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._seq = 0
        self._head = _encode(0, _TIME_CHARS)
        self.be_another()

    def be_another(self) -> None:
        """In a forked child: make other ids than the parent from here on."""
        self._lock = threading.Lock()  # another thread may have held it at the fork
        self._random = "".join(_ALPHABET[byte & 31] for byte in os.urandom(_RANDOM_CHARS))

    def new(self) -> str:
        """A fresh id; of two, the later one sorts later."""
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms > self._last_ms:
                self._start(now_ms)
            elif self._seq + 1 < _SEQ_MAX:
                self._seq += 1
            else:
                self._start(self._last_ms + 1)
            seq = self._seq
            return f"{self._head}{_PAIRS[seq >> 5]}{_ALPHABET[seq & 31]}{self._random}"

    def _start(self, ms: int) -> None:
        self._last_ms, self._seq, self._head = ms, 0, _encode(ms, _TIME_CHARS)


_here = IdMaker()
os.register_at_fork(after_in_child=_here.be_another)


def new_id() -> str:
    """A fresh id: one maker for the whole process, so that what it submits first sorts first whichever object it uses."""
    return _here.new()


def made_here(task_id: str) -> bool:
    """Whether an id has the shape of ours. Depends on the id alone, so others' ids may have it: see ``time_of``."""
    return _MADE_RE.match(task_id) is not None


def time_of(task_id: str) -> float | None:
    """Seconds since the epoch at which the id was made; None for ids made by others."""
    return _plausible_s(task_id[:_TIME_CHARS]) if made_here(task_id) else None


def shard_time_of(shard: str) -> float | None:
    """Seconds since the epoch before which no id of this shard was made; None for shards of others' ids."""
    if len(shard) >= _TIME_CHARS or not made_here(shard.ljust(ID_LENGTH, "0")):
        return None
    return _plausible_s(shard.ljust(_TIME_CHARS, "0"))


def _plausible_s(text: str) -> float | None:
    ms = 0
    for char in text:
        ms = (ms << 5) | _VALUES[char]
    return ms / 1000 if ms / 1000 <= time.time() + _AHEAD_S else None
