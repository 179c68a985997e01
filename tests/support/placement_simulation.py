"""Placement judged by its outcome: a discrete-event simulation of cards that load, claim and run tasks, one slot each.

``Swarm`` is driven by the real ``decide``, once per tick, as a brain would; the other policies are what one would write
without it. All times are simulated seconds; equal input gives equal output.
"""

from __future__ import annotations

import heapq
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from unittest import mock

import msgspec

from swarm.config.settings import Settings
from swarm.core.placement import placement
from swarm.core.placement.eta import work_eta_s
from swarm.core.placement.speeds import DEFAULT_TASK_S, Speeds
from swarm.core.policy.decide import decide
from swarm.core.policy.decisions import LoadModel, Warn, WithdrawResource
from swarm.core.snapshot import ClaimView, LaneView, ResourceTask, SwarmSnapshot, WorkerView
from swarm.core.worker import ModelTally
from tests.support.builders import a_claim, a_snapshot, a_worker, llm_waiting, resource_waiting

MODELS = ("a:1", "b:1", "c:1")
LOAD_S = 5.0
TICK_S = 1.0
LONGEST_S = 20_000.0
TOKENS_PER_S = 100
"""Of a card of speed 1: a task that takes longer generates more."""


class Arrival(msgspec.Struct, frozen=True):
    """A task that comes at ``when_s`` and takes ``seconds`` of one slot."""

    when_s: float
    model: str
    seconds: float


class Order(msgspec.Struct, frozen=True):
    """A load task that lies in its card's lane."""

    task_id: str
    model: str


@dataclass
class SimCard:
    """One card with its worker."""

    name: str
    model: str | None = None
    since_s: float = 0.0
    loading: Order | None = None
    running: str | None = None
    """The model of the task it runs."""
    ordered: Order | None = None
    resource_seq: int = 0
    speed: float = 1.0
    """So many times as fast as the tasks' seconds say."""
    learned: dict[str, ModelTally] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """It loads or runs."""
        return self.loading is not None or self.running is not None


class Sim(ABC):
    """Cards, arrivals and a clock; a policy says what a free card does next. ``run`` ends when all tasks are done.

    ``cards``: their number, or the speed of each.
    """

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        *,
        cards: int | Sequence[float] = 8,
        load_s: float = LOAD_S,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.load_s = load_s
        self.now = 0.0
        self.cards = [SimCard(f"worker-{n}", speed=speed) for n, speed in enumerate(speeds_of(cards), 1)]
        self.models = tuple(sorted({a.model for a in arrivals}))
        self.queue: dict[str, deque[Arrival]] = {m: deque() for m in self.models}
        self.waits = dict.fromkeys(self.models, 0.0)
        """The longest that a task of each model waited."""
        self.loads = 0
        self._left = len(arrivals)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for arrival in arrivals:
            self.at(arrival.when_s, self._arrive(arrival))

    def tick(self) -> None:  # noqa: B027 - a policy without a brain does nothing here
        """Once per ``TICK_S``."""

    @abstractmethod
    def next_act(self, card: SimCard) -> None:
        """Give a free card something to do, through ``start_load`` or ``start_task``, or nothing."""

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        """Do something then."""
        self._count += 1
        heapq.heappush(self._events, (when_s, self._count, act))

    def run(self) -> float:
        """Seconds until the last task was done."""
        self.at(0.0, self._tick)
        while self._left:
            self.now, _, act = heapq.heappop(self._events)
            if self.now > LONGEST_S:
                raise RuntimeError(f"{self._left} tasks are not done after {LONGEST_S:.0f} s")
            act()
            for card in self.cards:
                if not card.busy:
                    self.next_act(card)
        return self.now

    def start_load(self, card: SimCard, order: Order) -> None:
        """The card is busy with it for ``load_s``; what it held is gone."""
        card.loading, card.ordered, card.model = order, None, None
        self.loads += 1
        self.at(self.now + self.load_s, lambda: self._loaded(card, order))

    def start_task(self, card: SimCard, arrival: Arrival) -> None:
        """The card is busy with it."""
        card.running = arrival.model
        self.waits[arrival.model] = max(self.waits[arrival.model], self.now - arrival.when_s)
        self.at(self.now + arrival.seconds / card.speed, lambda: self._done(card, arrival))

    def _arrive(self, arrival: Arrival) -> Callable[[], None]:
        return lambda: self.queue[arrival.model].append(arrival)

    def _tick(self) -> None:
        self.tick()
        self.at(self.now + TICK_S, self._tick)

    def _loaded(self, card: SimCard, order: Order) -> None:
        card.model, card.loading, card.since_s = order.model, None, self.now
        card.resource_seq += 1
        known = card.learned.get(order.model, ModelTally())
        card.learned[order.model] = msgspec.structs.replace(known, loads=known.loads + 1, load_s=known.load_s + self.load_s)

    def _done(self, card: SimCard, arrival: Arrival) -> None:
        card.running = None
        self._left -= 1
        known = card.learned.get(arrival.model, ModelTally())
        card.learned[arrival.model] = msgspec.structs.replace(
            known,
            completed=known.completed + 1,
            busy_s=known.busy_s + arrival.seconds / card.speed,
            tokens_out=known.tokens_out + round(arrival.seconds * TOKENS_PER_S),
        )


