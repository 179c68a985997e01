"""Evidence about other machines whose cards workers use: their relays, asked just now, and their records."""

from __future__ import annotations

import msgspec

from swarm.core.nodes.node_record import NodeRecord


class CardEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """One card at its relay."""

    card: str
    worker: str
    refused: str = ""
    """Why its relay does not give it to this swarm; empty: it does, or it was not asked, since the worker does not run."""


class RelayEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """One relay, asked just now."""

    url: str
    cards: tuple[CardEvidence, ...]
    """Those that workers of ours are for."""
    trouble: str = ""
    """Kind of the fault that asking it ended with (``wrong_token``, ``node_down`` …); empty: none."""
    said: str = ""
    """The fault in words."""
    version: str = ""
    """Of swarm there."""
    engine_versions: dict[str, str] = msgspec.field(default_factory=dict)
    public_address: str = ""
    """An address of it, where that is reached over a public network and without encryption."""

    not_asked: bool = False
    """Only since its token is not known to who asked; workers that run know it."""

    @property
    def workers(self) -> str:
        """Names of the workers that it is for."""
        return ", ".join(card.worker for card in self.cards)


class NodeEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """Another machine."""

    name: str
    relays: tuple[RelayEvidence, ...] = ()
    record: NodeRecord | None = None
    """Of the node source; None: only the configuration names it."""
    phase_s: float | None = None
    """How long it has been in its phase, by the wall clock; None: nothing tells."""

    @property
    def versions(self) -> frozenset[str]:
        """Of swarm there."""
        told = {relay.version for relay in self.relays} | {self.record.version if self.record is not None else ""}
        return frozenset(told - {""})

    def engine(self, name: str) -> frozenset[str]:
        """Versions of this engine there."""
        told = {relay.engine_versions.get(name, "") for relay in self.relays}
        if self.record is not None:
            told.add(self.record.engine_versions.get(name, ""))
        return frozenset(told - {""})

    @property
    def engines(self) -> frozenset[str]:
        """Engines that say their versions there."""
        of_record = self.record.engine_versions if self.record is not None else {}
        return frozenset(name for versions in (of_record, *(r.engine_versions for r in self.relays)) for name in versions)

    def __str__(self) -> str:
        if any(relay.not_asked for relay in self.relays):
            return f"{self.name}: not asked: {next(relay.said for relay in self.relays if relay.not_asked)}"
        swarm = "/".join(sorted(self.versions)) or "?"
        engines = [f"{name} {'/'.join(sorted(found))}" for name in sorted(self.engines) if (found := self.engine(name))]
        answering = sum(not relay.trouble for relay in self.relays)
        return "; ".join([f"{self.name}: {answering} of {len(self.relays)} relays answer", f"swarm {swarm}", *engines])
