"""Evidence about each swarm process: lock, registration, heartbeat, supervisor state, logs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from swarm.clock import parse_iso
from swarm.core.doctor.evidence import ProcessEvidence, Quote
from swarm.core.worker import WorkerRow
from swarm.errors import SwarmError
from swarm.proc import identity
from swarm.proc.identity import read_stat
from swarm.proc.ports import describe
from swarm.queue.coordination import is_held
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.supervisor.state import HTTP, RAY, ChildStatus, SupervisorStatus
from swarm.views.doctor.log_ends import LogEnd

T = TypeVar("T")
D = TypeVar("D")
_REFUSES, _WORKS = (
    r"The disk refuses|cannot (write its heartbeat|read the queue)",
    r"The disk works again|Brain can .* again",
)
_BEGINS = r"Worker initialized|starting main loop"


def process_evidence(
    layout: Layout, workers: Iterable[str], status: SupervisorStatus | None, now_s: float, *, trust_clock: bool
) -> Iterator[ProcessEvidence]:
    """Supervisor, brain, HTTP server, Ray driver, workers, model servers; those that never ran are left out.

    So is an HTTP server or a Ray driver that neither runs nor is to run: there may have been one only once; and a worker
    of another machine that the supervisor keeps no more.
    """
    ends = LogEnd(f"{layout.logs}/supervisor.log", now_s)
    roles = {name: name for name in ("supervisor", "brain", HTTP, RAY)}
    for name in (*roles, *(name for name in workers if name not in roles)):
        row = readable(None, registry.read_row, layout, name)
        child = status.child(name) if status is not None else None
        alive = readable(False, is_held, layout, name)
        if status is not None and child is None and row is not None and row.node and not alive:
            continue  # its node went, and it with that
        if (row is not None and name not in (HTTP, RAY)) or child is not None or alive:
            found = _process(layout, name, row, now_s, alive=alive)
            yield msgspec.structs.replace(
                found,
                role=roles.get(name, "worker"),
                beat_age_s=_beat_age_s(layout, name, row, now_s) if alive and trust_clock else None,
                ended=ends.last_match(rf"^{re.escape(name)} (ended|quarantined)\b"),
                **_supervised(child),
            )
    for child in status.children if status is not None else ():
        if child.role == "server":
            alive = child.pid is not None and identity.of_pid(child.pid) is not None
            last = LogEnd(f"{layout.logs}/{child.name}.log", now_s).last()
            yield ProcessEvidence(
                name=child.name, role="server", alive=alive, pid=child.pid, last_words=last, **_supervised(child)
            )


def readable(otherwise: D, look: Callable[..., T], *args: object) -> T | D:
    """What a look at the root tells; ``otherwise`` where it cannot be read, which is a finding of its own."""
    try:
        return look(*args)
    except (SwarmError, OSError, ValueError):
        return otherwise


def _process(layout: Layout, name: str, row: WorkerRow | None, now_s: float, *, alive: bool) -> ProcessEvidence:
    pid = row.process.pid if row is not None else None
    runs = row is not None and identity.is_same(row.process)
    stat = read_stat(pid) if pid is not None and runs else None
    other = identity.of_pid(pid) if pid is not None and not runs else None
    log, err = (LogEnd(f"{layout.logs}/{name}.{kind}", now_s) for kind in ("log", "err"))
    return ProcessEvidence(
        name=name,
        role="",
        alive=alive,
        pid=pid,
        row_path=layout.row(name),
        registered_runs=runs,
        lock_holder=lock_holder(layout.lock(name), besides=pid) if alive and not runs else "",
        number_taken_by=describe(other.pid) if other is not None else "",
        kernel_state=stat.state if stat is not None else "",
        crash=_latest(log.crash(), err.crash()),
        last_words=log.last() or err.last(),
        disk_trouble=log.standing(_REFUSES, f"{_WORKS}|{_BEGINS}"),
    )


def _supervised(child: ChildStatus | None) -> dict[str, Any]:
    """What the supervisor says of a process."""
    if child is None:
        return {}
    last_exit = child.last_exit or ""
    return {"state": str(child.state), "reason": child.reason, "last_exit": last_exit, "restarts": child.restarts}


def _beat_age_s(layout: Layout, name: str, row: WorkerRow | None, now_s: float) -> float | None:
    beat = readable(None, registry.read_heartbeat, layout, name)
    if beat is None or row is None or beat.epoch != row.epoch:
        return None
    written_s = readable(None, parse_iso, beat.written_at)
    return None if written_s is None else max(0.0, now_s - written_s)


def _latest(*crashes: Quote | None) -> Quote | None:
    known = [c for c in crashes if c is not None]
    return min(known, key=lambda crash: crash.age_s if crash.age_s is not None else float("inf"), default=None)


def lock_holder(path: str, *, besides: int | None) -> str:
    """Who holds a lock file by the kernel's list (``/proc/locks``); ``somebody`` where it does not say."""
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
