"""One look for all who ask."""

import asyncio
import threading

import pytest

from swarm.http.cached import Cache


def test_ten_who_ask_at_once_cause_one_look_and_failures_are_not_kept():
    looks = []
    go_on = threading.Event()

    def look():
        looks.append(1)
        assert go_on.wait(60)
        if len(looks) == 2:
            raise OSError("no disk")
        return len(looks)

    async def scene():
        cache = Cache(look, fresh_s=3600)
        asked = [asyncio.create_task(cache.get()) for _ in range(10)]
        await asyncio.sleep(0)
        asked.pop().cancel()  # one goes away
        go_on.set()
        assert {found.value for found in await asyncio.gather(*asked)} == {1}
        assert (await cache.get()).value == 1
        with pytest.raises(OSError, match="no disk"):
            await cache.get(fresh_s=0)
        assert (await cache.get(fresh_s=0)).value == 3

    asyncio.run(scene())
