"""A listing that lasts longer than a step of directory times, and what comes right behind it without showing there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from swarm.filesystem import entries
from swarm.filesystem.entries import GRAIN_NS


def go_by_modification_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories are stamped by a time that a test can set."""
    monkeypatch.setattr(entries, "change_time", lambda status: status.st_mtime_ns)


def hide_behind_listing(monkeypatch: pytest.MonkeyPatch, folder: str, happen: Callable[[], object]) -> None:
    """``folder`` has just changed; its next listing is slow, and misses what happens in the same step of the clock."""
    go_by_modification_time(monkeypatch)
    stamp = now_ns = os.stat(folder).st_mtime_ns
    real_list, real_scan = os.listdir, os.scandir

    def pass_by(path: object) -> None:
        nonlocal now_ns
        if path == folder and now_ns == stamp:
            now_ns += 2 * GRAIN_NS
            happen()
            os.utime(folder, ns=(stamp, stamp))

    def slow_list(path: str) -> list[str]:
        names = real_list(path)
        pass_by(path)
        return names

    @contextmanager
    def slow_scan(path: str) -> Iterator[Iterator[os.DirEntry[Any]]]:
        with real_scan(path) as entries:
            found = list(entries)
        pass_by(path)
        yield iter(found)

    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    monkeypatch.setattr(os, "listdir", slow_list)
    monkeypatch.setattr(os, "scandir", slow_scan)
