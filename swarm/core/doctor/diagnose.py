"""Turns evidence into findings of ``swarm doctor``: problem, evidence, advice.

* The worst come first, and causes before symptoms.
* Findings about the work are made here, those about the machine and the processes in ``host`` and ``processes``.
"""

from __future__ import annotations

from collections.abc import Iterator

from swarm.config.settings import Settings
from swarm.core.doctor.evidence import BoxEvidence, DoctorFinding, critical, warning
from swarm.core.doctor.host import box_findings
from swarm.core.doctor.node_findings import node_findings
from swarm.core.doctor.processes import expected, process_findings
from swarm.core.gpu_reading import GpuReading, named
from swarm.core.health.liveness import stuck, workers_of
from swarm.core.placement.fit import what_helps
from swarm.core.placement.node_models import absent_words, how_to_get, lacked_models, node_name, nodes_with
from swarm.core.policy.alarms import alarms
from swarm.core.snapshot import SwarmSnapshot


def work_findings(evidence: BoxEvidence, settings: Settings) -> Iterator[DoctorFinding]:
    """What keeps tasks waiting although the box is well."""
    yield from _servers(evidence)
    snapshot = evidence.snapshot
    if snapshot is None:
        return
    yield from _models(evidence, snapshot)
    yield from _models_of_nodes(snapshot)
    yield from _idle_box(evidence, snapshot)
    yield from _disk_words(evidence)
    yield from _pauses(snapshot)
    yield from _alarms(evidence, snapshot, settings)
    for claim in stuck(snapshot, settings):
        yield warning(
            "stuck",
            claim.task_id,
            f"task {claim.task_id} on {claim.worker} has made no progress for {claim.quiet_s:.0f} s",
            evidence=(f"attempt {claim.attempt}, progress {claim.progress}; limit: {settings.brain.stuck_after_s:g} s",),
            concerns=claim.worker,
            todo="swarm queue clear-stuck",
        )


