"""The document of `swarm doctor`."""

from __future__ import annotations

import msgspec

from swarm.config.settings import Settings
from swarm.core.doctor.diagnose import about, diagnose
from swarm.core.doctor.evidence import BoxEvidence, DoctorFinding, EngineEvidence, ModelFileEvidence
from swarm.core.doctor.node_evidence import NodeEvidence
from swarm.core.doctor.root_check import Check
from swarm.errors import UnknownName, name_hint
from swarm.views.doctor.gather import names_of


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm doctor`."""

    root: str
    file: str | None
    """The configuration that was read."""
    worker: str | None
    """Only what concerns this one was asked for."""
    healthy: bool
    cards_note: str
    checks: tuple[Check, ...]
    """What this host and the file system of the root can do."""
    engines: tuple[EngineEvidence, ...]
    model_files: tuple[ModelFileEvidence, ...]
    nodes: tuple[NodeEvidence, ...]
    """Other machines whose cards are used, with the versions there."""
    findings: tuple[DoctorFinding, ...]


def doctor_report(evidence: BoxEvidence, settings: Settings, *, file: str | None, worker: str | None) -> DoctorReport:
    """What is wrong, of all or of one worker. Raises ``UnknownName``."""
    found = diagnose(evidence, settings)
    if worker is not None:
        names = [*names_of(evidence), "brain", "supervisor"]
        if worker not in names:
            raise UnknownName(f"there is no worker {worker}", hint=name_hint(worker, names))
        found = about(found, worker)
    return DoctorReport(
        root=evidence.root,
        file=file,
        worker=worker,
        healthy=not found,
        cards_note=evidence.cards_note,
        checks=evidence.checks,
        engines=evidence.engines,
        model_files=evidence.model_files,
        nodes=evidence.nodes,
        findings=tuple(found),
    )
