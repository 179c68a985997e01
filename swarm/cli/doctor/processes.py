"""What is known of each process of ours: lock, row, heartbeat, the supervisor's word, the ends of its logs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from swarm.cli.doctor.log_ends import LogEnd
from swarm.clock import parse_iso
from swarm.core.doctor.evidence import ProcessEvidence, Quote
from swarm.core.worker import WorkerRow
from swarm.errors import SwarmError
from swarm.proc import identity
from swarm.proc.identity import read_stat
from swarm.proc.ports import describe
from swarm.queue.layout import Layout
from swarm.queue.storage.locks import is_held
from swarm.queue.stores import registry
from swarm.supervisor.state import ChildStatus, SupervisorStatus

_REFUSES, _WORKS = (
    r"The disk refuses|cannot (write its heartbeat|read the queue)",
    r"The disk works again|Brain can .* again",
)
_BEGINS = r"Worker initialized|starting main loop"


def process_evidence(
    layout: Layout, workers: Iterable[str], status: SupervisorStatus | None, now_s: float, *, trust_clock: bool
) -> Iterator[ProcessEvidence]:
    """Supervisor, brain, workers, servers; those that never were are left out."""
    ends = LogEnd(f"{layout.logs}/supervisor.log", now_s)
    roles = {"supervisor": "supervisor", "brain": "brain"} | {
        n: "worker" for n in workers if n not in ("supervisor", "brain")
    }
    for name, role in roles.items():
        row = _row(layout, name)
        child = status.child(name) if status is not None else None
        if row is not None or child is not None or _held(layout, name):
            yield _process(layout, name, role, row, child, ends, now_s, trust_clock=trust_clock)
    for child in status.children if status is not None else ():
        if child.role == "server":
            yield _server(layout, child, now_s)


def _process(
    layout: Layout,
    name: str,
    role: str,
    row: WorkerRow | None,
    child: ChildStatus | None,
    ends: LogEnd,
    now_s: float,
    *,
    trust_clock: bool,
) -> ProcessEvidence:
    alive = _held(layout, name)
    pid = row.process.pid if row is not None else None
    runs = row is not None and identity.is_same(row.process)
    stat = read_stat(pid) if pid is not None and runs else None
    log, err = LogEnd(f"{layout.logs}/{name}.log", now_s), LogEnd(f"{layout.logs}/{name}.err", now_s)
    other = identity.of_pid(pid) if pid is not None and not runs else None
    return ProcessEvidence(
        name=name,
        role=role,
        alive=alive,
        pid=pid,
        row_path=layout.row(name),
        registered_runs=runs,
        lock_holder=lock_holder(layout.lock(name), besides=pid) if alive and not runs else "",
        number_taken_by=describe(other.pid) if other is not None else "",
        kernel_state=stat.state if stat is not None else "",
        state=str(child.state) if child is not None else "",
        reason=child.reason if child is not None else "",
        last_exit=(child.last_exit or "") if child is not None else "",
        restarts=child.restarts if child is not None else 0,
        beat_age_s=_beat_age_s(layout, name, row, now_s) if alive and trust_clock else None,
        ended=ends.last_match(rf"^{re.escape(name)} (ended|quarantined)\b"),
        crash=_latest(log.crash(), err.crash()),
        last_words=log.last() or err.last(),
        disk_trouble=log.standing(_REFUSES, f"{_WORKS}|{_BEGINS}"),
    )


def _held(layout: Layout, name: str) -> bool:
    try:
        return is_held(layout, name)
    except (SwarmError, OSError):
        return False


def _row(layout: Layout, name: str) -> WorkerRow | None:
    try:
        return registry.read_row(layout, name)
    except (SwarmError, OSError):
        return None  # see _beat_age_s


def _server(layout: Layout, child: ChildStatus, now_s: float) -> ProcessEvidence:
    own = identity.of_pid(child.pid) if child.pid is not None else None
    return ProcessEvidence(
        name=child.name,
        role="server",
        alive=own is not None,
        pid=child.pid,
        state=str(child.state),
        reason=child.reason,
        last_exit=child.last_exit or "",
        restarts=child.restarts,
        last_words=LogEnd(f"{layout.logs}/{child.name}.log", now_s).last(),
    )


def _beat_age_s(layout: Layout, name: str, row: WorkerRow | None, now_s: float) -> float | None:
    try:
        beat = registry.read_heartbeat(layout, name)
        if beat is None or row is None or beat.epoch != row.epoch:
            return None
        return max(0.0, now_s - parse_iso(beat.written_at))
    except (SwarmError, OSError, ValueError):
        return None  # a root that cannot be read is a finding of its own


def _latest(*crashes: Quote | None) -> Quote | None:
    known = [c for c in crashes if c is not None]
    return min(known, key=lambda crash: crash.age_s if crash.age_s is not None else float("inf"), default=None)


def lock_holder(path: str, *, besides: int | None) -> str:
    """Who holds a lock file by the kernel's list (``/proc/locks``); ``somebody`` where it does not tell."""
    try:
        wanted = os.lstat(path).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return "somebody"
    for line in lines:
        words = line.split()
        # "1: FLOCK  ADVISORY  WRITE 4711 fd:01:123456 0 EOF"; one that waits has "->" in the second place.
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(wanted):
            pid = int(words[4])
            return describe(pid) if pid > 0 and pid != besides else "somebody"
    return "somebody"
