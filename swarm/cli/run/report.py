"""What made a batch what it is, in one file: models by digest, options, versions, cards, counts, tokens."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from swarm import __version__
from swarm.clock import SystemClock, iso_of
from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.task import canonical_model
from swarm.ollama.server import client_of
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.tally import Sums, Tally
from swarm.queue.file_queue import FileQueue
from swarm.queue.storage.locks import is_held
from swarm.queue.stores import registry

VERSION_TIMEOUT_S = 2.0


def write_report(queue: FileQueue, settings: Settings, manifest: Manifest, tally: Tally) -> str:
    """Write ``batches/<id>.report.json`` and return its path. Raises ``OSError``."""
    path = f"{queue.layout.batches}/{manifest.batch_id}.report.json"
    data = msgspec.json.format(msgspec.json.encode(report(queue, settings, manifest, tally)), indent=2) + b"\n"
    queue.storage.replace(path, data, durable=True)
    return path


def report(queue: FileQueue, settings: Settings, manifest: Manifest, tally: Tally) -> dict[str, Any]:
    """Everything that is known of how these answers came to be. What nobody measured (energy) is not in it."""
    sums = tally.all
    configured = {canonical_model(name): model for name, model in settings.models.items()}
    return {
        "batch_id": manifest.batch_id,
        "written_at": SystemClock().iso(),
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
        **_work(sums),
        "errors": sums.errors,
    }


def _work(sums: Sums) -> dict[str, Any]:
    span = sums.span
    return {
        "tokens": {"in": sums.tokens_in, "out": sums.tokens_out},
        "attempts": sums.attempts,
        "started_at": None if span is None else iso_of(span[0]),
        "ended_at": None if span is None else iso_of(span[1]),
        "card_s": round(sums.card_s, 3),
        "cards": {card: round(sum(e - b for b, e in spans), 3) for card, spans in sorted(sums.cards.items())},
        "workers": dict(sorted(sums.by_worker.items())),
        "cached": saved(sums),
        "simulated": sums.simulated,
    }


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
    """What the living workers' servers call themselves."""
    found = {}
    for name in registry.names(queue.layout):
        row = registry.read_row(queue.layout, name)
        if row is None or row.url is None or not is_held(queue.layout, name):
            continue
        with client_of(name, row.url, root=Path(queue.layout.root), adopted=row.adopted) as client:
            try:
                found[name] = client.version(VERSION_TIMEOUT_S)
            except TaskFault as fault:
                found[name] = f"no answer: {fault.message}"
    return found
