"""Live requests and batch work on the same cards, in simulated time, placed by the real ``decide``.

A card has one slot. A live request goes before batch work there: the task it finds running begins again later. So does one
that is in the way of a load for live requests. Clients give up after ``live.max_wait_s``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from swarm.brain.observe import Wanted
from swarm.config.settings import Settings
from swarm.core.live.demand import KEPT_S
from swarm.core.policy.decide import decide
from swarm.core.policy.decisions import LoadModel, WithdrawResource
from swarm.core.snapshot import ClaimView, LaneView, LiveView, ResourceTask, SwarmSnapshot
from swarm.core.worker import LivePlaces, ModelTally
from tests.support.builders import a_claim, a_snapshot, a_worker, llm_waiting, resource_waiting

TICK_S = 1.0


class Request(msgspec.Struct, frozen=True):
    """One whose client asks at ``when_s`` and which takes ``seconds``."""

    when_s: float
    model: str
    seconds: float


@dataclass
class LiveCard:
    """One card with its worker."""

    name: str
    model: str | None = None
    since_s: float = 0.0
    load: LoadModel | None = None
    """It waits, or is under way."""
    loading: bool = False
    task: str | None = None
    """The model of the batch task that runs."""
    request: Request | None = None
    free_at_s: float = 0.0
    """When what runs, or loads, ends."""
    seq: int = 0


class LiveWorld:
    """``batch``: waiting tasks by model, each of ``task_s``."""

    def __init__(
        self,
        requests: Sequence[Request],
        *,
        cards: int = 1,
        batch: dict[str, int] | None = None,
        task_s: float = 2.0,
        load_s: float = 10.0,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.now = 0.0
        self.cards = [LiveCard(f"worker-{n}") for n in range(1, cards + 1)]
        self.batch = dict(batch or {})
        self.done: dict[str, list[float]] = {model: [] for model in self.batch}
        """When each batch task was done."""
        self.served: list[tuple[Request, float]] = []
        """Live requests and how long each waited for its start."""
        self.refused: list[Request] = []
        self.loads: list[tuple[float, str, str]] = []
        """When a load began, on which card, of which model."""
        self.yielded = 0
        self._task_s, self._load_s = task_s, load_s
        self._coming = sorted(requests, key=lambda r: (r.when_s, r.model))
        self._waiting: list[Request] = []
        self._wanted = Wanted(self.settings.brain.max_wait_s)
        self._busy_s: dict[str, float] = {}
        self._unserved = dict.fromkeys(self.batch, 0.0)

    def run(self, until_s: float) -> None:
        """Tick by tick; what ends in between is followed at once by what waits."""
        ticks = int(until_s / TICK_S)
        for tick in range(ticks):
            end_s = tick * TICK_S
            while (next_s := min((c.free_at_s for c in self.cards if self._acts(c)), default=end_s)) < end_s:
                self.now = max(self.now, next_s)
                self._end()
                self._start()
            self.now = end_s
            self._end()
            self._arrive()
            self._start()
            self._tick()
            self._start()

    def _acts(self, card: LiveCard) -> bool:
        return card.loading or card.task is not None or card.request is not None

    def _end(self) -> None:
        for card in self.cards:
            if not self._acts(card) or card.free_at_s > self.now:
                continue
            if card.loading and card.load is not None:
                card.model, card.since_s, card.load, card.loading = card.load.model, self.now, None, False
                card.seq += 1
            elif card.request is not None:
                card.request = None
            elif card.task is not None:
                self.done[card.task].append(self.now)
                card.task = None

    def _arrive(self) -> None:
        while self._coming and self._coming[0].when_s <= self.now:
            self._waiting.append(self._coming.pop(0))
        late = [r for r in self._waiting if self.now - r.when_s > self.settings.live.max_wait_s]
        self.refused += late
        self._waiting = [r for r in self._waiting if r not in late]

    def _start(self) -> None:
        for card in self.cards:
            if card.load is not None and not card.loading:
                self._begin_load(card)
            if card.load is None and card.request is None:
                self._begin(card)

    def _begin_load(self, card: LiveCard) -> None:
        assert card.load is not None
        if card.task is not None and card.load.live:
            self._yield(card)
        if card.task is None and card.request is None:
            card.loading, card.model, card.free_at_s = True, None, self.now + self._load_s
            self.loads.append((self.now, card.name, card.load.model))

    def _begin(self, card: LiveCard) -> None:
        mine = next((r for r in self._waiting if r.model == card.model), None)
        if mine is not None:
            self._yield(card)
            self._waiting.remove(mine)
            self.served.append((mine, self.now - mine.when_s))
            card.request, card.free_at_s = mine, self.now + mine.seconds
        elif card.task is None and card.model is not None and self.batch.get(card.model):
            self.batch[card.model] -= 1
            card.task, card.free_at_s = card.model, self.now + self._task_s

    def _yield(self, card: LiveCard) -> None:
        if card.task is not None:
            self.batch[card.task] += 1
            self.yielded += 1
            card.task = None

    def _tick(self) -> None:
        by_name = {card.name: card for card in self.cards}
        for decision in decide(self.snapshot(), self.settings):
            if isinstance(decision, LoadModel):
                by_name[decision.worker].load = decision
            elif isinstance(decision, WithdrawResource):
                by_name[decision.worker].load = None

    def snapshot(self) -> SwarmSnapshot:
        """What the brain's observer would see now."""
        lanes: list[LaneView] = []
        claims: list[ClaimView] = []
        for card in self.cards:
            if card.load is not None and card.loading:
                load = card.load
                claims.append(a_claim(load.task_id, worker=card.name, task_class="resource", model=load.model))
            elif card.load is not None:
                load = card.load
                task = ResourceTask(task_id=load.task_id, worker=card.name, model=load.model, epoch=1, live=load.live)
                lanes.append(resource_waiting(card.name, task))
            if card.task is not None:
                claims.append(a_claim(f"t-{card.name}", worker=card.name, model=card.task))
        for model, waiting in self.batch.items():
            if not waiting or any(c.model == model for c in self.cards):
                self._unserved[model] = self.now
            elif waiting:
                lanes.append(llm_waiting(waiting, model, unserved_s=self.now - self._unserved[model]))
                continue
            if waiting:
                lanes.append(llm_waiting(waiting, model))
        return a_snapshot(workers=[self._worker(c) for c in self.cards], lanes=lanes, claims=claims, live=self._live())

    def _worker(self, card: LiveCard):
        known = ModelTally(loads=1, load_s=self._load_s, completed=100, busy_s=100 * self._task_s)
        models = {*self.batch, *(r.model for r in self._waiting), *([card.model] if card.model else [])}
        return a_worker(
            card.name,
            holding=card.model,
            held_s=self.now - card.since_s,
            resource_seq=card.seq,
            learned=dict.fromkeys(models, known),
            live=LivePlaces(limit=1, in_flight=int(card.request is not None)),
        )

    def _live(self) -> list[LiveView]:
        found = []
        for model in sorted({r.model for r in self._waiting} | {c.request.model for c in self.cards if c.request}):
            self._busy_s[model] = self.now
            mine = [r for r in self._waiting if r.model == model]
            found.append(
                LiveView(
                    model=model,
                    waiting=len(mine),
                    in_flight=sum(c.request is not None and c.request.model == model for c in self.cards),
                    oldest_s=max((self.now - r.when_s for r in mine), default=0.0),
                    wanted_s=self._wanted.since_s(model, self.now),
                )
            )
        for model, last_s in self._busy_s.items():
            if last_s < self.now and self.now - last_s < KEPT_S:
                found.append(LiveView(model=model, idle_s=self.now - last_s))
        return found
