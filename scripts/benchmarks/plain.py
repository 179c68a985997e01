# ruff: noqa: ARG002  (an adapter may have no use for what it is told)
"""Queues that need no package: SQLite by hand, the obvious design on files, and beanstalkd."""

from __future__ import annotations

import glob
import importlib
import json
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.adapter import Adapter, mono


class Sqlite(Adapter):
    name, durability, waits = "SQLite by hand, NORMAL", "none (WAL)", "polls every 0.1 s"
    level = "NORMAL"

    def open(self, consumer: int = 0) -> None:
        self.db = sqlite3.connect(f"{self.path}/q.db", timeout=60, isolation_level=None)
        self.db.execute("pragma journal_mode=wal")
        self.db.execute(f"pragma synchronous={self.level}")
        self.db.execute(
            "create table if not exists task(id integer primary key, state int not null default 0, body, result)"
        )
        self.db.execute("create index if not exists waiting on task(id) where state = 0")

    def put(self, task: dict[str, Any]) -> None:
        self.db.execute("insert into task(body) values(?)", (json.dumps(task),))

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        self.db.execute("begin")
        self.db.executemany("insert into task(body) values(?)", ((json.dumps(t),) for t in tasks))
        self.db.execute("commit")

    def claim(self) -> tuple[str, Any] | None:
        rows = self.db.execute(
            "update task set state = 1 where id = "
            "(select id from task where state = 0 order by id limit 1) returning id, body"
        ).fetchall()
        return (json.loads(rows[0][1])["name"], rows[0][0]) if rows else None

    def ack(self, handle: Any) -> None:
        self.db.execute("update task set state = 2, result = ? where id = ?", ('{"content": "ok"}', handle))

    def recover(self) -> str:
        self.db.execute("update task set state = 0 where state = 1")
        return "stuck until a sweep by hand"


class SqliteFull(Sqlite):
    name, sync, durability, level = "SQLite by hand, FULL", "fsync", "fsync", "FULL"


class SqliteFullTurn(SqliteFull):
    name = "SQLite by hand, FULL, done + next in one transaction"
    turns = True

    def turn(self, handle: Any) -> tuple[str, Any] | None:
        self.db.execute("begin immediate")
        self.ack(handle)
        found = self.claim()
        self.db.execute("commit")
        return found


class Beanstalkd(Adapter):
    name, durability, needs, waits = "beanstalkd -b", "log, fsync every 50 ms", "program:beanstalkd", "blocking"

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = probe.getsockname()
        command = ["beanstalkd", "-l", "127.0.0.1", "-p", str(self.address[1]), "-b", self.path]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = mono() + 5
        while mono() < end_s:
            with socket.socket() as probe:
                if probe.connect_ex(self.address) == 0:
                    return
            time.sleep(0.01)
        raise RuntimeError("beanstalkd did not come up")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def open(self, consumer: int = 0) -> None:
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines = self.socket.makefile("rb")

    def _ask(self, text: bytes, expected: bytes) -> list[bytes] | None:
        self.socket.sendall(text)
        words = self.lines.readline().split()
        return words if words[0] == expected else None

    def put(self, task: dict[str, Any]) -> None:
        data = json.dumps(task).encode()
        if self._ask(b"put 0 0 3600 %d\r\n%s\r\n" % (len(data), data), b"INSERTED") is None:
            raise RuntimeError("beanstalkd refused a put")

    def _reserve(self, timeout_s: int) -> tuple[str, Any] | None:
        words = self._ask(b"reserve-with-timeout %d\r\n" % timeout_s, b"RESERVED")
        return None if words is None else (json.loads(self.lines.read(int(words[2]) + 2))["name"], words[1])

    def claim(self) -> tuple[str, Any] | None:
        return self._reserve(0)

    def ack(self, handle: Any) -> None:
        self._ask(b"delete %s\r\n" % handle, b"DELETED")

    def wait(self, timeout_s: float) -> tuple[str, Any] | None:
        return self._reserve(max(1, int(timeout_s)))


class Naive(Adapter):
    """The obvious design: list all, parse all, lock each candidate, rename."""

    name, needs, waits, poll_s = "list all, parse all, lock each", "filelock", "polls every 1 s", 1.0

    def open(self, consumer: int = 0) -> None:
        self.locks = importlib.import_module("filelock")
        for folder in ("pending", "processing", "completed"):
            os.makedirs(f"{self.path}/{folder}", exist_ok=True)

    def put(self, task: dict[str, Any]) -> None:
        aside = f"{self.path}/{task['name']}.new"
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(task, file)
        os.rename(aside, f"{self.path}/pending/{task['name']}.json")

    def claim(self) -> tuple[str, Any] | None:
        seen = []
        for path in glob.glob(f"{self.path}/pending/*.json"):
            try:
                with open(path, encoding="utf-8") as file:
                    task = json.load(file)
            except FileNotFoundError:
                continue
            seen.append((-task["priority"], path, task))
        for _, path, task in sorted(seen, key=lambda entry: entry[:2]):
            lock = self.locks.FileLock(f"{path}.lock", timeout=0)
            try:
                lock.acquire()
                target = f"{self.path}/processing/{os.path.basename(path)}"
                os.rename(path, target)
            except self.locks.Timeout:
                continue
            except FileNotFoundError:
                lock.release()
                continue
            return task["name"], (target, task, lock)
        return None

    def ack(self, handle: Any) -> None:
        path, task, lock = handle
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump({**task, "result": "ok"}, file)
        os.rename(f"{path}.new", f"{self.path}/completed/{os.path.basename(path)}")
        os.unlink(path)
        lock.release()

    def recover(self) -> str:
        return "left in processing/"
