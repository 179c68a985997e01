"""Builds the snapshot from the ports, with ages on this process's monotonic clock.

An age runs from when this observer last *saw* a number change, never from a time that another process wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import msgspec

from swarm.clock import now_iso
from swarm.config.settings import Settings
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.liveness import ready_workers
from swarm.core.live.demand import STALE_S
from swarm.core.policy.decide import old_after_s
from swarm.core.snapshot import ClaimView, LaneView, LiveView, SwarmSnapshot, WorkerView
from swarm.core.task import TaskClass
from swarm.core.worker import SlotView
from swarm.runtime.ports import BrainQueue, ChosenCards

LATE_MARGIN_S = 1.0
"""Two ticks plus this much without a look means the observer itself was stopped, suspended or starved."""
GPU_EVERY_S = 2.0
"""Cards are read no more often: a reading costs a driver call per card and value."""

replace = msgspec.structs.replace


class Ages:
    """How long values have been unchanged. What is not asked for between two ``prune`` calls is forgotten."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[object, float]] = {}
        self._asked: set[Hashable] = set()

    def age_s(self, key: Hashable, value: object, now_s: float) -> float:
        """Seconds since ``value`` of ``key`` was first seen unchanged."""
        self._asked.add(key)
        before = self._seen.get(key)
        if before is None or before[0] != value:
            self._seen[key] = (value, now_s)
            return 0.0
        return now_s - before[1]

    def prune(self) -> None:
        """Forget what was not asked for since the last call."""
        self._seen = {key: self._seen[key] for key in self._asked}
        self._asked.clear()


class Watched:
    """Time for which somebody has looked: of a gap in it, however long, only as much counts as a turn may take.

    So a pause of the brain's own is held against nobody, and one whose every turn is slow still judges, a little later.
    """

    def __init__(self, late_after_s: float) -> None:
        self._late_after_s = late_after_s
        self._last_s: float | None = None
        self._late = False
        self.now_s = 0.0

    def look(self, now_s: float, *, mute: bool = False) -> bool:
        """At this moment of the real clock; whether it comes late, which the last look did not.

        ``mute``: nothing could be said since the last look, so that time does not count.
        """
        gap_s = 0.0 if self._last_s is None else now_s - self._last_s
        before, self._late = self._late, gap_s > self._late_after_s
        self._last_s = now_s
        self.now_s += 0.0 if mute else min(gap_s, self._late_after_s)
        return self._late and not before


