"""What a turn of the brain costs beside many sessions: processor time of one look and one decision."""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from swarm.brain.apply import Effects
from swarm.brain.observe import Observer
from swarm.config.settings import Settings
from swarm.core.lanes import llm_lane
from swarm.core.policy.decide import decide
from swarm.core.task import TaskState, Trail
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from tests.endurance.scene_common import MODEL
from tests.helpers.queues import claim_one, finish_one

LANE = llm_lane(MODEL)
ENDING = 100
"""Sessions whose task ends before the turn that is measured."""
TURNS = 20
ROUNDS = 3


class Turns:
    """A brain without its process: the same look, decision and effects, beside so many sessions of a few tasks each."""

    def __init__(self, queue: FileQueue, sessions: int) -> None:
        settings = Settings()
        self._settings = settings
        self._life = ProcessLock(queue.layout, "hand")
        self._life.acquire()
        self._hand = queue.worker_view("hand")
        documents = (
            {
                "task_class": "llm",
                "model": MODEL,
                "session": f"s{session}",
                "request": {"messages": [{"role": "user", "content": "x"}]},
            }
            for _ in range(ROUNDS + 1)
            for session in range(sessions)
        )
        for _ in queue.enqueue_many(documents):
            pass
        view = queue.brain_view(lambda _attempts: 0.0, ready_only=True)
        quiet = logging.getLogger("endurance.silent")
        quiet.disabled = True
        self._observer = Observer(view, None, settings)
        self._effects = Effects(view, lambda _worker, _epoch: False, settings, quiet)
        while self.turn()[1]:
            pass

    def close(self) -> None:
        """The hand lets go."""
        self._life.release()

    def turn(self) -> tuple[float, int]:
        """Seconds of processor time of one turn, and how many decisions it took."""
        began_s = time.thread_time()
        decisions = decide(self._observer.snapshot(), self._settings)
        for decision in decisions:
            self._effects.apply(decision)
        return time.thread_time() - began_s, len(decisions)

    def end_some(self) -> None:
        """Tasks of ``ENDING`` sessions run and complete, seen running first, as work does."""
        claims = [claim for _ in range(ENDING) if (claim := claim_one(self._hand)) is not None]
        self.turn()
        for claim in claims:
            finish_one(self._hand, claim, TaskState.COMPLETED, Trail(result={"response": "x"}))


@contextmanager
def _turns(sessions: int) -> Iterator[Turns]:
    folder = tempfile.mkdtemp(prefix="swarm-endure-ticks-")
    try:
        with closing(Turns(FileQueue(f"{folder}/queue", "fast").prepare(), sessions)) as turns:
            yield turns
    finally:
        shutil.rmtree(folder)


def tick_ms(sessions: int) -> dict[str, float]:
    """Milliseconds of processor time, medians: a turn in which nothing happened, and one that lets ``ENDING`` go on."""
    with _turns(sessions) as turns:
        still = statistics.median(turns.turn()[0] for _ in range(TURNS))
        busy = []
        for _ in range(ROUNDS):
            turns.end_some()
            took_s, decisions = turns.turn()
            if decisions != ENDING:
                raise RuntimeError(f"{decisions} decisions instead of {ENDING} once as many tasks have ended")
            busy.append(took_s)
    return {"nothing happened": round(1000 * still, 2), f"{ENDING} ended": round(1000 * statistics.median(busy), 2)}
