"""A server that was there first sees the cards of a swarm that starts later, or again with others."""

import asyncio

from swarm.config.settings import QueueSettings, Settings
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.http.look import SwarmObserver
from swarm.queue.file_queue import FileQueue
from swarm.supervisor.state import save_plan


def plan(root, cards):
    plans = (
        WorkerPlan(name=f"worker-{i + 1}", gpus=(i,), gpu_uuids=(f"SIM-GPU-{i}",), simulated=True) for i in range(cards)
    )
    save_plan(root / "workers", tuple(plans))


def test_cards_are_those_of_the_plan_that_stands_now(tmp_path):
    FileQueue(str(tmp_path)).prepare()
    plan(tmp_path, 1)

    async def seen():
        observer = SwarmObserver(Settings(queue=QueueSettings(root=str(tmp_path))))
        for cards in (1, 3, 2):
            plan(tmp_path, cards)
            yield [card.index for card in (await observer.look(0)).value.status.cards]

    async def everything():
        return [cards async for cards in seen()]

    assert asyncio.run(everything()) == [[0], [0, 1, 2], [0, 1]]
