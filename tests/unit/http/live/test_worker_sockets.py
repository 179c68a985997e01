"""Connections to a worker: what one that fails does to the others."""

import asyncio
import errno
import os

import pytest

from swarm.http.live.live_ask import LiveAsk
from swarm.http.live.worker_sockets import NotTaken, WorkerSockets
from tests.helpers.fake_live_worker import MODEL, Say, chat_lines

CONNECT = "create_unix_connection"
WORKER = "worker-1"


def ask(sockets):
    one = LiveAsk(id="a", client="me", endpoint="/api/chat", request={"model": MODEL}, model=MODEL)
    return sockets.ask(WORKER, 1, one, timeout_s=60.0, ended=lambda: None)


async def rest_of(stream):
    found = []
    while pieces := await stream.pieces():
        found += pieces
    return found


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN])
def test_a_connection_that_this_machine_cannot_make_ends_no_answer(bench, number):
    async def scene():
        sockets = WorkerSockets(bench.queue.layout)
        stream = await ask(sockets)
        assert (await stream.pieces())[0].document["message"]["content"] == "one "

        async def failing(*_args, **_more):
            raise OSError(number, os.strerror(number))

        loop = asyncio.get_running_loop()
        connect = getattr(loop, CONNECT)
        setattr(loop, CONNECT, failing)
        with pytest.raises(NotTaken):
            await ask(sockets)
        setattr(loop, CONNECT, connect)
        worker.let_go.set()
        assert (await rest_of(stream))[-1].document["done"]
        stream.close()
        again = await ask(sockets)
        assert (await rest_of(again))[-1].document["done"]
        again.close()
        await sockets.close()

    with bench.worker(WORKER).running() as worker:
        worker.script.append(Say(chat_lines("one ", "two"), holds=True))
        asyncio.run(scene())
