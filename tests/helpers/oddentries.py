"""Odd entries of every kind, and the places of a queue root where somebody may leave one."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from swarm.queue.layout import Layout, shard_of
from tests.helpers.forked import forked
from tests.helpers.queues import LANE

NOBODY = 65534
OUTSIDE = b"keep me"
"""What a link may point to, outside of the root."""


def _socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:  # by a short way: such names may have 108 bytes only
        here = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            server.bind(f"/proc/self/fd/{here}/s")
        finally:
            os.rename(f"/proc/self/fd/{here}/s", path)
            os.close(here)


def _folder(path: str) -> None:
    os.mkdir(path)
    Path(path, "inside.json").write_bytes(OUTSIDE)


def _file(path: str) -> None:
    Path(path).write_bytes(OUTSIDE)


def _barred(path: str) -> None:
    _file(path)
    os.chmod(path, 0)


def _device(path: str) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: it never ends


Maker = Callable[[str], object]


def kinds(outside: Path) -> dict[str, Maker]:
    """By name, what makes one at a path. ``outside`` is a directory beside the root that must stay as it is."""
    (outside / "folder").mkdir(parents=True, exist_ok=True)
    (outside / "folder" / "a.json").write_bytes(OUTSIDE)
    (outside / "file").write_bytes(OUTSIDE)
    made: dict[str, Maker] = {
        "loop": lambda path: os.symlink(os.path.basename(path), path),
        "dangling": lambda path: os.symlink(outside / "nowhere", path),
        "long-link": lambda path: os.symlink("a" * 4000, path),
        "file-link": lambda path: os.symlink(outside / "file", path),
        "folder-link": lambda path: os.symlink(outside / "folder", path),
        "fifo": os.mkfifo,
        "socket": _socket,
        "folder": _folder,
        "file": _file,
        "barred": _barred,
    }
    if os.geteuid() == 0:
        with suppress(OSError):  # a container that may make none
            _device(str(outside / "device"))
            os.unlink(outside / "device")
            made["device"] = _device
    return made


NAMES = {
    "plain": b"#",
    "document": b"#.json",
    "task": b"#.0.json",
    "dotted": b".#",
    "long": b"#" + b"z" * 238 + b".json",
    "bytes": b"\xff\xfe#.json",
    "lines": b"#\nb\x1b[31m.json",
    "spaces": b" #.json",
}
"""Names that are nobody's, or look like somebody's; ``#`` stands for the kind."""


def folders(layout: Layout, worker: str, bucket: str, task_id: str) -> dict[str, str]:
    """The directories of a root in which something lies, by what they are called in tests."""
    root = layout.root
    shards = {f"{s} shard": f"{root}/{s}/{shard_of(task_id)}" for s in ("completed", "failed", "cancelled")}
    tops = {s: f"{root}/{s}" for s in ("completed", "failed", "cancelled")}
    return {
        "pending": layout.pending,
        "lane": layout.lane(LANE),
        "bucket": f"{layout.lane(LANE)}/{bucket}",
        "blocked": layout.blocked,
        "processing": layout.processing,
        "held": layout.held_by(worker),
        **tops,
        **shards,
        "corrupt": layout.corrupt,
        "batches": layout.batches,
        "feeds": layout.feeds,
        "outbox": layout.outbox,
        "undeliverable": f"{layout.outbox}/undeliverable",
        "control": layout.control,
        "workers": layout.workers,
        "requests": f"{layout.workers}/supervisor.requests",
        "heartbeats": layout.heartbeats,
        "sessions": layout.sessions,
        "cancel": layout.cancels,
        "staging": layout.staging,
        "cache": layout.cache,
        "answers": f"{layout.cache}/ab",
        "logs": layout.logs,
        "root": root,
    }


def own_names(layout: Layout, worker: str, task_id: str) -> dict[str, str]:
    """Names that swarm itself is about to use, by what they are called in tests."""
    root = layout.root
    return {
        "lane": layout.lane(LANE),
        "held": layout.held_by(worker),
        "shard": f"{root}/completed/{shard_of(task_id)}",
        "record": f"{root}/completed/{shard_of(task_id)}/{task_id}.json",
        "row": layout.row(worker),
        "lock": layout.lock(worker),
        "brain lock": layout.lock("brain"),
        "brain row": layout.row("brain"),
        "heartbeat": layout.heartbeat(worker),
        "brain heartbeat": layout.heartbeat("brain"),
        "supervisor lock": layout.lock("supervisor"),
        "plan": f"{layout.workers}/supervisor.plan.json",
        "status": f"{layout.workers}/supervisor.status.json",
        "pauses": layout.pauses,
        "pauses lock": f"{layout.pauses}.lock",
        "counts": layout.counts,
        "turns": f"{layout.sessions}/turns.jsonl",
        "needs": f"{layout.sessions}/needs.jsonl",
        "submit lock": f"{layout.staging}/.submit.lock",
        "wakeup": layout.wakeup,
        "log": f"{layout.logs}/{worker}.log",
        "rotated log": f"{layout.logs}/{worker}.log.1",
        "brain log": f"{layout.logs}/brain.log",
        "stderr": f"{layout.logs}/{worker}.err",
        "brain stderr": f"{layout.logs}/brain.err",
        "server log": f"{layout.logs}/ollama-{worker}.log",
        "feeds": layout.feeds,
        "outbox": layout.outbox,
        "cache": layout.cache,
    }


def plant(path: str, make: Maker) -> bool:
    """Make one there, in place of a file or an empty directory of ours; False where something else is in the way."""
    folder = os.path.dirname(path)
    if os.path.realpath(folder) != folder:
        return False  # behind a link that was planted before
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return False
    with suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            return False
        os.unlink(path)
    make(path)
    return True


def as_nobody(act: Callable[[], object]) -> None:
    """Do it in a child process without any privilege; raises ``AssertionError`` with what it raised."""

    def without_privileges() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        act()

    forked(without_privileges)


def untouched(outside: Path) -> bool:
    """Whether what links point to is as it was, and nothing was made there."""
    there = sorted(str(p.relative_to(outside)) for p in outside.rglob("*"))
    whole = [(outside / "file").read_bytes(), (outside / "folder" / "a.json").read_bytes()]
    return there == ["file", "folder", "folder/a.json"] and whole == [OUTSIDE, OUTSIDE]


def everything(root: str) -> Iterator[os.stat_result]:
    """The state of each entry below the root, links and FIFOs themselves."""
    for folder, folders_, names in os.walk(root):
        yield from (os.lstat(f"{folder}/{name}") for name in (*folders_, *names))
