"""A card of another machine, read through the relay there. Fits ``GpuReader``: bounded, and nothing raises.

* A machine that does not answer gives a reading with ``fault``; ``AnsweredCards`` leaves those out, for who judges cards:
  the card of a lost machine is not a lost card.
* What the worker was planned by is compared with each answer: another card or engine there is another worker here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.nodes.relay_wire import CardState
from swarm.engines.remote.relay_calls import RelayCalls


class RemoteCards:
    """One card. Thread-safe: looks come one after the other."""

    def __init__(
        self,
        calls: RelayCalls,
        card: CardState,
        on_change: Callable[[str], None] = lambda _what: None,
        *,
        node: str,
    ) -> None:
        """``card``: as it is known here. ``on_change`` is called once, with what is another there now."""
        self._calls = calls
        self._first = card
        self._on_change = on_change
        self._node = node
        self._looking = threading.Lock()
        self._changed = ""
        self.card = card
        """As the relay told it last."""
        self.latest = self._readings(card, None)
        """Its readings, as of the last look."""
        self.answered = True
        """The last look was answered."""

    def read(self) -> tuple[GpuReading, ...]:
        """The card now."""
        with self._looking:
            fault = None
            try:
                self._look()
            except TaskFault as problem:
                fault = problem
            self.answered = fault is None
            self.latest = self._readings(self.card, fault)
            return self.latest

    def pids(self) -> frozenset[int]:
        """Processes of its server, on that machine, as of the last look."""
        return frozenset(self.card.pids)

    def _look(self) -> None:
        self.card = self._calls.state()
        changed = changes(self._first, self.card)
        if changed and not self._changed:
            self._changed = changed
            self._on_change(changed)

    def _readings(self, card: CardState, fault: TaskFault | None) -> tuple[GpuReading, ...]:
        bare = GpuReading(
            index=card.index, uuid=card.uuid, name=card.name, simulated=card.simulated, memory_total_mib=card.vram_mib
        )
        found = card.readings or (bare,)
        if fault is not None:
            found = (msgspec.structs.replace(bare, fault=fault.message, unreached=True),)
        return tuple(msgspec.structs.replace(one, node=self._node) for one in found)


class AnsweredCards:
    """The same card for who judges it: no reading at all while its machine does not answer."""

    def __init__(self, cards: RemoteCards) -> None:
        self._cards = cards

    def read(self) -> tuple[GpuReading, ...]:
        """The card now."""
        found = self._cards.read()
        return found if self._cards.answered else ()


def changes(before: CardState, now: CardState) -> str:
    """What of it a worker was planned by and is another now, in words; empty: nothing."""
    facts = {
        "card": (before.uuid, now.uuid),
        "index": (before.index, now.index),
        "memory": (before.vram_mib, now.vram_mib),
        "engines": (", ".join(before.engines), ", ".join(now.engines)),
        "simulated": (before.simulated, now.simulated),
        "slots": (_set_slots(before), _set_slots(now)),
    }
    return "; ".join(f"{name} was {old}, is {new}" for name, (old, new) in facts.items() if old != new)


def _set_slots(card: CardState) -> str:
    return str(card.slots) if card.slots_set else "not set"
