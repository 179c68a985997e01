"""The report of a batch: how its answers came to be.

It names models by digest, options, versions, cards, counts and tokens. What was not measured is null.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from swarm import __version__
from swarm.clock import iso_of, now_iso
from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.task import canonical_model
from swarm.engines.ollama.server import client_of
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.tally import Sums, Tally
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry

VERSION_TIMEOUT_S = 2.0


def report(queue: FileQueue, settings: Settings, manifest: Manifest, tally: Tally) -> dict[str, Any]:
    """Everything that is known of how these answers came to be. What was not measured is null."""
    sums = tally.all
    span = sums.span
    configured = {canonical_model(name): model for name, model in settings.models.items()}
    return {
        "batch_id": manifest.batch_id,
        "written_at": now_iso(),
        "source": {"path": manifest.source, "format": manifest.format, **_content(manifest.source)},
        "submitted_at": manifest.created_at,
        "options": manifest.options,
        "counts": {
            "items": sums.items + tally.left,
            "completed": tally.completed.items,
            "failed": tally.failed.items,
            "cancelled": tally.cancelled.items,
            "left": tally.left,
        },
        "models": {
            name: {"digests": digests, "configured": configured.get(canonical_model(name))}
            for name, digests in {**{key: {} for key in manifest.models}, **sums.digests}.items()
        },
        "defaults": {"num_predict": settings.llm.num_predict, "slots": settings.llm.slots},
        "versions": {"swarm": __version__, "submitted_by": manifest.version, "servers": _servers(queue)},
        "tokens": {"in": sums.tokens_in, "out": sums.tokens_out},
        "attempts": sums.attempts,
        "started_at": None if span is None else iso_of(span[0]),
        "ended_at": None if span is None else iso_of(span[1]),
        "card_s": round(sums.card_s, 3),
        "worked_s": round(sums.worked_s, 3),
        "energy_j": _energy_j(sums),
        "cards": {card: round(sum(e - b for b, e in spans), 3) for card, spans in sorted(sums.cards.items())},
        "workers": dict(sorted(sums.by_worker.items())),
        "cached": saved(sums),
        "simulated": sums.simulated,
        "errors": sums.errors,
    }


def _energy_j(sums: Sums) -> float | None:
    """Of the attempts of which it is known what the cards used meanwhile; None: of none."""
    metered = [one for models in sums.gave.values() for one in models.values() if one.metered]
    return round(sum(one.energy_j for one in metered), 1) if metered else None


def saved(sums: Sums) -> dict[str, Any]:
    """What answers from the cache have spared."""
    return {
        "requests": sums.cached,
        "tokens_in": sums.saved_in,
        "tokens_out": sums.saved_out,
        "seconds": round(sums.saved_s, 3),
    }


def _content(path: str) -> dict[str, Any]:
    """Size and hash of the input as it is now; nothing where there is no such file any more."""
    if not os.path.isfile(path):
        return {}
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}


def _servers(queue: FileQueue) -> dict[str, str]:
    """What the living workers' servers call themselves; of those in other machines by their workers' heartbeats."""
    found: dict[str, str] = {}
    for row in registry.living(queue.layout):
        if row.node:
            beat = registry.read_heartbeat(queue.layout, row.name)
            found |= {row.name: beat.server_version} if beat is not None and beat.server_version else {}
        if row.ollama_url is None:
            continue
        with client_of(row.name, row.ollama_url, root=Path(queue.layout.root), adopted=row.adopted) as client:
            try:
                found[row.name] = client.version(VERSION_TIMEOUT_S)
            except TaskFault as fault:
                found[row.name] = f"no answer: {fault.message}"
    return found
