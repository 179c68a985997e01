"""A worker's registration (what it is) and its heartbeat (how it is).

Durations are counted in fixed buckets (``Histogram``): small enough for a heartbeat, mergeable, read by metrics systems.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum

import msgspec

from swarm.core.gpu_reading import GpuReading

WAIT_BOUNDS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
RUN_BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TICK_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Histogram(msgspec.Struct, frozen=True):
    """How many durations fell up to each of ``bounds_s``; the last count, one more than bounds, is of longer ones."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float = 0.0

    @property
    def total(self) -> int:
        """Durations counted."""
        return sum(self.counts)

    def with_one(self, seconds: float) -> Histogram:
        """This one and one duration more; negative ones count as 0."""
        seconds = max(0.0, seconds)
        place = bisect_left(self.bounds_s, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Histogram(self.bounds_s, counts, round(self.sum_s + seconds, 6))


def empty(bounds_s: tuple[float, ...]) -> Histogram:
    """Nothing counted yet."""
    return Histogram(bounds_s, (0,) * (len(bounds_s) + 1))


class WorkerStatus(StrEnum):
    """The phases of a worker's life."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    LOADING = "loading"
    DRAINING = "draining"
    UNREADY = "unready"
    """Alive, but refuses llm work: its server does not answer, its card is lost, its model spilled."""
    STOPPED = "stopped"


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process that cannot be confused with a later one of the same number."""

    pid: int
    start_ticks: int
    """Field 22 of ``/proc/<pid>/stat``: clock ticks after boot."""
    boot_id: str


class WorkerRow(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``workers/<name>.json``: written by its process under its process lock, which alone tells whether it lives."""

    name: str
    role: str = "worker"
    """``worker``, ``brain``, ``supervisor``, ``http`` or ``server``."""
    process: ProcessIdentity
    started_at: str
    epoch: int
    """Counts the lives under this name, durably; goes into the ids of resource tasks."""
    gpus: tuple[int, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    port: int | None = None
    url: str | None = None
    """Base URL of the worker's model server; None for a worker without one (cpu and script work only). Of the HTTP server:
    where it listens."""
    engines: tuple[str, ...] = ("ollama",)
    """Engines that serve its models, that of models which name none first."""
    model_port: int | None = None
    """Where the processes listen that serve one model each; None where it starts none."""
    adopted: bool = False
    """The server was running already and is never stopped by us."""
    simulated: bool = False
    llm_slots: int = 1
    version: str = ""
    node: str = ""
    """The machine of its cards; empty: this one. Then ``url`` is the card's at the relay there."""

    @property
    def ollama_url(self) -> str | None:
        """Base URL of its Ollama server on this machine; None where it has none."""
        return self.url if "ollama" in self.engines and not self.node else None


class SlotView(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One task in flight."""

    task_id: str
    task_class: str
    name: str = ""
    model: str | None = None
    attempt: int = 1
    phase: str = "running"
    progress: int = 0
    """Grows with each token or output chunk. Standing still past ``brain.stuck_after_s`` means stuck."""
    elapsed_s: float = 0.0
    quiet_s: float = 0.0
    """Since its progress last moved, on the worker's own monotonic clock: for observers without a history."""


class ModelTally(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one worker learned of one model in this life. Sums; seconds are monotonic durations."""

    completed: int = 0
    failed: int = 0
    busy_s: float = 0.0
    """Sum of request durations (several slots count several times)."""
    tokens_in: int = 0
    tokens_out: int = 0
    loads: int = 0
    load_s: float = 0.0
    load_failures: int = 0
    """Loads that failed in a row; 0 again after a success. The brain waits longer after each."""
    no_room: bool = False
    """Its last load failed for want of memory on the card; ``size_mib`` is what it would have taken, where that is known."""
    missing: bool = False
    """Its last load failed because the server does not have it."""
    size_mib: int = 0
    size_vram_mib: int = 0
    context_length: int = 0
    digest: str = ""


class TunedSlots(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How many requests at once a worker keeps in flight for one model, why, and what that gave."""

    engine: str = ""
    """Name of the engine that serves it: ``ollama``, ``llama_server``, ``openai``."""
    in_flight: int = 1
    """Requests that the worker keeps at the server now."""
    capacity: int = 0
    """Requests at once that the model was loaded for; 0: the engine does not say."""
    tokens_per_s: float = 0.0
    """Generated over all slots, measured now; 0 while unknown."""
    best_tokens_per_s: float = 0.0
    """The best that this card has shown for this model, in earlier lives too; 0 while unknown."""
    best_in_flight: int = 0
    """With so many requests at once."""
    settled: bool = False
    """The number in flight was found; false while it is being tried."""
    why: str = ""
    """In words: ``8 slots: 310 tokens/s; 16 gave 316 and spilled``."""
    history: tuple[tuple[int, float], ...] = ()
    """``(in flight, tokens/s)`` as tried, the newest last; at most 16."""


class RateSample(msgspec.Struct, frozen=True, array_like=True):
    """Sums of one worker's life for the model that it holds, at one moment."""

    at_s: float
    """Since the worker's start, on its monotonic clock."""
    requests: int = 0
    """Ended."""
    tokens_in: int = 0
    tokens_out: int = 0
    """What running requests have generated so far included, where their answers are watched."""
    in_flight: int = 0
    """Requests at the server at this moment."""
    energy_j: float | None = None
    """Used by its cards from their first reading to the last one; None where a driver tells neither energy nor power."""
    energy_at_s: float = 0.0
    """When that reading was, on the same clock."""


class WorkerTally(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Counters of one worker life."""

    claims: int = 0
    lost_races: int = 0
    completed: int = 0
    """This and the next three without resource tasks: those show as loads of their model."""
    failed: int = 0
    retried: int = 0
    released: int = 0
    fenced: int = 0
    """Results that came too late: the claim had been reclaimed."""
    crashes: int = 0
    """Tasks reclaimed from a dead worker: by the brain, or by the next life of that worker at its start."""
    tokens_in: int = 0
    tokens_out: int = 0


class LivePlaces(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Live requests at one worker: how many it takes at once, and what they hold now."""

    limit: int = 0
    """At once for the model that is loaded; 0: none may come now (none is loaded, not usable, paused, draining)."""
    in_flight: int = 0
    """Accepted and not ended."""
    kept: int = 0
    """Places that are kept free for the next ones; batch work has them again some seconds after the last."""
    yielded: int = 0
    """Batch requests stopped for live ones in this life; their tasks were released untouched."""


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``heartbeats/<name>.json``: replaced every ``heartbeat_s`` by a thread of its own.

    ``seq`` counts the writes (the process lives); ``turn`` counts turns of the work loop (the loop lives). Readers judge
    ages on their own monotonic clock, from when they last saw a number change; never by ``written_at``.
    """

    name: str
    pid: int
    epoch: int
    seq: int
    turn: int
    written_at: str
    status: WorkerStatus
    reason: str = ""
    """Why it idles or refuses, in words."""
    model: str | None = None
    """Canonical name of the model the server last *proved* to hold; None when cold."""
    resource_seq: int = 0
    """Resource tasks ended in this life; with ``epoch`` it numbers the next one."""
    idle_s: float = 0.0
    live: LivePlaces | None = None
    """None: this worker takes no live requests at all (it has no model server)."""
    slots: tuple[SlotView, ...] = ()
    tally: WorkerTally = WorkerTally()
    models: dict[str, ModelTally] = msgspec.field(default_factory=dict)
    tuned: dict[str, TunedSlots] = msgspec.field(default_factory=dict)
    """By canonical name of the model: the slots that were chosen for it, and the measured rates."""
    recent: tuple[RateSample, ...] = ()
    """Sums of about the last minute, since the model it holds was loaded; oldest first, the last of this heartbeat."""
    waits: dict[str, Histogram] = msgspec.field(default_factory=dict)
    """By class of task: seconds from its acceptance to its first claim; wall clock, never negative."""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    """Models its server holds that do not count as loaded, and why: spilled to the CPU, loaded by somebody otherwise."""
    servable: tuple[str, ...] = ()
    """Models on its server's disk that its cards have room for, judged by their files some time ago; none while unknown."""
    cleared: dict[str, int] = msgspec.field(default_factory=dict)
    """By worker: requests that had broken the server there, and were answered here."""
    runs: dict[str, Histogram] = msgspec.field(default_factory=dict)
    """By class of task: seconds of each attempt, however it ended."""
    ticks: Histogram | None = None
    """The brain's: seconds of each tick, waits left out."""
    cards: tuple[GpuReading, ...] = ()
    """Of a worker whose cards are in another machine: their last readings. Nobody else here can read them."""
    server_version: str = ""
    """Of its engine's server, as that says; empty: it does not, or has not been asked yet."""
