"""From evidence to findings: what is wrong, how it is known, what to do. Pure; the worst first, causes before symptoms."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.config.settings import Settings
from swarm.core.doctor.evidence import BoxEvidence, Finding
from swarm.core.doctor.host import box_findings
from swarm.core.doctor.processes import process_findings
from swarm.core.doctor.workload import work_findings

_ORDER = {"critical": 0, "warning": 1}


def diagnose(evidence: BoxEvidence, settings: Settings) -> tuple[Finding, ...]:
    """Everything that is wrong with this box and the swarm on it; () when nothing is."""
    found = [*box_findings(evidence, settings), *process_findings(evidence, settings), *work_findings(evidence, settings)]
    return tuple(sorted(_once(found), key=lambda finding: _ORDER[finding.severity]))


def about(findings: tuple[Finding, ...], worker: str) -> tuple[Finding, ...]:
    """Those that concern this worker: its own, its server's, and what keeps everybody from working."""
    mine = {worker, f"ollama-{worker}", "box", "supervisor", "brain"}
    return tuple(f for f in findings if f.subject in mine or f.concerns == worker)


def _once(findings: list[Finding]) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    for finding in findings:
        key = (finding.code, finding.subject)
        if key not in seen:
            seen.add(key)
            yield finding
