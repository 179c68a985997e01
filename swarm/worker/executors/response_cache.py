"""The response cache: answers from files, by digest of the request and the model.

* The files lie under ``cache/``: bounded, shared by all workers of a root, and free to be deleted.
* Each of 256 directories holds its share of the bound; what was used longest ago goes first.
* Nothing is flushed: an entry that a power cut tears is no entry.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import InstalledModel, LoadedModel
from swarm.core.task import Task, Trail, canonical_model
from swarm.engines.engine_dispatch import WorkerServer
from swarm.filesystem.entries import list_names, read_file, status_of
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage

TIMEOUT_S = 5.0
_NO_MATTER = ("model", "keep_alive")
"""Fields of a body that change no answer: the digest says which model it is."""
_encode = msgspec.json.Encoder(order="sorted").encode


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the store."""

    key: str
    digest: str
    result: dict[str, Any]
    simulated: bool = False


class CacheKey(NamedTuple):
    """Where an answer is kept, and the model that gives it."""

    key: str
    digest: str


class ResponseCache:
    """The cache of one worker: its files, and its server's word on which model a name means."""

    def __init__(self, files: ResponseFiles, server: WorkerServer, *, simulated: bool, log: logging.Logger) -> None:
        self._files = files
        self._server = server
        self._simulated = simulated
        self._log = log

    def key(self, task: Task, body: Mapping[str, Any]) -> CacheKey | None:
        """The key of the answer to this request; None: the server cannot say which model would give it."""
        digest = _digest(task, self._server.tags)
        if digest is None:
            return None
        asked = {name: value for name, value in body.items() if name not in _NO_MATTER}
        whole = [digest, task.endpoint, asked, [image.sha256 for image in task.images], self._simulated]
        return CacheKey(hashlib.blake2b(_encode(whole), digest_size=32, person=b"swarm-answer-1").hexdigest(), digest)

    def find(self, key: CacheKey) -> Trail | None:
        """The answer, if it was given before."""
        data = self._files.get(key.key)
        if data is None:
            return None
        try:
            kept = msgspec.json.decode(data, type=Kept)
        except (ValueError, RecursionError):  # torn; the next answer replaces it
            return None
        if (kept.key, kept.digest) != key:
            return None
        return Trail(result=kept.result, simulated=kept.simulated, cached=True)

    def keep(self, key: CacheKey, task: Task, trail: Trail) -> None:
        """Keep an answer. A disk that refuses fails nothing.

        Not if the model was pulled anew while it ran: then nobody can say which of the two has answered.
        """
        if trail.result is None or _digest(task, self._server.ps) != key.digest:
            return
        try:
            self._files.put(key.key, msgspec.json.encode(Kept(*key, trail.result, trail.simulated)))
        except OSError as error:
            self._log.warning("Cannot keep an answer in the cache: %s", error)


def _digest(task: Task, listing: Callable[[float], Sequence[InstalledModel | LoadedModel]]) -> str | None:
    wanted = canonical_model(task.model or "")
    try:
        found = next((one.digest for one in listing(TIMEOUT_S) if one.name == wanted), None)
    except TaskFault:  # the request itself will meet it, and is judged by it
        return None
    return found or None


SHARDS = 256
_ENTRY = re.compile(r"[0-9a-f]+\.json").fullmatch
LARGEST_SHARE = 4
"""An entry that would take more than one part in so many of its directory's share is not kept."""


class ResponseFiles:
    """Bytes by key. Safe from several threads and processes."""

    def __init__(self, layout: Layout, *, max_bytes: int) -> None:
        self._folder = layout.cache
        self._storage = Storage("fast", layout.root)
        self._share = max_bytes // SHARDS
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was put under this key of at least three hex digits, and a note that it was used; None: nothing."""
        path = self._path(key)
        try:
            data = read_file(path, self._share)
        except (OSError, ValueError):
            return None
        with suppress(OSError):
            os.utime(path, follow_symlinks=False)
        return data

    def put(self, key: str, data: bytes) -> bool:
        """Keep it, in place of an earlier one; False: too large. Raises ``OSError`` when the disk refuses."""
        if len(data) * LARGEST_SHARE > self._share:
            return False
        path = self._path(key)
        with self._lock:
            self._storage.make_dir(os.path.dirname(path))
            self._storage.replace(path, data, durable=False)
            self._shrink(os.path.dirname(path))
        return True

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key[:2]}/{key[2:]}.json"

    def _shrink(self, folder: str) -> None:
        """Another process may remove the same files meanwhile: a missing one does no harm, except one being written."""
        found: list[tuple[int, int, str]] = []
        for name in (n for n in list_names(folder) if not n.startswith(".")):
            info = status_of(f"{folder}/{name}")
            if info is not None and stat.S_ISREG(info.st_mode) and _ENTRY(name):
                found.append((info.st_mtime_ns, info.st_size, f"{folder}/{name}"))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._share:
                return
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
