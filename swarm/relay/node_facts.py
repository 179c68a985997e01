"""Facts about the cards of a node and what serves them, looked up once for all who ask at the same time."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from swarm.core.gpu_reading import GpuReading
from swarm.proc.env_markers import MODEL_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked_values
from swarm.runtime.ports import GpuReader

FRESH_S = 0.5
T = TypeVar("T")


class SharedLook(Generic[T]):
    """Runs a blocking look on one thread of its own, for one event loop.

    Answers are shared: with all who ask while it is looked up, and with those who ask within ``fresh_s`` of its beginning,
    unless they are told to be ``stale`` before.
    """

    def __init__(self, name: str, look: Callable[[], T], *, fresh_s: float = FRESH_S) -> None:
        self._look = look
        self._fresh_s = fresh_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._last: asyncio.Task[T] | None = None
        self._began_s = float("-inf")

    async def __call__(self) -> T:
        """The answer. Raises what the look raises."""
        now_s = time.monotonic()
        if self._last is None or now_s - self._began_s > self._fresh_s:
            self._began_s = now_s
            self._last = asyncio.create_task(self._run())
            self._last.add_done_callback(lambda one: one.cancelled() or one.exception())  # all may have hung up
        return await asyncio.shield(self._last)

    def stale(self) -> None:
        """Something has changed just now: what was looked up before is told to nobody any more."""
        self._last = None

    async def _run(self) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._look)
        except BaseException:
            self._began_s = float("-inf")
            raise

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


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A node at one moment."""

    readings: tuple[GpuReading, ...]
    pids: dict[str, tuple[int, ...]]
    """By card, of its servers and their runners."""


def node_look(reader: GpuReader, root: Path) -> Callable[[], NodeFacts]:
    """A look at this node, for one thread."""

    def look() -> NodeFacts:
        pids: defaultdict[str, set[int]] = defaultdict(set)
        for marker in (SERVER_MARKER, MODEL_MARKER):
            for process, card in find_marked_values(marker, **{ROOT_MARKER: str(root)}).items():
                pids[card].add(process.pid)
        return NodeFacts(readings=reader.read(), pids={card: tuple(sorted(found)) for card, found in pids.items()})

    return look
