"""The work of the queue benchmark, the raw floor under it, and facts about the machine."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PAD = "x" * 820
MODEL = "llama3.2:3b"
_libc = ctypes.CDLL(None, use_errno=True)


def document(number: int, model: str = MODEL, priority: int = 5) -> dict[str, Any]:
    """One task of about 1 KB: valid for our queue, plain JSON for all others."""
    return {
        "name": f"t{number}",
        "task_class": "llm",
        "model": model,
        "priority": priority,
        "request": {"messages": [{"role": "user", "content": PAD}]},
    }


BODY = json.dumps(document(0)).encode()
RESULT = {"message": {"role": "assistant", "content": "ok"}}


def write_file(path: str, data: bytes, *, sync: bool) -> None:
    """Create a file with its content."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    os.write(fd, data)
    if sync:
        os.fsync(fd)
    os.close(fd)


class Floor:
    """Plain system calls on four directories: what any queue of files and renames must do at least.

    ``sync``: ``none``; ``lean`` (files, and each directory that gains a name); ``all`` (directories that lose one too).
    """

    OPERATIONS = ("put", "rename", "cycle-min", "cycle-result")
    LABELS = {  # noqa: RUF012
        "put": "write + rename",
        "rename": "rename",
        "cycle-min": "cycle-min: rename, read + parse, rename",
        "cycle-result": "cycle-result: rename, read + parse, result as a new file, unlink",
    }

    def __init__(self, root: str, sync: str) -> None:
        self.root = root
        self.sync = sync
        self.flushed: dict[str, int] = {}

    def prepare(self, operation: str, names: list[str]) -> None:
        for folder in ("pending", "processing", "completed", "staging"):
            os.makedirs(f"{self.root}/{folder}", exist_ok=True)
        if operation != "put":
            for name in names:
                write_file(f"{self.root}/pending/{name}", BODY, sync=False)

    def one(self, operation: str) -> Callable[[str], None]:
        return {"put": self._put, "rename": self._claim, "cycle-min": self._min, "cycle-result": self._result}[operation]

    def _flush(self, gains: str, loses: str | None = None) -> None:
        if self.sync == "none":
            return
        for folder in (gains, loses if self.sync == "all" else None):
            if folder is not None:
                if folder not in self.flushed:
                    self.flushed[folder] = os.open(f"{self.root}/{folder}", os.O_RDONLY | os.O_DIRECTORY)
                os.fsync(self.flushed[folder])

    def _write_into(self, folder: str, name: str, data: bytes) -> None:
        write_file(f"{self.root}/staging/{name}", data, sync=self.sync != "none")
        os.rename(f"{self.root}/staging/{name}", f"{self.root}/{folder}/{name}")
        self._flush(folder)

    def _put(self, name: str) -> None:
        self._write_into("pending", name, BODY)

    def _claim(self, name: str) -> None:
        os.rename(f"{self.root}/pending/{name}", f"{self.root}/processing/{name}")
        self._flush("processing", "pending")

    def _read(self, name: str) -> dict[str, Any]:
        fd = os.open(f"{self.root}/processing/{name}", os.O_RDONLY)
        data = os.read(fd, 1 << 16)
        os.close(fd)
        task: dict[str, Any] = json.loads(data)
        return task

    def _min(self, name: str) -> None:
        self._claim(name)
        self._read(name)
        os.rename(f"{self.root}/processing/{name}", f"{self.root}/completed/{name}")
        self._flush("completed", "processing")

    def _result(self, name: str) -> None:
        self._claim(name)
        task = self._read(name)
        task["result"] = RESULT
        self._write_into("completed", name, json.dumps(task).encode())
        os.unlink(f"{self.root}/processing/{name}")
        if self.sync == "all":
            self._flush("processing")


def bulk_floor(root: str, count: int) -> float:
    """Tasks a second: a directory of files written aside, one ``syncfs``, one rename, one directory flush."""
    for folder in ("pending", "staging"):
        os.makedirs(f"{root}/{folder}")
    start_s = time.monotonic()
    home = f"{root}/staging/bucket"
    os.mkdir(home)
    for number in range(count):
        write_file(f"{home}/{number:09d}", BODY, sync=False)
    fd = os.open(f"{root}/pending", os.O_RDONLY | os.O_DIRECTORY)
    if _libc.syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), "syncfs")
    os.rename(home, f"{root}/pending/bucket")
    os.fsync(fd)
    os.close(fd)
    return count / (time.monotonic() - start_s)


def machine(folder: str) -> dict[str, Any]:
    """What to print beside every figure."""
    cpu = next(
        (x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    row = subprocess.run(["df", "-T", folder], capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    kind = row[1]
    if kind == "ext4":
        kind += " with a journal" if any(Path("/proc/fs/jbd2").glob("*")) else " without a journal"
    versions = {}
    for name in ("huey", "persist-queue", "litequeue", "diskcache", "filelock", "msgspec"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "cpu": cpu,
        "kernel": platform.release(),
        "file_system": kind,
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "versions": versions,
    }


def warm(root: str, most: int) -> None:
    """Read the first files below ``root``, by name: what was made minutes ago is then as much in memory as what is new.

    No more than will be used: what comes after would push the first out of the processor's cache again.
    """
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names)[:most]:
            most -= 1
            with suppress(OSError), open(f"{folder}/{name}", "rb") as file:
                while file.read(1 << 20):
                    pass
        if most <= 0:
            return


class Load:
    """How much of the processors others used, seen just before each cell."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def look(self, seconds: float = 0.05) -> None:
        before, total_before = self._busy()
        time.sleep(seconds)
        after, total_after = self._busy()
        self.shares.append((after - before) / max(1, total_after - total_before))

    @staticmethod
    def _busy() -> tuple[int, int]:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(x) for x in file.readline().split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)
