"""How the scripts that try hard tell what came of it: lines with the time, tables of two columns, findings with a mark."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TextIO


def quantile(values: list[float], share: float) -> float:
    """The smallest value that so many do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def table(rows: Iterable[tuple[str, object]], findings: Iterable[str] = (), out: TextIO | None = None) -> None:
    """Two columns, and below them what is wrong."""
    for name, value in rows:
        print(f"  {name:42}{value}", file=out or sys.stdout)
    for line in findings:
        print("  !", line, file=out or sys.stdout, flush=True)


class Teller:
    """Progress with the seconds since it began."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._began_s = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"  {self.took_s:6.0f} s  {text}", file=self._out, flush=True)

    @property
    def took_s(self) -> float:
        return time.monotonic() - self._began_s
