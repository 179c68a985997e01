"""One download of a model per node, shared by all that ask for it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import PullStep
from swarm.relay.shared_pulls import WAITS, SharedPulls

STEP = PullStep(status="half of it")


class Download:
    """Fits ``Fetch``: it ends once it is told to, or cancelled."""

    def __init__(self):
        self.begun = 0
        self.end = threading.Event()

    def __call__(self, say, cancel):
        self.begun += 1
        cancel.on_cancel(self.end.set)
        say(STEP)
        assert self.end.wait(60)
        if cancel.reason:
            raise TaskFault("cancelled", cancel.reason, "cancelled")


async def until(true):
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


def test_all_that_ask_share_one_and_hear_its_steps(tmp_path):
    async def story():
        pulls, fetch, first, second = SharedPulls(tmp_path), Download(), [], []
        one = asyncio.create_task(pulls.pull("m", fetch, first.append))
        await until(lambda: first)
        two = asyncio.create_task(pulls.pull("m:latest", fetch, second.append))
        await until(lambda: second)
        fetch.end.set()
        await asyncio.gather(one, two)
        assert (fetch.begun, first, second) == (1, [STEP], [STEP])
        fetch.end.clear()
        three = asyncio.create_task(pulls.pull("m", fetch, first.append))
        await until(lambda: fetch.begun == 2)
        fetch.end.set()
        await three

    asyncio.run(story())


def test_many_downloads_leave_the_threads_of_requests_free(tmp_path):
    """Names are looked up, and connections made, on the loop's own threads: a few on a small machine."""

    async def story():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        pulls, fetch = SharedPulls(tmp_path), Download()
        asked = [asyncio.create_task(pulls.pull(f"m:{n}", fetch, lambda _: None)) for n in range(4)]
        await until(lambda: fetch.begun == 4)
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(lambda: "free") == "free"
        fetch.end.set()
        await asyncio.gather(*asked)

    asyncio.run(story())


def test_it_goes_on_while_anybody_waits_and_is_given_up_after_that(tmp_path):
    async def story():
        pulls, fetch = SharedPulls(tmp_path), Download()
        one, two = (asyncio.create_task(pulls.pull("m:1", fetch, lambda _: None)) for _ in range(2))
        await until(lambda: fetch.begun)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert not fetch.end.is_set()
        two.cancel()
        await until(fetch.end.is_set)

    asyncio.run(story())


def test_relays_of_one_root_wait_for_one_another(tmp_path):
    async def story():
        fetch, steps = Download(), []
        one = asyncio.create_task(SharedPulls(tmp_path).pull("m:1", fetch, lambda _: None))
        await until(lambda: fetch.begun)
        two = asyncio.create_task(SharedPulls(tmp_path).pull("m:1", fetch, steps.append))
        await until(lambda: steps)
        assert (steps[0], fetch.begun) == (WAITS, 1)
        fetch.end.set()
        await asyncio.gather(one, two)
        assert fetch.begun == 2, "a second download finds all of it there"

    asyncio.run(story())


def test_a_fault_reaches_all_that_ask(tmp_path):
    def fail(_say, _cancel):
        raise TaskFault("deterministic", "model_missing", "no such model")

    async def story():
        pulls = SharedPulls(tmp_path)
        ends = await asyncio.gather(*(pulls.pull("m:1", fail, lambda _: None) for _ in range(2)), return_exceptions=True)
        assert [end.kind for end in ends] == ["model_missing", "model_missing"]

    asyncio.run(story())