class Swarm(Sim):
    """The real thing: ``decide`` orders loads, workers obey them and else run what suits the model they hold."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        *,
        cards: int | Sequence[float] = 8,
        load_s: float = LOAD_S,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(arrivals, cards=cards, load_s=load_s, settings=settings)
        self._unserved = dict.fromkeys(self.models, 0.0)
        self.etas: list[tuple[float, float | None]] = []
        """At each tick: when, and the seconds that the rest was expected to take."""

    def tick(self) -> None:
        """One turn of the brain."""
        self.etas.append((self.now, work_eta_s(self.snapshot(), self.settings)))
        for model in self.models:
            if not self.queue[model] or any(c.model == model for c in self.cards):
                self._unserved[model] = self.now
        by_name = {card.name: card for card in self.cards}
        for decision in decide(self.snapshot(), self.settings):
            match decision:
                case LoadModel():
                    by_name[decision.worker].ordered = Order(decision.task_id, decision.model)
                case WithdrawResource():
                    by_name[decision.worker].ordered = None
                case Warn():
                    continue
                case _:
                    raise AssertionError(f"nothing here calls for {decision}")

    def next_act(self, card: SimCard) -> None:
        """A load that was ordered, else a task of the model it holds."""
        if card.ordered is not None:
            self.start_load(card, card.ordered)
        elif card.model is not None and self.queue[card.model]:
            self.start_task(card, self.queue[card.model].popleft())

    def snapshot(self) -> SwarmSnapshot:
        """What an observer would see now."""
        workers: list[WorkerView] = []
        lanes: list[LaneView] = []
        claims: list[ClaimView] = []
        for card in self.cards:
            held_s = self.now - card.since_s
            workers.append(
                a_worker(
                    card.name,
                    holding=card.model,
                    held_s=held_s,
                    resource_seq=card.resource_seq,
                    learned=dict(card.learned),
                )
            )
            if card.ordered is not None:
                order = card.ordered
                task = ResourceTask(task_id=order.task_id, worker=card.name, model=order.model, epoch=1)
                lanes.append(resource_waiting(card.name, task))
            if card.loading is not None:
                load = card.loading
                claims.append(a_claim(load.task_id, worker=card.name, task_class="resource", model=load.model))
            elif card.running is not None:
                claims.append(a_claim(f"t-{card.name}", worker=card.name, model=card.running))
        waiting = [(m, len(tasks)) for m, tasks in self.queue.items() if tasks]
        lanes += [llm_waiting(number, m, unserved_s=self.now - self._unserved[m]) for m, number in waiting]
        return a_snapshot(workers=workers, lanes=lanes, claims=claims)


class Alike(Speeds):
    """What a swarm would take its cards for that learns one mean per model."""

    def task_s(self, worker: str, model: str) -> float:
        return self._base.get(model, DEFAULT_TASK_S)


class OneMean(Swarm):
    """The same, were all cards taken for equal."""

    def tick(self) -> None:
        """One turn of the brain."""
        with mock.patch.object(placement, "speeds", lambda snapshot: Alike(snapshot.workers)):
            super().tick()


class FirstCome(Sim):
    """A free card takes the oldest task there is and loads what it needs, as a plain queue in front of servers does."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        *,
        cards: int | Sequence[float] = 8,
        load_s: float = LOAD_S,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(arrivals, cards=cards, load_s=load_s, settings=settings)
        self._number = {id(arrival): n for n, arrival in enumerate(arrivals)}
        self._taken: dict[str, Arrival] = {}

    def next_act(self, card: SimCard) -> None:
        """The task it took and loaded for, else the head of the line."""
        mine = self._taken.pop(card.name, None) or self._oldest()
        if mine is None:
            return
        if card.model == mine.model:
            self.start_task(card, mine)
        else:
            self._taken[card.name] = mine
            self.start_load(card, Order("-", mine.model))

    def _oldest(self) -> Arrival | None:
        heads = [tasks for tasks in self.queue.values() if tasks]
        return min(heads, key=lambda tasks: self._number[id(tasks[0])]).popleft() if heads else None


