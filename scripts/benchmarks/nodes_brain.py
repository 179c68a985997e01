"""How long the brain thinks about many cards: processor time of one decision, with 8 models of which each machine has 6."""

from __future__ import annotations

import time
from typing import Any

from swarm.config.settings import Settings
from swarm.core.policy.decide import decide
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.worker import ModelTally
from tests.support.builders import a_claim, a_snapshot, a_worker, llm_waiting

MODELS = tuple(f"model-{number}:1b" for number in range(8))
CARDS_PER_NODE, SLOTS, REPEATS = 8, 4, 5


def measure(cards: tuple[int, ...]) -> dict[str, Any]:
    """By number of cards: milliseconds, and what was decided."""
    return {str(number): _decided(_busy(number)) for number in cards}


def _decided(snapshot: SwarmSnapshot) -> dict[str, Any]:
    took = []
    for _ in range(REPEATS):
        began_s = time.process_time()
        decisions = decide(snapshot, Settings())
        took.append(time.process_time() - began_s)
    return {"ms": round(1000 * min(took), 1), "decisions": len(decisions)}


def _busy(cards: int) -> SwarmSnapshot:
    """Every slot works, and tasks wait for all models, for each more than for the one before."""
    learned = {model: ModelTally(completed=50, busy_s=100.0, tokens_out=5000, loads=1, load_s=8.0) for model in MODELS}
    workers = []
    for number in range(cards):
        node = number // CARDS_PER_NODE
        has = [model for place, model in enumerate(MODELS) if (place + node) % 4]
        holds = has[number % len(has)]
        name = f"box{node}-gpu{number % CARDS_PER_NODE}"
        workers.append(
            a_worker(name, gpu=number, node=f"box{node}", holding=holds, servable=has, learned=learned, slots=SLOTS)
        )
    claims = [
        a_claim(f"{view.name}-{slot}", worker=view.name, model=view.heartbeat.model if view.heartbeat else None)
        for view in workers
        for slot in range(SLOTS)
    ]
    lanes = [llm_waiting(1000 * number, model) for number, model in enumerate(MODELS, 1)]
    return a_snapshot(workers=workers, lanes=lanes, claims=claims)
