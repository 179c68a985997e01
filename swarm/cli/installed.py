"""What the living workers' servers have on disk: asked of all of them at once, each given little time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.liveness import workers_of
from swarm.core.snapshot import SwarmSnapshot
from swarm.ollama.client import OllamaClient

ASK_S = 2.0


class OnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One model on the servers' disks."""

    size_mib: int
    workers: tuple[str, ...]
    """Those whose servers have it."""


def installed_models(snapshot: SwarmSnapshot) -> Mapping[str, OnDisk]:
    """By canonical model name. A server that does not answer in time is left out: its worker says so itself."""
    urls = {w.name: w.row.url for w in workers_of(snapshot) if w.alive and w.row is not None and w.row.url is not None}
    if not urls:
        return {}
    with ThreadPoolExecutor(max_workers=min(16, len(urls))) as pool:
        answers = dict(zip(urls, pool.map(_tags, urls.values()), strict=True))
    found: dict[str, OnDisk] = {}
    for worker, models in answers.items():
        for model, size_mib in models:
            known = found.get(model, OnDisk(size_mib=size_mib, workers=()))
            found[model] = OnDisk(size_mib=max(known.size_mib, size_mib), workers=(*known.workers, worker))
    return found


def _tags(url: str) -> Iterable[tuple[str, int]]:
    client = OllamaClient(url)
    try:
        return [(model.name, model.size_mib) for model in client.tags(ASK_S)]
    except TaskFault:
        return []
    finally:
        client.close()
