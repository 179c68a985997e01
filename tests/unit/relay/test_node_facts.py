"""Looks that are shared, and cards that are called differently on every machine."""

import asyncio
import threading

import pytest

from swarm.relay.node_facts import SharedLook, unique_uuid


def test_a_look_is_shared_until_something_has_changed():
    begun, may_end = [], threading.Event()

    def look():
        begun.append(len(begun))
        assert may_end.wait(60)
        return begun[-1]

    async def story():
        shared = SharedLook("look", look, fresh_s=3600)
        asked = [asyncio.create_task(shared()) for _ in range(3)]
        await asyncio.sleep(0)
        shared.stale()
        later = asyncio.create_task(shared())
        may_end.set()
        assert await asyncio.gather(*asked, later, shared()) == [0, 0, 0, 1, 1]
        shared.close()

    asyncio.run(story())


def test_a_look_that_fails_is_not_remembered():
    answers = iter([OSError("the driver hangs"), 7])

    def look():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def story():
        shared = SharedLook("look", look, fresh_s=3600)
        with pytest.raises(OSError, match="hangs"):
            await shared()
        assert await shared() == 7
        shared.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("uuid", "simulated", "known"),
    [("GPU-1234", False, "GPU-1234"), ("3", False, "box2/3"), ("SIM-GPU-0", True, "box2/SIM-GPU-0")],
)
def test_a_card_without_a_name_of_its_own_is_called_after_its_node(uuid, simulated, known):
    assert unique_uuid("box2", uuid, simulated=simulated) == known
