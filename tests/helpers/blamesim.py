"""Servers in simulated time at which some requests break whatever runs beside them; blame and retries by the real rules."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from swarm.config.settings import RetrySettings
from swarm.core.health.blame import MOMENT_S, Broken, Probed, Witness, verdict
from swarm.core.policy.retry import Again, GiveUp, after_fault, hits, runs_alone
from swarm.core.task import Attempt, Task, TaskClass

STEP_S = 0.02
PROBE_S = 0.1
SETTINGS = RetrySettings()


@dataclass
class Job:
    """A request: it ends well after ``takes_s``, or kills the runner then."""

    task_id: str
    poison: bool
    takes_s: float
    talks: bool
    attempts: tuple[Attempt, ...] = ()
    number: int = 0
    due_s: float = 0.0
    end: str = ""

    @property
    def alone(self) -> bool:
        return runs_alone(self.attempts, self.number + 1)


@dataclass
class Flight:
    job: Job
    began_s: float
    alone: bool
    heard_s: float = float("-inf")
    pieces: int = 0


@dataclass
class Card:
    name: str
    slots: int
    flights: list[Flight] = field(default_factory=list)
    waiting: list[tuple[Flight, Broken]] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    probed: Probed | None = None


class World:
    """All jobs wait in one queue; ``run`` takes steps until all have ended. Deterministic for a seed."""

    def __init__(self, jobs: list[Job], *, cards: int, slots: int, seed: int) -> None:
        self.queue = list(jobs)
        self.jobs = jobs
        self.cards = [Card(f"worker-{n + 1}", slots) for n in range(cards)]
        self.now_s = 0.0
        self._pick = random.Random(seed)

    def run(self, limit_s: float) -> None:
        while any(not job.end for job in self.jobs) and self.now_s < limit_s:
            self.now_s += STEP_S
            for card in self.cards:
                self._serve(card)
                self._judge(card)
                self._claim(card)

    def _serve(self, card: Card) -> None:
        for flight in list(card.flights):
            if flight not in card.flights:
                continue
            if self.now_s - flight.began_s < flight.job.takes_s:
                if flight.job.talks:
                    flight.heard_s, flight.pieces = self.now_s, flight.pieces + 1
            elif flight.job.poison:
                first = self._pick.choice(card.flights)
                for victim in card.flights:
                    self._break(card, victim, late_s=0.0 if victim is first else self._pick.uniform(0, MOMENT_S / 2))
                card.flights.clear()
            else:
                flight.job.end = "completed"
                card.witnesses.append(Witness(flight.began_s, self.now_s))
                card.flights.remove(flight)

    def _break(self, card: Card, flight: Flight, *, late_s: float) -> None:
        job = flight.job
        one = Broken(
            task_id=job.task_id,
            kind="runner_died",
            began_s=flight.began_s,
            heard_s=flight.heard_s,
            ended_s=self.now_s + late_s,
            pieces=flight.pieces,
            hits=hits(job.attempts, job.number + 1),
            alone=flight.alone,
        )
        card.broken.append(one)
        card.waiting.append((flight, one))

    def _judge(self, card: Card) -> None:
        under_way = [Witness(one.began_s, one.heard_s, under_way=True) for one in card.flights]
        for flight, one in list(card.waiting):
            others = [other for other in card.broken if other is not one]
            found = verdict(one, others, [*card.witnesses, *under_way], card.probed, self.now_s)
            if found is None:
                if not card.flights and self.now_s > one.ended_s and (not card.probed or card.probed.began_s < one.ended_s):
                    card.probed = Probed(self.now_s, self.now_s + PROBE_S)
                continue
            card.waiting.remove((flight, one))
            fault = {"request": "poison", "unclear": "suspect", "server": "infra"}[found.blame]
            self._settle(card, flight.job, fault, alone=found.alone)

    def _settle(self, card: Card, job: Job, fault: str, *, alone: bool) -> None:
        job.number += 1
        made = after_fault(
            fault=fault,  # type: ignore[arg-type]
            kind="runner_died",
            task=Task(task_id=job.task_id, task_class=TaskClass.LLM),
            attempt=job.number,
            attempts=job.attempts,
            settings=SETTINGS,
            jitter=self._pick.random(),
            worker=card.name,
            others=len(self.cards) > 1,
        )
        past = Attempt(attempt=job.number, worker=card.name, outcome="retried", fault=fault, alone=alone)  # type: ignore[arg-type]
        job.attempts = (*job.attempts, past)
        if isinstance(made, GiveUp):
            job.end = fault
            return
        assert isinstance(made, Again)
        job.number -= 0 if made.counts else 1
        job.due_s = self.now_s + made.delay_s
        self.queue.append(job)

    def _claim(self, card: Card) -> None:
        untold = [
            flight for flight, one in card.waiting if one.ended_s > self.now_s
        ]  # slots are theirs until their threads tell
        while len(busy := [*card.flights, *untold]) < card.slots and not any(flight.alone for flight in busy):
            job = next((job for job in self.queue if job.due_s <= self.now_s), None)
            if job is None or (job.alone and (busy or card.waiting)):
                return
            self.queue.remove(job)
            card.flights.append(Flight(job, self.now_s, job.alone))
