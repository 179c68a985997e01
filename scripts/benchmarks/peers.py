# ruff: noqa: ARG002  (an adapter may have no use for what it is told)
"""Python packages that keep a queue in files, each driven the way its own documentation does."""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.adapter import Adapter
from benchmarks.plain import Beanstalkd, Naive, Sqlite, SqliteFull, SqliteFullTurn


class HueySqlite(Adapter):
    name, sync, durability, needs = "huey SQLite", "fsync", "fsync", "huey"
    waits = "polls, 0.1 s growing to 10 s"

    def open(self, consumer: int = 0) -> None:
        from huey.storage import SqliteStorage  # noqa: PLC0415

        self.store = SqliteStorage("q", f"{self.path}/huey.db")

    def put(self, task: dict[str, Any]) -> None:
        self.store.enqueue(json.dumps(task).encode())

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        with self.store.db(commit=True) as cursor:
            rows = (("q", json.dumps(t).encode(), 0) for t in tasks)
            cursor.executemany("insert into task (queue, data, priority) values (?, ?, ?)", rows)

    def claim(self) -> tuple[str, Any] | None:
        data = self.store.dequeue()
        return None if data is None else (json.loads(data)["name"], None)


class HueyFile(HueySqlite):
    name, sync, durability = "huey files", "none", "none"

    def open(self, consumer: int = 0) -> None:
        from huey.storage import FileStorage  # noqa: PLC0415

        self.store = FileStorage("q", self.path)

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        folder = self.store.queue_path
        os.makedirs(folder, exist_ok=True)
        first = int(time.time() * 1000) - 100_000_000
        for number, task in enumerate(tasks):
            with open(f"{folder}/ffff-{first + number:012x}", "wb") as file:
                file.write(json.dumps(task).encode())


class PersistAck(Adapter):
    name, sync, durability, needs = "persist-queue SQLiteAckQueue", "fsync", "fsync", "persistqueue"
    waits = "10 s between processes"
    poll_s = 10.0

    def open(self, consumer: int = 0) -> None:
        persistqueue = importlib.import_module("persistqueue")
        self.empty = persistqueue.exceptions.Empty
        self.store = persistqueue.SQLiteAckQueue(self.path, multithreading=True, auto_resume=True)

    def put(self, task: dict[str, Any]) -> None:
        self.store.put(task)

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        pack = self.store._serializer.dumps
        with self.store._putter as db:
            db.executemany(self.store._sql_insert, ((pack(t), time.time()) for t in tasks))

    def claim(self) -> tuple[str, Any] | None:
        try:
            row = self.store.get(block=False, raw=True)
        except self.empty:
            return None
        return row["data"]["name"], row["pqid"]

    def ack(self, handle: Any) -> None:
        self.store.ack(id=handle)

    def recover(self) -> str:
        return "back at the next open, with the tasks of the living"


class LiteQueue(Adapter):
    name, durability, needs, waits = "litequeue", "none (WAL)", "litequeue", "none of its own; 0.1 s"

    def open(self, consumer: int = 0) -> None:
        self.store = importlib.import_module("litequeue").LiteQueue(f"{self.path}/q.db", timeout=60)

    def put(self, task: dict[str, Any]) -> None:
        self.store.put(json.dumps(task))

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        with self.store.transaction():
            for task in tasks:
                self.store.put(json.dumps(task))

    def claim(self) -> tuple[str, Any] | None:
        message = self.store.pop()
        return None if message is None else (json.loads(message.data)["name"], message.message_id)

    def ack(self, handle: Any) -> None:
        self.store.done(handle)

    def recover(self) -> str:
        for message in list(self.store.list_locked(0)):
            self.store.retry(message.message_id)
        return "stuck until a sweep by hand"


class Diskcache(Adapter):
    name, durability, needs, waits = "diskcache Deque", "none (WAL)", "diskcache", "none of its own; 0.1 s"

    def open(self, consumer: int = 0) -> None:
        self.store = importlib.import_module("diskcache").Deque(directory=self.path)

    def put(self, task: dict[str, Any]) -> None:
        self.store.append(json.dumps(task))

    def fill(self, tasks: Iterable[dict[str, Any]]) -> None:
        with self.store.transact():
            for task in tasks:
                self.put(task)

    def claim(self) -> tuple[str, Any] | None:
        try:
            return json.loads(self.store.popleft())["name"], None
        except IndexError:
            return None


PEERS = (Sqlite, SqliteFull, SqliteFullTurn, HueySqlite, HueyFile, PersistAck, LiteQueue, Diskcache, Beanstalkd, Naive)
