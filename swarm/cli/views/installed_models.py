"""What the living workers' servers have on disk: asked of all of them at once, each given little time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.health.liveness import workers_of
from swarm.core.snapshot import SwarmSnapshot
from swarm.core.worker import WorkerRow
from swarm.ollama.server import client_of

ASK_S = 2.0


class OnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One model on the servers' disks."""

    size_mib: int
    workers: tuple[str, ...]
    """Those whose servers have it."""


def installed_models(snapshot: SwarmSnapshot, root: str) -> Mapping[str, OnDisk]:
    """By canonical model name. A server that does not answer in time is left out: its worker says so itself."""
    rows = [w.row for w in workers_of(snapshot) if w.alive and w.row is not None and w.row.url is not None]
    if not rows:
        return {}
    with ThreadPoolExecutor(max_workers=min(16, len(rows))) as pool:
        answers = dict(zip((row.name for row in rows), pool.map(lambda row: _tags(row, Path(root)), rows), strict=True))
    found: dict[str, OnDisk] = {}
    for worker, models in answers.items():
        for model, size_mib in models:
            known = found.get(model, OnDisk(size_mib=size_mib, workers=()))
            found[model] = OnDisk(size_mib=max(known.size_mib, size_mib), workers=(*known.workers, worker))
    return found


def _tags(row: WorkerRow, root: Path) -> Iterable[tuple[str, int]]:
    assert row.url is not None
    client = client_of(row.name, row.url, root=root, adopted=row.adopted)
    try:
        return [(model.name, model.size_mib) for model in client.tags(ASK_S)]
    except TaskFault:
        return []
    finally:
        client.close()
