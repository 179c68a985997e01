"""Which worker a live request goes to, and what can be said of a model that nobody holds. Pure.

* A candidate is ready, holds the model and has a free place.
* The worker that answered a prompt with the same beginning goes first: its server still has that computed. It gives way
  where another is clearly less loaded.
* Else the least loaded one, by the share of its places that would be taken; of equals the one that was chosen last: it keeps
  the place of the request before, and every other card would have to stop batch work and keep a place too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from swarm.core.lanes import Pause, Pauses
from swarm.core.prefix_groups import MAX_CHARS, MIN_CHARS, prompt_head

GIVES_WAY = 0.5
"""The worker that knows the prompt is passed over when a share of its places larger by this would be taken."""
MOST_PREFIXES = 4096


class LiveWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the HTTP server sees it: by its process lock, registration, heartbeat, and the pauses."""

    name: str
    epoch: int = 0
    beat: int = 0
    """Number of its last heartbeat."""
    ready: bool = False
    """It lives, was heard of lately, and takes llm work."""
    why: str = ""
    """What keeps it from being ready, in words."""
    silent: bool = False
    """It lives, but was not heard of lately."""
    pause: Pause | None = None
    model: str | None = None
    limit: int = 0
    """Live requests at once for the loaded model."""
    servable: frozenset[str] = frozenset()
    listed: bool = False
    """It has said which models it could serve."""
    digest: str = ""
    """Of the loaded model's file, where known."""
    simulated: bool = False

    @property
    def moment(self) -> tuple[int, int]:
        """Rises with each heartbeat, in later lives too."""
        return self.epoch, self.beat


class Standing(StrEnum):
    """What the swarm can do for a model now."""

    LOADED = "loaded"
    INSTALLED = "installed"
    """Some worker could load it."""
    PAUSED = "paused"
    """Only paused workers could serve it, or the model itself is paused."""
    UNSURE = "unsure"
    """No worker is known to have it, but one of them has not said yet what it has."""
    UNKNOWN = "unknown"
    NOBODY = "nobody"
    """No worker runs."""


def standing(workers: Collection[LiveWorker], model: str, pauses: Pauses, *, starting: bool) -> Standing:
    """Of a model by its canonical name. ``starting``: a supervisor runs, so that workers may yet come."""
    if pauses.model(model) is not None:
        return Standing.PAUSED
    if not workers:
        return Standing.UNSURE if starting else Standing.NOBODY
    serving = [worker for worker in workers if worker.model == model or model in worker.servable]
    if any(worker.ready and worker.model == model for worker in serving):
        return Standing.LOADED
    if serving:
        return Standing.PAUSED if all(worker.pause is not None for worker in serving) else Standing.INSTALLED
    return Standing.UNKNOWN if all(worker.listed for worker in workers) else Standing.UNSURE


def models_of(workers: Iterable[LiveWorker]) -> list[str]:
    """Every model that some worker holds or could load, sorted."""
    return sorted({model for one in workers for model in (one.model, *one.servable) if model is not None})


def choose(
    candidates: Collection[LiveWorker], in_flight: Mapping[str, int], last: Mapping[str, int], knows: str | None
) -> str:
    """The worker for one request, of at least one candidate, all with a free place.

    ``in_flight`` live requests of each, ``last`` when each was chosen (rising), ``knows`` the one that knows the prompt's
    beginning.
    """

    def load(worker: LiveWorker) -> float:
        return (in_flight.get(worker.name, 0) + 1) / worker.limit

    least = min(candidates, key=lambda one: (load(one), -last.get(one.name, 0), one.name))
    known = next((one for one in candidates if one.name == knows), None)
    return known.name if known is not None and load(known) - load(least) <= GIVES_WAY else least.name


def prefix_keys(model: str, endpoint: str, request: Mapping[str, Any]) -> tuple[int, ...]:
    """Keys of a prompt's beginning, of the longest first; none for a short prompt, and for embeddings."""
    head = prompt_head({"model": model, "endpoint": endpoint, "request": request}, MAX_CHARS)
    lengths = (MIN_CHARS << n for n in range(MAX_CHARS.bit_length() - MIN_CHARS.bit_length() + 1))
    return tuple(hash(head[:chars]) for chars in lengths if chars <= len(head))[::-1]


class PrefixMemory:
    """Which worker answered last what begins so. Forgets what was not asked for the longest time."""

    def __init__(self, most: int = MOST_PREFIXES) -> None:
        self._most = most
        self._workers: OrderedDict[int, str] = OrderedDict()

    def knows(self, keys: Iterable[int]) -> str | None:
        """The worker that answered the longest of these beginnings."""
        return next((worker for key in keys if (worker := self._workers.get(key)) is not None), None)

    def remember(self, keys: Iterable[int], worker: str) -> None:
        """This worker answers now what begins so."""
        for key in keys:
            self._workers[key] = worker
            self._workers.move_to_end(key)
        while len(self._workers) > self._most:
            self._workers.popitem(last=False)
