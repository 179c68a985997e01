"""Findings about our processes: which died of what, which hang, whose lock is whose."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.config.settings import Settings
from swarm.core.doctor.evidence import BoxEvidence, DoctorFinding, ProcessEvidence, Quote, critical, warning
from swarm.core.policy.alarms import supervisor_gone

FRESH_S = 3600.0
"""How long an end is reported after the supervisor has restarted the process."""
_UP = ("running", "draining", "stopping")


def process_findings(evidence: BoxEvidence, settings: Settings) -> Iterator[DoctorFinding]:
    """The supervisor first: where it is missing, much follows from it."""
    yield from _supervisor(evidence)
    yield from _brain(evidence)
    for process in evidence.processes:
        if process.role == "server":
            yield from _server(process)
            continue
        yield from _lock(process)
        if process.alive:
            yield from _silent(process, settings, may_write=not evidence.disk.refused)
        if process.role != "ray":  # said where its nodes are
            yield from _end(process, evidence)


def expected(evidence: BoxEvidence) -> bool:
    """Whether workers should be running: a supervisor lives, or died without saying that it is over."""
    supervisor = evidence.process("supervisor")
    return (supervisor is not None and supervisor.alive) or evidence.supervisor_phase in _UP


def _supervisor(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    process = evidence.process("supervisor")
    died = process is not None and evidence.supervisor_phase in _UP
    if process is None or process.alive or not (died or evidence.orphans):
        return
    proofs = [f"{process.row_path}: pid {process.pid}, which has ended; its last status says {evidence.supervisor_phase}"]
    gone = f"; {supervisor_gone(evidence.orphans)}" if evidence.orphans else ""
    memory = " (the kernel killed it because memory ran out)" if _memory(process, evidence, proofs) else ""
    yield critical(
        "supervisor-died",
        "supervisor",
        f"the supervisor died: processes that die now are not restarted{memory}{gone}",
        evidence=(*proofs, *_quotes(process.crash, process.last_words)),
        todo="`swarm up` (or `swarm up --detach`) adopts what still runs, `swarm down` ends it",
    )


def _brain(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    process = evidence.process("brain")
    alive = [p for p in evidence.processes if p.role == "worker" and p.alive]
    if (process is not None and process.alive) or not (alive or _lives(evidence, "supervisor")):
        return
    yield critical(
        "no-brain",
        "brain",
        "the brain is not running: workers go on, but no model is placed, no task released or requeued",
        evidence=("its process lock is free", *((f"supervisor: {_story(process)}",) if process and process.state else ())),
        todo="swarm logs brain -n 30; the supervisor starts it again, without one: `swarm up`",
    )


def _server(process: ProcessEvidence) -> Iterator[DoctorFinding]:
    worker = process.name.removeprefix("ollama-")
    then = f"swarm restart {process.name}"
    if process.state == "quarantined":
        then = f"swarm workers release {worker}"
        code, what = "quarantined", f"its card is in quarantine: {process.reason}"
    elif process.state == "backoff" and process.last_exit:
        code, what = "server-failed", f"it does not start: {process.last_exit}"
    else:
        return
    yield critical(
        code,
        process.name,
        f"the model server of {worker}: {what}",
        evidence=(f"supervisor: {_story(process)}", *_quotes(process.last_words)),
        concerns=worker,
        todo=f"swarm logs {process.name} -n 50; then `{then}`",
    )


def _lock(process: ProcessEvidence) -> Iterator[DoctorFinding]:
    if process.alive and process.lock_holder:
        yield critical(
            "lock-held",
            process.name,
            f"the process lock of {process.name} is held by {process.lock_holder}, which is not the registered process",
            evidence=(f"{process.row_path.removesuffix('.json')}.lock", f"{process.row_path}: pid {process.pid}"),
            todo="it may be starting, or run in a container (ask `swarm doctor` there); else end that process",
        )


def _silent(process: ProcessEvidence, settings: Settings, *, may_write: bool) -> Iterator[DoctorFinding]:
    limit_s = settings.worker.heartbeat_stale_s
    age = f"last heartbeat {process.beat_age_s:.0f} s ago (limit {limit_s:.0f} s)" if process.beat_age_s is not None else ""
    proofs = tuple(t for t in (f"/proc/{process.pid}/stat: state {process.kernel_state}", age) if t)
    if process.kernel_state in ("T", "t"):
        yield critical(
            "stopped",
            process.name,
            f"{process.name} (pid {process.pid}) is stopped: somebody sent SIGSTOP, or a debugger holds it",
            evidence=proofs,
            todo=f"kill -CONT {process.pid}{_brain_kills(process, 'a stopped worker and requeues its tasks')}",
        )
    elif process.kernel_state == "D":
        yield warning(
            "stuck-in-kernel",
            process.name,
            f"{process.name} (pid {process.pid}) is blocked in the kernel, where nothing can kill it",
            evidence=proofs,
            todo="look again: if it lasts, a disk or the GPU driver hangs; see `dmesg`",
        )
    elif process.beat_age_s is not None and process.beat_age_s > limit_s and may_write:
        yield critical(
            "heartbeat-stale",
            process.name,
            f"{process.name} lives but sends no heartbeat",
            evidence=(*proofs, *_quotes(process.last_words)),
            todo=f"swarm logs {process.name} -n 30{_brain_kills(process, 'a worker that sends no heartbeat')}",
        )


def _brain_kills(process: ProcessEvidence, what: str) -> str:
    return f"; the brain kills {what}" if process.role == "worker" else f"; swarm restart {process.name} --now"


def _end(process: ProcessEvidence, evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    """How it ended last: while it is down, and for an hour after it was started again."""
    if process.name == "supervisor":
        return
    drained = process.state == "exited" and evidence.supervisor_phase == "running"  # with its node, as was asked
    down = not process.alive and expected(evidence) and not drained
    fresh = any(q is not None and q.age_s is not None and q.age_s < FRESH_S for q in (process.ended, process.crash))
    abnormal = process.crash is not None or (process.last_exit not in ("", "exit code 0"))
    if not down and not (abnormal and fresh and expected(evidence)):
        return
    proofs: list[str] = []
    code, how = _cause(process, evidence, proofs)
    if not down and code == "down":
        return
    state = "is down" if down else "was started again"
    if process.number_taken_by:
        proofs.append(f"{process.row_path}: its pid {process.pid} now belongs to another process, {process.number_taken_by}")
    told = f"supervisor: {_story(process)}" if process.state else ""
    quotes = _quotes(process.ended, process.crash, process.last_words if down else None)
    yield DoctorFinding(
        severity="critical" if down else "warning",
        code=code,
        subject=process.name,
        what=f"{process.name} {state}: {how}",
        evidence=(*proofs, *(t for t in (told,) if t), *quotes),
        next=_remedy(code, process, evidence),
    )


def _cause(process: ProcessEvidence, evidence: BoxEvidence, proofs: list[str]) -> tuple[str, str]:
    if _memory(process, evidence, proofs):
        return "out-of-memory", f"the kernel killed it (pid {process.pid}) because memory ran out"
    if process.crash is not None:
        return "crashed", f"unhandled exception: {process.crash.text}"
    if "SIGKILL" in process.last_exit:
        if evidence.cgroup_kills is not None:
            proofs.append(str(evidence.cgroup_kills))
            return "killed", "killed by SIGKILL: probably out of memory, or by hand"
        return "killed", "killed by SIGKILL: by hand, or by the brain because it sent no heartbeat"
    if process.last_exit and process.last_exit != "exit code 0":
        return "exited", process.last_exit
    return "down", process.reason or "it is not running"


def _memory(process: ProcessEvidence, evidence: BoxEvidence, proofs: list[str]) -> bool:
    """Whether the kernel says that it killed this very process; ``proofs`` gets its words."""
    said = next((quote for pid, quote in evidence.kernel_kills if pid == process.pid), None)
    if said is not None:
        proofs.append(str(said))
    return said is not None


def _remedy(code: str, process: ProcessEvidence, evidence: BoxEvidence) -> str:
    look = f"swarm logs {process.name} -n 50"
    again = "" if _lives(evidence, "supervisor") else "; `swarm up` starts it again"
    match code:
        case "out-of-memory":
            return f"give machine or control group more memory, or lower worker.max_tasks_per_worker and llm.slots{again}"
        case "crashed":
            return f"{look}; its stderr is in {process.name}.err beside it; report the traceback{again}"
        case "killed":
            return f"{look}; journalctl -k around that time{again}"
        case _:
            return f"{look}{again}"


def _lives(evidence: BoxEvidence, name: str) -> bool:
    process = evidence.process(name)
    return process is not None and process.alive


def _story(process: ProcessEvidence) -> str:
    """What the supervisor says of it."""
    parts = [process.state, process.reason, f"{process.restarts} restarts" if process.restarts else ""]
    if process.last_exit and process.last_exit not in process.reason:
        parts.append(f"last end: {process.last_exit}")
    return "; ".join(part for part in parts if part)


def _quotes(*quotes: Quote | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(q) for q in quotes if q is not None))