class RoundRobin(Sim):
    """Models are dealt to cards in turn, once; a card serves its model for ever."""

    def next_act(self, card: SimCard) -> None:
        """Load the model dealt, then run what waits for it."""
        dealt = self.models[self.cards.index(card) % len(self.models)]
        if card.model is None:
            self.start_load(card, Order("-", dealt))
        elif self.queue[dealt]:
            self.start_task(card, self.queue[dealt].popleft())


def speeds_of(cards: int | Sequence[float]) -> Sequence[float]:
    """The speed of each card; a number stands for so many equal ones."""
    return [1.0] * cards if isinstance(cards, int) else cards


def lower_bound_s(arrivals: Sequence[Arrival], *, cards: int | Sequence[float] = 8, load_s: float = LOAD_S) -> float:
    """Nobody can be done sooner: all work spread by speed, after one load."""
    return sum(a.seconds for a in arrivals) / sum(speeds_of(cards)) + load_s


def skewed(seed: int, weights: Sequence[float], count: int = 600, *, when_s: float = 0.0) -> list[Arrival]:
    """``count`` tasks of 0.5 to 2 s, all there at ``when_s``, their models drawn by weight."""
    rng = random.Random(seed)
    return [Arrival(when_s, rng.choices(MODELS, weights)[0], rng.uniform(0.5, 2.0)) for _ in range(count)]


def shifting(
    seed: int, first: Sequence[float], second: Sequence[float], count: int = 600, *, overlap: float = 0.5, cards: float = 8
) -> list[Arrival]:
    """Half of the tasks by ``first``; the others, by ``second``, come when that share of the first half could be done.

    ``cards``: their number, or the sum of their speeds.
    """
    early = skewed(seed, first, count // 2)
    when_s = overlap * sum(a.seconds for a in early) / cards
    return [*early, *skewed(seed + 10_000, second, count - count // 2, when_s=when_s)]


def streams(seed: int, *, until_s: float = 240.0) -> list[Arrival]:
    """Work that keeps coming: every model at a pace of its own, and now and then a batch of one of them."""
    rng = random.Random(seed)
    arrivals: list[Arrival] = []
    for model in MODELS:
        pace_per_s, when_s = rng.uniform(0.3, 3.5), 0.0
        while when_s < until_s:
            when_s += rng.expovariate(pace_per_s)
            arrivals.append(Arrival(when_s, model, rng.uniform(0.5, 1.5)))
    for _ in range(3):
        when_s, model = rng.uniform(0.0, until_s), rng.choice(MODELS)
        arrivals += [Arrival(when_s, model, rng.uniform(0.5, 2.0)) for _ in range(rng.randint(20, 200))]
    return sorted(arrivals, key=lambda a: a.when_s)
