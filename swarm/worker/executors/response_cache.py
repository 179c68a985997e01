"""Answers given before: the same request to the same model, by digest, is answered from a store where that is wanted.

Answers given before, by key, under ``cache/``: bounded, shared by all workers of a root, and free to be deleted.

Each of 256 directories holds its share of the bound; what was used longest ago goes first. Nothing is flushed: an entry
that a power cut tears is no entry.

The cache of answers, put together: its files, and the server's word on which model a name means.
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
from typing import Any, Protocol

import msgspec

from swarm.config.settings import LlmSettings, ModelSettings, Settings
from swarm.core.claim import Claim
from swarm.core.faults import CancelToken, Progress, TaskFault
from swarm.core.model_options import ModelTable
from swarm.core.task import Task, Trail, canonical_model
from swarm.filesystem.entries import list_names, status_of
from swarm.ollama.client import OllamaClient
from swarm.queue.layout import Layout
from swarm.queue.storage.files import Storage, read_regular
from swarm.runtime.ports import Executor
from swarm.worker.executors.llm import request_body

_NO_MATTER = ("model", "keep_alive")
"""Fields of a body that change no answer: the digest says which model it is."""
_encode = msgspec.json.Encoder(order="sorted").encode


class AnswerStore(Protocol):
    """Bytes by key."""

    def get(self, key: str) -> bytes | None:
        """What is there; None: nothing that can be read."""
        ...

    def put(self, key: str, data: bytes) -> bool:
        """Keep it; False: it is not kept. Raises ``OSError``."""
        ...


class Digests(msgspec.Struct, frozen=True):
    """Which model a name means. Both answer None where that cannot be told."""

    installed: Callable[[str], str | None]
    """What the next request would be answered by."""
    loaded: Callable[[str], str | None]
    """What has just answered."""


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the store."""

    key: str
    digest: str
    result: dict[str, Any]
    simulated: bool = False


class WithAnswers:
    """Fits the ``Executor`` port: another executor, spared what it has answered before. Safe from several threads."""

    def __init__(
        self,
        inner: Executor,
        store: AnswerStore,
        digests: Digests,
        settings: LlmSettings,
        *,
        models: Mapping[str, ModelSettings],
        simulated: bool,
        log: logging.Logger,
    ) -> None:
        self._inner = inner
        self._store = store
        self._digests = digests
        self._settings = settings
        self._models = ModelTable(models)
        self._simulated = simulated
        self._log = log

    def run(self, claim: Claim, *, cancel: CancelToken, progress: Progress) -> Trail:
        """From the store where the task wants that and it is there; else run it, and keep what it answers.

        Raises ``TaskFault``.
        """
        task = claim.task
        wanted = self._settings.cache if task.cache is None else task.cache
        digest = self._digests.installed(task.model or "") if wanted else None
        if not digest:
            return self._inner.run(claim, cancel=cancel, progress=progress)
        key = self._key(task, digest)
        kept = self._find(key, digest)
        if kept is not None:
            return Trail(result=kept.result, simulated=kept.simulated, cached=True)
        trail = self._inner.run(claim, cancel=cancel, progress=progress)
        # The model may have been pulled anew while it ran; then nobody can say which of the two has answered.
        if trail.result is not None and self._digests.loaded(task.model or "") == digest:
            self._keep(Kept(key, digest, trail.result, trail.simulated))
        return trail

    def _key(self, task: Task, digest: str) -> str:
        body = request_body(task, self._models, num_predict=self._settings.num_predict)
        asked = {name: value for name, value in body.items() if name not in _NO_MATTER}
        whole = [digest, task.endpoint, asked, [image.sha256 for image in task.images], self._simulated]
        return hashlib.blake2b(_encode(whole), digest_size=32, person=b"swarm-answer-1").hexdigest()

    def _find(self, key: str, digest: str) -> Kept | None:
        data = self._store.get(key)
        if data is None:
            return None
        try:
            kept = msgspec.json.decode(data, type=Kept)
        except (ValueError, RecursionError):  # torn; the next answer replaces it
            return None
        return kept if (kept.key, kept.digest) == (key, digest) else None

    def _keep(self, kept: Kept) -> None:
        try:
            self._store.put(kept.key, msgspec.json.encode(kept))
        except OSError as error:  # the task is answered all the same
            self._log.warning("Cannot keep an answer in the cache: %s", error)


SHARDS = 256
_ENTRY = re.compile(r"[0-9a-f]+\.json").fullmatch
LARGEST_SHARE = 4
"""An entry that would take more than one part in so many of its directory's share is not kept."""


class AnswerFiles:
    """Fits the ``AnswerStore`` port. Safe from several threads and processes."""

    def __init__(self, layout: Layout, *, max_bytes: int) -> None:
        self._folder = layout.cache
        self._storage = Storage("fast", layout.root)
        self._share = max_bytes // SHARDS
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was put under this key of at least three hex digits, and a note that it was used; None: nothing."""
        path = self._path(key)
        try:
            data = read_regular(path, self._share)
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
        """Another process may remove the same files meanwhile; nobody misses one that is gone, but for one being written."""
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


TIMEOUT_S = 5.0


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...


def with_answers(
    inner: Executor, layout: Layout, settings: Settings, client: OllamaClient, *, simulated: bool, log: logging.Logger
) -> Executor:
    """An executor of llm tasks that uses the cache for the tasks that want it."""

    def installed(model: str) -> str | None:
        return _digest(model, client.tags)

    def loaded(model: str) -> str | None:
        return _digest(model, client.ps)

    return WithAnswers(
        inner,
        AnswerFiles(layout, max_bytes=settings.llm.cache_mib << 20),
        Digests(installed, loaded),
        settings.llm,
        models=settings.models,
        simulated=simulated,
        log=log,
    )


def _digest(model: str, listing: Callable[[float], Sequence[_Named]]) -> str | None:
    wanted = canonical_model(model)
    try:
        found = next((one.digest for one in listing(TIMEOUT_S) if one.name == wanted), None)
    except TaskFault:  # the request itself will meet it, and is judged by it
        return None
    return found or None
