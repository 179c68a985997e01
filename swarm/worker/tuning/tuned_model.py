"""What a worker knows of one model in this life: for how many it is loaded, the means of its requests, its tunings."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.core.policy.slot_state import Tuning

_MEAN_OF = 24
"""Requests that a mean remembers, about."""


@dataclass
class TunedModel:
    """Owned by the work loop."""

    capacity: int = 0
    """For how many requests at once it was loaded; 0: the engine does not say."""
    why: str = ""
    tokens: float = 0.0
    """Of a request, in and out; a mean, as the next two."""
    counted: float = 0.0
    """Those that its rate is made of."""
    request_s: float = 0.0
    seen: int = 0
    few_since_s: float | None = None
    """Since when fewer requests than wanted are in flight (clock seconds); None: there are enough."""
    length: str = ""
    tunings: dict[str, Tuning] = field(default_factory=dict)
    """By length class."""

    def add(self, tokens: int, counted: int, took_s: float) -> None:
        """Take one more request into the means."""
        self.seen += 1
        part = 1 / min(self.seen, _MEAN_OF)
        self.tokens += part * (tokens - self.tokens)
        self.counted += part * (counted - self.counted)
        self.request_s += part * (took_s - self.request_s)
