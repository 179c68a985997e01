"""Reads a program's output as it comes, keeps the first part and counts the rest."""

from __future__ import annotations

import os

_CHUNK = 1 << 16
_TAIL = 2048
"""Bytes of the end that are remembered beside the head: the last words say why a program failed."""


class Capture:
    """One output stream: a non-blocking pipe end that is drained to the end, whatever is kept of it."""

    def __init__(self, fd: int, cap_bytes: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.total = 0
        self.open = True
        self._cap = cap_bytes
        self._head = bytearray()
        self._tail = b""

    def read(self, max_chunks: int = 16) -> int:
        """Read what is there, at most so many chunks; returns the number of chunks read. ``open`` turns False at the end."""
        for count in range(max_chunks):
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return count
            if not chunk:
                self.open = False
                return count
            self._keep(chunk)
        return max_chunks

    @property
    def truncated(self) -> bool:
        """Whether something was dropped."""
        return self.total > len(self._head)

    @property
    def text(self) -> str:
        """What was kept; bytes that are no UTF-8 become replacement characters."""
        return self._head.decode("utf-8", "replace")

    @property
    def last_line(self) -> str:
        """The last line that is not blank, at most 300 characters."""
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""

    def _keep(self, chunk: bytes) -> None:
        self.total += len(chunk)
        self._head += chunk[: self._cap - len(self._head)]
        self._tail = (self._tail + chunk)[-_TAIL:]
