"""Placement judged by its outcome: a small discrete-event simulation of cards that load, claim and run."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from swarm.core.placement import desired
from swarm.core.worker import ModelTally
from swarm.settings import BrainSettings, Settings
from swarm.testing.builders import a_claim, a_snapshot, a_worker, llm_waiting, load_waiting

LOAD_S = 5.0
TICK_S = 1.0
MODELS = ("a:1", "b:1", "c:1")


@dataclass
class SimCard:
    name: str
    model: str | None = None
    since_s: float = 0.0
    doing: str | None = None
    """``load`` or a model while it runs a task of it."""
    ordered: str | None = None
    """Model of a load task that waits."""
    resource_seq: int = 0
    learned: dict[str, ModelTally] = field(default_factory=dict)


class Sim:
    """One slot per card; tasks are (model, seconds), given as arrivals (time, model, seconds)."""

    def __init__(self, arrivals, *, cards=8, load_s=LOAD_S, settings=None):
        self.settings = settings or Settings()
        self.load_s = load_s
        self.now = 0.0
        self.cards = [SimCard(f"worker-{n}") for n in range(1, cards + 1)]
        self.queue = {m: [] for m in MODELS}
        self.waits = dict.fromkeys(MODELS, 0.0)
        self.unserved = dict.fromkeys(MODELS, 0.0)
        self.loads = 0
        self.left = len(arrivals)
        self.events = []
        self.n = 0
        for when, model, seconds in arrivals:
            self.at(when, lambda m=model, s=seconds: self.queue[m].append((self.now, s)))

    def at(self, when, act):
        self.n += 1
        heapq.heappush(self.events, (when, self.n, act))

    def run(self):
        self.at(0.0, self.tick)
        while self.left:
            self.now, _, act = heapq.heappop(self.events)
            assert self.now < 20_000, "never ends"
            act()
            for card in self.cards:
                self.claim(card)
        return self.now

    def tick(self):
        for model in MODELS:
            if not self.queue[model] or any(c.model == model for c in self.cards):
                self.unserved[model] = self.now
        for name, want in desired(self.snapshot(), self.settings).items():
            card = next(c for c in self.cards if c.name == name)
            if want.model and want.model != card.model and card.ordered is None and card.doing != "load":
                card.ordered = want.model
        self.at(self.now + TICK_S, self.tick)

    def claim(self, card):
        if card.doing is not None:
            return
        if card.ordered is not None:
            card.doing = "load"
            self.loads += 1
            card.model = None
            self.at(self.now + self.load_s, lambda: self.loaded(card))
        elif card.model and self.queue[card.model]:
            since, seconds = self.queue[card.model].pop(0)
            self.waits[card.model] = max(self.waits[card.model], self.now - since)
            card.doing = card.model
            self.at(self.now + seconds, lambda: self.done(card, seconds))

    def loaded(self, card):
        card.model, card.ordered, card.doing, card.since_s = card.ordered, None, None, self.now
        card.resource_seq += 1
        self.learn(card, loads=1, load_s=self.load_s)

    def done(self, card, seconds):
        card.doing = None
        self.left -= 1
        self.learn(card, completed=1, busy_s=seconds)

    def learn(self, card, **more):
        tally = card.learned.get(card.model, ModelTally())
        sums = {f: getattr(tally, f) for f in ModelTally.__struct_fields__}
        card.learned[card.model] = ModelTally(**{**sums, **{k: sums[k] + v for k, v in more.items()}})

    def snapshot(self):
        workers, lanes, claims = [], [], []
        for card in self.cards:
            workers.append(
                a_worker(
                    card.name,
                    holding=card.model,
                    held_s=self.now - card.since_s,
                    resource_seq=card.resource_seq,
                    learned=dict(card.learned),
                )
            )
            if card.doing == "load":
                seq = card.resource_seq
                lanes_id = load_waiting(card.name, card.ordered, resource_seq=seq).first_ids[0]
                claims.append(a_claim(lanes_id, worker=card.name, task_class="resource", model=card.ordered))
            else:
                if card.ordered:
                    lanes.append(load_waiting(card.name, card.ordered, resource_seq=card.resource_seq))
                if card.doing:
                    claims.append(a_claim(f"t-{card.name}", worker=card.name, model=card.doing))
        lanes += [llm_waiting(len(q), m, unserved_s=self.now - self.unserved[m]) for m, q in self.queue.items() if q]
        return a_snapshot(workers=workers, lanes=lanes, claims=claims)


def tasks(seed, weights, count=600, when=0.0):
    rng = random.Random(seed)
    return [(when, rng.choices(MODELS, weights)[0], rng.uniform(0.5, 2.0)) for _ in range(count)]


def ratio(arrivals, **kw):
    sim = Sim(arrivals, **kw)
    took = sim.run()
    cards = kw.get("cards", 8)
    return took / (sum(s for _, _, s in arrivals) / cards + kw.get("load_s", LOAD_S)), sim


@pytest.mark.parametrize("weights", [(70, 20, 10), (60, 30, 10), (85, 10, 5), (34, 33, 33), (98, 1, 1)])
def test_skewed_demand_ends_close_to_the_lower_bound(weights):
    ratios = [ratio(tasks(seed, weights))[0] for seed in range(6)]
    assert max(ratios) <= 1.15, ratios


@pytest.mark.parametrize("weights", [((80, 15, 5), (5, 15, 80)), ((100, 0, 0), (0, 0, 100)), ((60, 40, 0), (0, 40, 60))])
@pytest.mark.parametrize("overlap", [0.5, 1.0])
def test_demand_that_shifts_half_way(weights, overlap):
    """The second half arrives when the first is half, or just, done."""
    ratios = []
    for seed in range(4):
        first = tasks(seed, weights[0], 300)
        when = overlap * sum(s for _, _, s in first) / 8
        ratios.append(ratio([*first, *((when, m, s) for _, m, s in tasks(seed + 100, weights[1], 300))])[0])
    assert max(ratios) <= 1.15, ratios


def test_more_models_than_cards_all_get_their_turn():
    """Two endless models and a small third on two cards: the small one waits for a share of the limit, not for the end."""
    settings = Settings(brain=BrainSettings(max_wait_s=60))
    arrivals = [(0.0, m, 1.0) for m in ("a:1", "b:1") for _ in range(400)] + [(0.0, "c:1", 1.0) for _ in range(3)]
    took, sim = ratio(arrivals, cards=2, settings=settings)
    assert sim.waits["c:1"] < 60 + 2 * LOAD_S + 5
    assert took < 1.15


def test_one_card_shared_by_three_models_does_not_thrash():
    settings = Settings(brain=BrainSettings(max_wait_s=60))
    arrivals = [(0.0, m, 1.0) for m in MODELS for _ in range(200)]
    took, sim = ratio(arrivals, cards=1, settings=settings)
    assert took < 1.5
    assert sim.loads > 6, "nobody waits for the end of the others"


def test_few_tasks_load_few_cards():
    _, sim = ratio([(0.0, "a:1", 1.0)] * 2, cards=8)
    assert sim.loads == 2
