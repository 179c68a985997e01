"""Answers given before: the same request to the same model, by digest, is answered from a store where that is wanted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.claim import Claim
from swarm.core.task import Task, Trail
from swarm.runtime.model_server import ModelTable
from swarm.runtime.ports import CancelToken, Executor, Progress
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
