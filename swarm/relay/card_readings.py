"""Facts about the cards of a node, looked up once for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import msgspec

from swarm.core.gpu_reading import GpuReading

T = TypeVar("T")


class SharedLook(Generic[T]):
    """Runs a blocking look on one thread of its own, for one event loop.

    Each answer was looked up after it was asked for; all who asked meanwhile share it.
    """

    def __init__(self, name: str, look: Callable[[], T]) -> None:
        self._look = look
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._next: asyncio.Task[T] | None = None
        self._lock = asyncio.Lock()

    async def __call__(self) -> T:
        """The answer. Raises what the look raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._next.add_done_callback(lambda one: one.cancelled() or one.exception())  # all may have hung up
        return await asyncio.shield(self._next)

    async def _run(self) -> T:
        async with self._lock:
            self._next = None  # whoever asks from now on wants a later look
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._look)

    def close(self) -> None:
        """End the thread once its look has ended."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def unique_uuid(node: str, uuid: str, *, simulated: bool) -> str:
    """A card's name over all machines: its own UUID, or one with its node where the driver tells none."""
    return f"{node}/{uuid}" if simulated or uuid.isdecimal() else uuid


def of_node(node: str, cards: Sequence[GpuReading]) -> tuple[GpuReading, ...]:
    """These readings as other machines see them."""
    return tuple(
        msgspec.structs.replace(card, node=node, uuid=unique_uuid(node, card.uuid, simulated=card.simulated))
        for card in cards
    )
