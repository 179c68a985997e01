"""Power cuts in pure Python: from a recorded trace of file calls to the states a disk may be in after a cut.

The model is that of journalled file systems (measured on ext4 and xfs): changes of names reach the disk in order, so that
any flush makes all earlier ones durable, and what came after the last flush may be there up to any point; the *content*
of a file is there only as far as that file (or its whole file system) was flushed, and what was not may be gone or torn.
``unflushed`` is stricter, as POSIX is: a name counts only once its own directory was flushed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.helpers.crashpoints import WRITES, Call

FLUSHES = ("fsync", "syncfs")
HINTS = (".bell", ".lock", "/heartbeats/", "/.staging", "/.cancel/", "/logs/")
"""What may be lost: hints, locks and what was not accepted yet."""


class State(NamedTuple):
    """One state a cut may leave."""

    cut: int
    """The cut came before this call."""
    names: int
    """Changes of names before this call are on the disk."""
    content: str
    """What became of unflushed content: ``lost``, ``torn`` or ``there``."""


def states(trace: Sequence[Call]) -> Iterator[State]:
    """The states worth looking at: before each call, with nothing or everything since the last flush on the disk."""
    flushed = 0
    for cut in range(len(trace) + 1):
        if cut and trace[cut - 1].name in FLUSHES:
            flushed = cut
        for names in sorted({flushed, cut}):
            for content in ("lost", "torn", "there"):
                yield State(cut, names, content)


class _File:
    """An inode: what is in it, and what of that survives a cut."""

    def __init__(self, data: bytes = b"") -> None:
        self.safe = data
        self.now = data

    def write(self, offset: int, data: bytes) -> None:
        self.now = self.now[:offset].ljust(offset, b"\0") + data + self.now[offset + len(data) :]

    def after(self, content: str) -> bytes:
        if content == "there" or self.now == self.safe:
            return self.now
        if content == "lost":
            return self.safe
        pairs = zip(self.safe, self.now, strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(self.safe), len(self.now)))
        middle = same + (len(self.now) - same) // 2
        return self.now[:middle] + self.safe[middle:]


class Disk:
    """A tree of names and files, to which calls are applied. Starts as what is (durably) under ``root``."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._tree: dict[str, _File | None] = {}
        self._fresh: set[str] = set()
        self._unsure: set[str] = set()
        """Files that had no name, and whose number of names was not flushed since they have one."""
        for folder, _, names in os.walk(root):
            self._tree[folder] = None
            for name in names:
                with open(f"{folder}/{name}", "rb") as file:
                    self._tree[f"{folder}/{name}"] = _File(file.read())

    def cut(self, trace: Sequence[Call], state: State) -> dict[str, bytes | None]:
        """What is there afterwards: path to content, None for directories. A file that had no name yet is gone."""
        kept = self._tree
        for number, call in enumerate(trace[: state.cut]):
            if number == state.names:
                kept = dict(self._tree)
            self.apply(call)
        if state.content == "torn" and state.cut < len(trace) and trace[state.cut].name == "pwritev":
            call = trace[state.cut]
            self.apply(call._replace(data=call.data[: len(call.data) // 2]))
        if state.names == state.cut:
            kept = self._tree
        named = {path: file for path, file in kept.items() if not os.path.basename(path).startswith("#")}
        return {path: None if file is None else file.after(state.content) for path, file in named.items()}

    def apply(self, call: Call) -> None:
        """One call, as it went."""
        self._content(call)
        self._names(call)

    def unflushed(self) -> list[str]:
        """Names and contents that a cut may take back now."""
        names = [p for p in self._fresh if p in self._tree]
        contents = [p for p, f in self._tree.items() if f is not None and f.now != f.safe]
        open_ = {*names, *contents, *self._unsure}
        return sorted(p for p in open_ if not any(h in p for h in HINTS) and not p.endswith(".staging"))

    def _content(self, call: Call) -> None:
        if call.name == "syncfs":
            self._fresh.clear()
            self._unsure.clear()
            for each in self._tree.values():
                if each is not None:
                    each.safe = each.now
            return
        file = self._tree.get(call.path)
        if call.name == "fsync" and file is None:
            self._fresh = {p for p in self._fresh if os.path.dirname(p) != call.path}
        if file is None:
            return
        if call.name in WRITES:
            file.write(call.offset, call.data)
            if call.durable:
                file.safe = file.now
        elif call.name == "ftruncate":
            file.now = file.now[: call.offset].ljust(call.offset, b"\0")
        elif call.name == "fsync":
            file.safe = file.now
            self._unsure.discard(call.path)

    def _names(self, call: Call) -> None:
        match call.name:
            case "open" if call.made and call.path not in self._tree:
                self._add(call.path, _File())
            case "mkdir" if call.path not in self._tree and os.path.dirname(call.path) in self._tree:
                self._add(call.path, None)
            case "unlink":
                self._tree.pop(call.path, None)
            case "rmdir" if not any(p.startswith(f"{call.path}/") for p in self._tree):
                self._tree.pop(call.path, None)
            case "link":
                self._rename(call.path, call.other, over=False)
                if call.path not in self._tree:
                    self._unsure.add(call.other)
            case "rename" | "replace" | "rename_new":
                self._rename(call.path, call.other, over=call.name != "rename_new")

    def _add(self, path: str, file: _File | None) -> None:
        self._tree[path] = file
        self._fresh.add(path)

    def _rename(self, source: str, target: str, *, over: bool) -> None:
        if source not in self._tree or os.path.dirname(target) not in self._tree or (target in self._tree and not over):
            return  # it failed
        moved = [p for p in self._tree if p == source or p.startswith(f"{source}/")]
        for path in moved:
            self._tree[target + path[len(source) :]] = self._tree.pop(path)
        self._fresh.discard(source)
        self._fresh.add(target)


def write_out(root: str, tree: dict[str, bytes | None]) -> None:
    """Make ``root`` look like this."""
    shutil.rmtree(root)
    for path in sorted(tree):
        data = tree[path]
        if data is None:
            os.makedirs(path, exist_ok=True, mode=0o700)
        else:
            with open(path, "wb") as out:
                out.write(data)
