"""Setting aside what is no task, or has no place, with the reason beside it. Nothing is ever deleted here."""

from __future__ import annotations

import os

from swarm.taskqueue.layout import Layout
from swarm.taskqueue.storage import Storage

_NAME_BYTES = 100
"""A name cut in the middle of a character may grow by this once more; with ``.reason`` and more it must stay below 255."""


def set_aside(layout: Layout, storage: Storage, path: str, reason: str) -> str | None:
    """Move ``path`` to ``corrupt/`` and write ``<name>.reason``; returns the new name, None if the file is gone."""
    base = os.fsencode(os.path.basename(path))[:_NAME_BYTES].decode(errors="replace").replace("\ufffd", "_") or "unnamed"
    name = base
    for number in range(1, 10_000):
        try:
            storage.move(path, f"{layout.corrupt}/{name}")
            break
        except FileExistsError:
            name = f"{base}.{number}"
        except FileNotFoundError:
            return None
    storage.replace(f"{layout.corrupt}/{name}.reason", (reason.strip() + "\n").encode(), durable=True)
    return name
