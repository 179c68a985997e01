"""The slots of a loaded model, each with the text that its context still holds, as llama-server has them.

A request goes to the idle slot that shares the longest beginning with its prompt, if that is above a tenth of the prompt,
else to the one that was used least recently. Who finds all of them busy waits in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from swarm.simulator.made_up_text import CHARS_PER_TOKEN, count_tokens

LEAST_SHARE = 10
"""A beginning counts if more than one in so many characters of the prompt lies in it."""


class Slot:
    """One slot. ``text`` is what its context holds; the counters are those of the request that has it, or had it last."""

    __slots__ = ("busy", "cached", "decoded", "index", "processed", "text")

    def __init__(self, index: int) -> None:
        self.index = index
        self.text = ""
        self.busy = False
        self.cached = self.processed = self.decoded = 0
        """Tokens of the prompt reused and evaluated, and of the answer."""


class SlotPool:
    """All slots of one loaded model."""

    def __init__(self, count: int) -> None:
        self.all = [Slot(index) for index in range(count)]
        self._idle: OrderedDict[int, Slot] = OrderedDict((slot.index, slot) for slot in self.all)
        """Least recently used first."""
        self._waiting: deque[tuple[str, asyncio.Future[Slot]]] = deque()

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._waiting)

    async def acquire(self, prompt: str) -> Slot:
        """A slot for a prompt; give it back with ``release``."""
        if self._idle and not self._waiting:
            return self._take(prompt)
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(future.result())
            raise

    def release(self, slot: Slot, answer: str = "") -> None:
        """End of a request: its slot keeps prompt and answer, and goes to the next who waits."""
        slot.text += answer
        slot.busy = False
        self._idle[slot.index] = slot
        while self._waiting:
            prompt, future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._take(prompt))
                break

    def _take(self, prompt: str) -> Slot:
        slot, shared = self._best(prompt)
        del self._idle[slot.index]
        tokens = count_tokens(prompt)
        # The last token is always evaluated: the answer starts from it.
        slot.cached = min(shared // CHARS_PER_TOKEN, tokens - 1)
        slot.processed = tokens - slot.cached
        slot.decoded = 0
        slot.text = prompt
        slot.busy = True
        return slot

    def _best(self, prompt: str) -> tuple[Slot, int]:
        best, longest = next(iter(self._idle.values())), 0
        if not prompt:
            return best, 0
        least = len(prompt) // LEAST_SHARE + 1
        start = prompt[:least]
        for slot in self._idle.values():
            if slot.text.startswith(start) and (shared := _shared(slot.text, prompt, least)) > longest:
                best, longest = slot, shared
        return best, longest


def _shared(one: str, other: str, known: int) -> int:
    """The length of the longest common beginning, of which ``known`` characters are known to be equal."""
    low, high = known, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
