"""Event streams: the same bytes to all, a client that does not read is dropped, all end with the server."""

import asyncio

import pytest

from swarm.http.answers import ApiError
from swarm.http.jobs.fan_out import HEARTBEAT, EventStream, FanOut, event


async def idle() -> None:
    await asyncio.Event().wait()


async def nothing(_subscriber):
    return ()


class Connection:
    """A client of a stream; it takes nothing while ``reads`` is not set."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.whole = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await self.reads.wait()
        if message["type"] == "http.response.body":
            self.got.append(message["body"])
            self.whole = not message["more_body"]

    def opened(self, fan_out: FanOut) -> asyncio.Task:
        return asyncio.create_task(EventStream(fan_out, nothing)({}, self.receive, self.send))


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def test_everybody_gets_the_same_bytes_and_who_does_not_read_is_dropped():
    async def scene():
        fan_out = FanOut(idle, ending=asyncio.Event(), most=10, backlog=3)
        good, bad = Connection(), Connection()
        streams = [good.opened(fan_out), bad.opened(fan_out)]
        await until(lambda: good.got == bad.got == [HEARTBEAT])
        bad.reads.clear()
        sent = [event("n", {"n": n}) for n in range(6)]
        for data in sent:
            fan_out.publish(data)
            await until(lambda data=data: good.got[-1] is data)
        await streams[1]  # it has ended although its client takes nothing
        assert (fan_out.dropped, len(fan_out), bad.whole) == (1, 1, False)
        good.gone.set()
        await streams[0]
        assert good.got[1:-1] == sent
        assert len(fan_out) == 0

    asyncio.run(scene())


def test_they_end_whole_when_the_server_ends():
    async def scene():
        ending = asyncio.Event()
        fan_out = FanOut(idle, ending=ending, most=10)
        connection = Connection()
        stream = connection.opened(fan_out)
        await until(lambda: connection.got == [HEARTBEAT])
        ending.set()
        await stream
        assert connection.whole

    asyncio.run(scene())


def test_there_is_room_for_so_many_and_no_work_without_any():
    async def scene():
        running = []

        async def work():
            running.append(1)
            try:
                await idle()
            finally:
                running.pop()

        fan_out = FanOut(work, ending=asyncio.Event(), most=1)
        fan_out.check_room()
        connection = Connection()
        stream = connection.opened(fan_out)
        await until(lambda: running)
        with pytest.raises(ApiError) as refused:
            fan_out.check_room()
        assert refused.value.status == 429
        connection.gone.set()
        await stream
        await until(lambda: not running)

    asyncio.run(scene())
