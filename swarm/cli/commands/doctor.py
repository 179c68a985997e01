"""``swarm doctor``: diagnoses this machine and its swarm, with evidence and advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from swarm.cli.command_options import ShowOptions, Simulate, arg
from swarm.errors import EXIT_TASKS_FAILED
from swarm.views.blocks import Block, Line, Style
from swarm.views.words import plural

if TYPE_CHECKING:
    from swarm.core.doctor.evidence import BoxEvidence, DoctorFinding


def doctor(
    at: ShowOptions,
    worker: str | None = arg("[WORKER]", "Only what concerns this worker.", None),
    simulate: Simulate = None,
) -> None:
    """Find what is wrong: findings, their evidence, what to do.

    Checks disk, permissions, clock, limits, cards, engines, programs, ports, locks, processes, logs, servers, models, other
    machines (relays, tokens, versions), and what the host and the file system can do. Changes nothing; also useful before
    the first start. Exit code 0 if nothing is wrong, 1 with findings.

    \b
    Examples:
      swarm doctor
      swarm doctor worker-2
      swarm doctor --json | jq '.findings[].code'
    """
    from swarm.views.doctor.gather import gather
    from swarm.views.doctor.report import doctor_report

    loaded = at.load()
    file = str(loaded.path) if loaded.path else None
    evidence = gather(loaded.settings, simulate=simulate)
    report = doctor_report(evidence, loaded.settings, file=file, worker=worker)
    configured = Line(f"  configuration: {file or 'none, these are the defaults'}", "dim")
    at.show(report, [*_blocks(evidence, worker, report.findings), configured])
    if report.findings:
        raise typer.Exit(EXIT_TASKS_FAILED)


def _blocks(evidence: BoxEvidence, worker: str | None, found: tuple[DoctorFinding, ...]) -> list[Block]:
    whom = worker or evidence.root
    note: list[Block] = [Line(evidence.cards_note, "yellow")] if evidence.cards_note else []
    if not found:
        return [Line(f"{whom}: nothing is wrong", "green"), *note, *_checked(evidence)]
    blocks: list[Block] = [Line(f"{whom}: {plural(len(found), 'finding')}", "bold"), *note]
    for finding in found:
        style: Style = "bold red" if finding.severity == "critical" else "yellow"
        blocks += [Line(""), Line(f"{finding.severity.upper()} [{finding.code}] {finding.what}", style)]
        blocks += [Line(f"  seen: {proof}", "dim") for proof in finding.evidence]
        blocks.append(Line(f"  do:   {finding.next}"))
    return [*blocks, Line(""), *_tried(evidence)]


def _checked(evidence: BoxEvidence) -> list[Block]:
    """What a clean bill of health rests on."""
    disk = evidence.disk
    alive = [p.name for p in evidence.processes if p.alive]
    lines = [
        f"disk: {disk.free_mib} of {disk.total_mib} MiB free at {disk.path}",
        f"cards: {len(evidence.cards)}{' (simulated)' if evidence.simulated else ''}, workers planned: {len(evidence.plan)}",
        f"running: {', '.join(alive) if alive else 'nothing; start with `swarm up`'}",
    ]
    lines += [f"engine {engine}" for engine in evidence.engines]
    lines += [f"node {node}" for node in evidence.nodes]
    return [*(Line(f"  {line}", "dim") for line in lines), *_tried(evidence)]


def _tried(evidence: BoxEvidence) -> list[Block]:
    """What this host and the file system of the root can do."""
    return [Line(f"  {check.verdict:8} {check}", "dim") for check in evidence.checks]
