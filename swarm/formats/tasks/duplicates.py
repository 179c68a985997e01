"""Finds what occurs twice among millions, in flat memory: digests go to buckets on disk, each small enough to sort out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, Self, cast

DIGEST_BYTES = 16
"""128 bits: among 10 million items a false clash has a chance of 1 in 10^25, so none has to be looked at again."""

_BUCKETS = 64
_ENTRY_BYTES = DIGEST_BYTES + 8
_IN_MEMORY_BYTES = 1 << 20
"""Per bucket, before it goes to disk: 2.8 million items in all."""


class Repeats:
    """Digests with line numbers. Costs 24 bytes an item up to 64 MiB, then disk; looks through one bucket at a time."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._buckets = [self._bucket() for _ in range(_BUCKETS)]
        self._writes = [bucket.write for bucket in self._buckets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _bucket(self) -> BinaryIO:
        return cast("BinaryIO", self._stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)))

    def add(self, digest: bytes, line_no: int) -> None:
        """Note one occurrence; line numbers must not fall."""
        self._writes[digest[0] % _BUCKETS](digest + line_no.to_bytes(8, "big"))

    def found(self) -> Iterator[tuple[bytes, int, int]]:
        """Every occurrence after a first one: digest, line of the first, line of this one."""
        for bucket in self._buckets:
            bucket.seek(0)
            data = bucket.read()
            digests = [data[i : i + DIGEST_BYTES] for i in range(0, len(data), _ENTRY_BYTES)]
            if len(set(digests)) == len(digests):
                continue
            first: dict[bytes, int] = {}
            for index, digest in enumerate(digests):
                end = (index + 1) * _ENTRY_BYTES
                line_no = int.from_bytes(data[end - 8 : end], "big")
                seen = first.setdefault(digest, line_no)
                if seen != line_no:
                    yield digest, seen, line_no
