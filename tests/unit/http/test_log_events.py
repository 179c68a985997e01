"""Logs that are followed: what a client is not sent it is told of."""

import asyncio
import logging
import threading
from types import SimpleNamespace

from swarm.http.jobs import log_events
from swarm.http.jobs.log_events import LogEvents


class Connection:
    """A client of a stream that reads all."""

    def __init__(self) -> None:
        self.got = b""
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.got += message.get("body", b"")

    async def until(self, words: str) -> None:
        async with asyncio.timeout(60):
            while words.encode() not in self.got:
                await asyncio.sleep(0.001)

    def kinds(self) -> list[str]:
        return [line.removeprefix("event: ") for line in self.got.decode().splitlines() if line.startswith("event: ")]


def test_what_is_not_kept_while_the_history_is_read_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(log_events, "EVERY_S", 0.01)
    monkeypatch.setattr(log_events, "MOST_AT_ONCE", 2)
    log = tmp_path / "logs" / "worker-1.log"
    log.parent.mkdir()
    log.touch()
    reading, read = threading.Event(), threading.Event()

    def history():
        reading.set()
        read.wait(60)
        return ()

    def say(number: int) -> None:
        with log.open("a") as file:
            file.write(f"[2026-11-29T12:00:00.000+00:00] [worker-1] INFO  entry {number}\n")

    async def scene():
        settings = SimpleNamespace(queue=SimpleNamespace(root=str(tmp_path)))
        parts = SimpleNamespace(settings=settings, ending=asyncio.Event(), log=logging.getLogger("tests.logs"))
        logs, slow, quick = LogEvents(parts), Connection(), Connection()

        def opened(connection: Connection, entries) -> asyncio.Task:
            chosen = SimpleNamespace(names=(), wanted=lambda _entry: True, entries=entries)
            return asyncio.create_task(logs.stream(chosen)({}, connection.receive, connection.send))

        streams = [opened(slow, history)]
        await asyncio.to_thread(reading.wait, 60)
        streams.append(opened(quick, tuple))
        await quick.until(": alive")
        for number in range(5):
            say(number)
            await quick.until(f"entry {number}")
        read.set()
        await slow.until("skipped")
        say(5)
        await slow.until("entry 5")
        assert slow.kinds() == ["log", "log", "skipped", "log"]
        assert b'{"entries":3}' in slow.got
        for connection in (slow, quick):
            connection.gone.set()
        await asyncio.gather(*streams)

    asyncio.run(scene())