def _servers(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    for server in evidence.servers:
        worker = evidence.process(server.worker)
        if not server.error or server.port_holder or worker is None or not worker.alive:
            continue
        path = "/api/version" if server.ollama else "/v1/models"
        owner = "external, swarm neither starts nor stops it" if server.adopted else "swarm's own"
        yield critical(
            "server-unreachable",
            server.name,
            f"the model server of {server.worker} does not answer: {server.error}",
            evidence=(f"GET {server.url}{path}: {server.error}", f"the server is {owner}"),
            concerns=server.worker,
            todo=(
                f"curl {server.url}{path}; " + ("start that server" if server.adopted else f"swarm logs {server.name} -n 50")
            ),
        )


def _models(evidence: BoxEvidence, snapshot: SwarmSnapshot) -> Iterator[DoctorFinding]:
    """Tasks that wait for a model which no server has. Said only when every server was asked and answered."""
    if not evidence.servers or any(server.installed is None for server in evidence.servers):
        return
    for model, waiting in snapshot.llm_pending().items():
        elsewhere = any(nodes_with(model, snapshot))
        if elsewhere or any(model in (server.installed or ()) for server in evidence.servers):
            continue
        lists = tuple(
            f"{f'{s.url}/api/tags' if s.ollama else s.name}: {', '.join(s.installed or ()) or 'no models'}"
            for s in evidence.servers
        )
        yield critical(
            "model-missing",
            model,
            f"{waiting} tasks wait for {model}, which no server has",
            evidence=lists,
            todo=f"swarm models pull {model}, or cancel those tasks",
        )


def _models_of_nodes(snapshot: SwarmSnapshot) -> Iterator[DoctorFinding]:
    """Cards that are idle although tasks wait, since only other nodes have the model."""
    for lack in lacked_models(snapshot):
        yield warning(
            "model-not-on-node",
            f"{node_name(lack.node)} {lack.model}",
            f"{lack.waiting} tasks wait for {lack.model}: {absent_words(lack.node, lack.model, lack.found_on)}",
            evidence=(f"idle there: {', '.join(lack.idle)}",),
            todo=how_to_get(lack.model, lack.node),
        )


def _idle_box(evidence: BoxEvidence, snapshot: SwarmSnapshot) -> Iterator[DoctorFinding]:
    waiting = sum(lane.pending for lane in snapshot.lanes)
    if waiting and not any(view.alive for view in workers_of(snapshot)) and not expected(evidence):
        yield warning(
            "not-running",
            "box",
            f"{waiting} tasks wait and no worker runs",
            evidence=(f"supervisor: {evidence.supervisor_phase or 'was never started here'}",),
            todo="swarm up",
        )


def _disk_words(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    """A process still refuses work because of a disk that looks well from here: another limit (quota) may be its own."""
    for process in evidence.processes:
        if process.alive and process.disk_trouble is not None:
            yield critical(
                "disk-trouble",
                process.name,
                f"{process.name} reports disk errors",
                evidence=(str(process.disk_trouble),),
                todo="make room or repair that disk (`df -h`, `df -i`, `quota`, `dmesg`); work resumes by itself",
            )


def _pauses(snapshot: SwarmSnapshot) -> Iterator[DoctorFinding]:
    for pause in snapshot.pauses.pauses:
        yield warning(
            "paused",
            pause.name or "box",
            f"{pause.words}: no task of it is started",
            evidence=("control/pauses.json",),
            concerns=pause.name if pause.kind == "worker" else "",
            todo=pause.way_out,
        )


def _alarms(evidence: BoxEvidence, snapshot: SwarmSnapshot, settings: Settings) -> Iterator[DoctorFinding]:
    """What the brain itself would warn about; what is said above with more evidence is left out."""
    silent = {p.name for p in evidence.processes if not p.alive} | {s.worker for s in evidence.servers if s.error}
    relays = [relay for node in evidence.nodes for relay in node.relays if not relay.not_asked]
    silent |= {card.worker for relay in relays for card in relay.cards if relay.trouble or card.refused}
    for alarm in alarms(snapshot, settings):
        kind, _, name = alarm.key.partition(":")
        worker, _, model = name.partition(":")
        numbers = _load_numbers(snapshot, worker, model)
        match kind:
            case "heartbeat" | "card_lost" | "no-worker" | "load-stale" | "paused":
                continue  # a pause is said below
            case "unready" if worker in silent:
                continue
            case "node-unready":
                of_node = {view.name for view in workers_of(snapshot) if view.node == name}
                if of_node <= silent:
                    continue
                code, subject, step = "unready", name, f"swarm logs --node {name} -n 30"
                numbers = tuple(words for one in sorted(of_node) for words in _own_words(snapshot, one))
            case "load-failed":
                code, subject, step = "load-failed", worker, f"swarm logs {worker} --grep load -n 20; swarm models"
            case "model-missing":
                code, subject, step = "model-missing", name, f"swarm models pull {name}, or cancel those tasks"
            case "fits-nowhere":
                code, subject, step = "fits-nowhere", name, what_helps(name)
                numbers = tuple(line for w in workers_of(snapshot) for line in _load_numbers(snapshot, w.name, name))
            case "live-waits":
                yield warning(kind, name, alarm.reason, evidence=_live_numbers(snapshot, name), todo=f"swarm explain {name}")
                continue
            case "no-llm-worker":
                code, subject, step = "no-server", "box", "give a worker a card or ollama_url in [[workers]]"
            case _:
                code, subject, step = kind, worker, f"swarm explain {worker}; swarm logs {worker} -n 30"
        yield critical(code, subject, alarm.reason, evidence=numbers or _own_words(snapshot, worker), todo=step)


def _live_numbers(snapshot: SwarmSnapshot, model: str) -> tuple[str, ...]:
    """What the workers that hold the model say of their places, and the HTTP server of its clients."""
    view = next(view for view in snapshot.live if view.model == model)
    beats = [w.heartbeat for w in workers_of(snapshot) if w.alive and w.heartbeat is not None]
    places = (
        f"heartbeats/{beat.name}.json: {beat.live.in_flight} live requests, at most {beat.live.limit}"
        for beat in beats
        if beat.model == model and beat.live is not None
    )
    return (f"live/demand.json: {view.waiting} wait for {model}, {view.in_flight} are at workers", *places)


def _load_numbers(snapshot: SwarmSnapshot, worker: str, model: str) -> tuple[str, ...]:
    view = snapshot.worker(worker)
    tally = view.heartbeat.models.get(model) if view is not None and view.heartbeat is not None else None
    if view is None or tally is None:
        return ()
    uuids = view.row.gpu_uuids if view.row is not None else ()
    cards = (f"{c.title}: {_memory(c)}" for c in named(snapshot.gpus, uuids))
    size = f", its size {tally.size_mib} MiB" if tally.size_mib else ""
    return (f"heartbeats/{worker}.json: {tally.load_failures} loads of {model} failed in a row{size}", *cards)


def _memory(card: GpuReading) -> str:
    used, total = ("?" if mib is None else str(mib) for mib in (card.memory_used_mib, card.memory_total_mib))
    return f"{used}/{total} MiB used" if (used, total) != ("?", "?") else "the driver does not report its memory"


def _own_words(snapshot: SwarmSnapshot, worker: str) -> tuple[str, ...]:
    view = snapshot.worker(worker)
    if view is None or view.heartbeat is None:
        waiting = ", ".join(f"{lane.lane}: {lane.pending}" for lane in snapshot.lanes if lane.pending)
        return (f"pending: {waiting}",)
    return (f"heartbeats/{worker}.json: {view.heartbeat.status}, {view.heartbeat.reason or 'no reason given'}",)


_ORDER = {"critical": 0, "warning": 1}


def diagnose(evidence: BoxEvidence, settings: Settings) -> tuple[DoctorFinding, ...]:
    """Everything that is wrong with this box and the swarm on it; () when nothing is."""
    found = [*box_findings(evidence, settings), *process_findings(evidence, settings), *node_findings(evidence)]
    found += work_findings(evidence, settings)
    return tuple(sorted(_once(found), key=lambda finding: _ORDER[finding.severity]))


def about(findings: tuple[DoctorFinding, ...], worker: str) -> tuple[DoctorFinding, ...]:
    """Those that concern this worker: its own, its server's, and what keeps everybody from working."""
    mine = {worker, f"ollama-{worker}", f"models-{worker}", "box", "supervisor", "brain"}
    return tuple(f for f in findings if f.subject in mine or worker in f.concerns.split(", "))


def _once(findings: list[DoctorFinding]) -> Iterator[DoctorFinding]:
    seen: set[tuple[str, str]] = set()
    for finding in findings:
        key = (finding.code, finding.subject)
        if key not in seen:
            seen.add(key)
            yield finding