class Wanted:
    """Since when each model is wanted again and again, with no gap longer than ``gap_s``."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._seen: dict[str, tuple[float, float]] = {}

    def since_s(self, model: str, now_s: float) -> float:
        """Seconds since it was first wanted; it is so now. What was not for too long is forgotten."""
        self._seen = {name: (first, last) for name, (first, last) in self._seen.items() if now_s - last <= self._gap_s}
        first_s = self._seen.get(model, (now_s, now_s))[0]
        self._seen[model] = (first_s, now_s)
        return now_s - first_s


def all_cards(here: Iterable[GpuReading], workers: Iterable[WorkerView]) -> tuple[GpuReading, ...]:
    """Cards of this machine, then those of others as their living workers tell them.

    One that is told of under the name of a node and read here too is one card, of that node: this machine is in a cluster.
    """
    told = ((view.row, view.heartbeat) for view in workers if view.alive)
    rows = ((row, beat) for row, beat in told if row is not None and row.node and beat is not None)
    far = {card.uuid: replace(card, node=row.node) for row, beat in rows for card in beat.cards}
    return (*(card for card in here if card.uuid not in far), *far.values())


class Observer:
    """Used by one thread. Costs one read the queue per call."""

    def __init__(
        self,
        queue: BrainQueue,
        gpu: ChosenCards | None,
        settings: Settings,
        *,
        retention: bool = False,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """With ``retention`` what lies finished is looked at too, if the settings ask for it to be removed some day."""
        self._queue = queue
        self._gpu = gpu
        self._mono_s = mono_s
        self._settings = settings
        self._old_after_s = old_after_s(settings.brain) if retention else None
        self._judged = Ages()
        self._elapsed = Ages()
        self._watched = Watched(2 * settings.brain.tick_s + LATE_MARGIN_S)
        self._wanted = Wanted(settings.brain.max_wait_s)
        self._cards: tuple[GpuReading, ...] = ()
        self._cards_due_s = float("-inf")

    def snapshot(self, *, mute: bool = False) -> SwarmSnapshot:
        """Take a snapshot. The first time after a gap of its own ``grace`` is set. Raises ``StorageFault``.

        ``mute``: the disk takes no heartbeats now, so nobody's silence means anything.
        """
        now_s = self._mono_s()
        grace = self._watched.look(now_s, mute=mute)
        seen = self._queue.look(self._old_after_s)
        workers = tuple(self._aged_worker(view, now_s) for view in seen.workers)
        slots = {(w.name, s.task_id, s.attempt): s for w in workers if w.heartbeat is not None for s in w.heartbeat.slots}
        claims = tuple(self._aged_claim(c, slots.get((c.worker, c.task_id, c.attempt)), now_s) for c in seen.claims)
        snapshot = replace(
            seen,
            now_iso=now_iso(),
            mono_s=now_s,
            grace=grace,
            claims=claims,
            workers=workers,
            live=tuple(self._aged_live(seen, self._watched.now_s)),
            gpus=all_cards(self._read_cards(now_s), workers),
            gpus_note=self._gpu.visibility.note if self._gpu is not None else "",
        )
        serving = ready_workers(snapshot, self._settings)
        snapshot = replace(snapshot, lanes=tuple(self._aged_lane(lane, serving, snapshot) for lane in seen.lanes))
        self._judged.prune()
        self._elapsed.prune()
        return snapshot

    def _aged_worker(self, view: WorkerView, now_s: float) -> WorkerView:
        """Ages of one worker's life; without a heartbeat, since that life was first seen."""
        life = (view.name, view.row.epoch if view.row is not None else 0, view.alive)
        beat = view.heartbeat
        failures = {m: t.load_failures for m, t in beat.models.items() if t.load_failures} if beat is not None else {}
        return replace(
            view,
            quiet_s=self._judged.age_s(("beat", *life), beat.seq if beat is not None else None, self._watched.now_s),
            turn_quiet_s=self._judged.age_s(("turn", *life), beat.turn if beat is not None else None, self._watched.now_s),
            held_s=self._elapsed.age_s(("held", *life), beat.model if beat is not None else None, now_s),
            load_failed_s={m: self._elapsed.age_s(("load", *life, m), n, now_s) for m, n in failures.items()},
        )

    def _aged_claim(self, claim: ClaimView, slot: SlotView | None, now_s: float) -> ClaimView:
        """A claim with its progress as its worker's heartbeat tells it; one no heartbeat names has made none."""
        key = (claim.worker, claim.task_id, claim.attempt)
        progress = claim.progress if slot is None else slot.progress
        quiet_s = self._judged.age_s(("progress", *key), progress, self._watched.now_s)
        if slot is not None:
            # Who looks for the first time has no history: the worker's own clock tells as much, and survives our restart.
            quiet_s = max(quiet_s, slot.quiet_s)
        elapsed_s = self._elapsed.age_s(("claim", *key), None, now_s)
        return replace(claim, progress=progress, elapsed_s=elapsed_s, quiet_s=quiet_s)

    def _aged_lane(self, lane: LaneView, ready: Sequence[WorkerView], seen: SwarmSnapshot) -> LaneView:
        """A lane with the time since it was last empty or served (see ``LaneView.unserved_s``).

        ``ready``: workers that take work for cards. Others may hold a model and yet serve nobody.
        """
        if lane.task_class is TaskClass.LLM:
            holding = any(w.heartbeat is not None and w.heartbeat.model == lane.model for w in ready)
            served = holding or any(c.model == lane.model and c.task_class == TaskClass.LLM for c in seen.claims)
        else:
            served = any(w.alive and (w.row is None or w.row.role == "worker") for w in seen.workers)
        if served or not lane.pending:
            return lane
        return replace(lane, unserved_s=self._judged.age_s(("lane", lane.lane), None, self._watched.now_s))

    def _aged_live(self, seen: SwarmSnapshot, now_s: float) -> Iterator[LiveView]:
        """What live requests want; nothing if whoever says so hangs."""
        said_s = self._judged.age_s(("live",), seen.live_written_at, now_s) if seen.live else 0.0
        for view in seen.live if said_s <= STALE_S else ():
            busy = bool(view.waiting or view.in_flight)
            age_s = self._judged.age_s(("live", view.model), busy, now_s)
            yield replace(
                view,
                oldest_s=view.oldest_s + said_s if view.waiting else 0.0,
                idle_s=0.0 if busy else age_s,
                wanted_s=self._wanted.since_s(view.model, now_s) if busy else 0.0,
            )

    def _read_cards(self, now_s: float) -> tuple[GpuReading, ...]:
        if self._gpu is not None and now_s >= self._cards_due_s:
            self._cards = self._gpu.read()
            self._cards_due_s = now_s + GPU_EVERY_S
        return self._cards
