"""Pauses set by the operator: of everything, a model, a batch or a worker.

What runs goes on; nothing new of it is started.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.core.task import canonical_model

Kind = Literal["all", "model", "batch", "worker"]


class Pause(msgspec.Struct, frozen=True, omit_defaults=True):
    """One pause."""

    kind: Kind
    name: str = ""
    """Canonical for a model; empty for ``all``."""
    since: str = ""
    """ISO 8601."""

    @property
    def key(self) -> str:
        """Its unique key."""
        return f"{self.kind}:{self.name}"

    @property
    def words(self) -> str:
        """``model llama3.2:3b is paused since …``."""
        what = "everything" if self.kind == "all" else f"{self.kind} {self.name}"
        return f"{what} is paused" + (f" since {self.since}" if self.since else "")

    @property
    def way_out(self) -> str:
        """The command that ends it."""
        match self.kind:
            case "all":
                return "swarm queue resume all"
            case "model":
                return f"swarm queue resume --model {self.name}"
            case "batch":
                return f"swarm queue resume --batch {self.name}"
            case "worker":
                return f"swarm queue resume --worker {self.name}"


class Pauses(msgspec.Struct, frozen=True):
    """All pauses in force."""

    pauses: tuple[Pause, ...] = ()

    def find(self, kind: Kind, name: str = "") -> Pause | None:
        """Exactly this one."""
        return next((p for p in self.pauses if p.kind == kind and p.name == name), None)

    def worker(self, name: str) -> Pause | None:
        """What keeps this worker from claiming."""
        return self.find("all") or self.find("worker", name)

    def model(self, model: str | None) -> Pause | None:
        """What keeps tasks of this model from being claimed by anybody."""
        if not self.pauses:
            return None
        return self.find("all") or (self.find("model", canonical_model(model)) if model is not None else None)

    def batch(self, batch_id: str | None) -> Pause | None:
        """What keeps tasks of this batch from running, beyond ``all``."""
        return self.find("batch", batch_id) if self.pauses and batch_id is not None else None

    def with_one(self, pause: Pause) -> Pauses:
        """With this one; one that stands already keeps its time."""
        return self if self.find(pause.kind, pause.name) else Pauses((*self.pauses, pause))

    def without(self, kind: Kind, name: str = "") -> Pauses:
        """Without this one; ``all`` ends every pause."""
        return Pauses() if kind == "all" else Pauses(tuple(p for p in self.pauses if (p.kind, p.name) != (kind, name)))
