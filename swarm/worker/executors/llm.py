"""Runs llm tasks: fills in earlier results, builds the request, asks cache or server.

A task holds only paths and hashes of images, and only references to earlier results: both are put into its request when it
runs, and the task's own body never changes.
"""

from __future__ import annotations

import base64
from asyncio import to_thread
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from swarm.config.settings import LlmSettings, ModelSettings
from swarm.core.faults import Progress, TaskFault
from swarm.core.models.model_options import ModelTable, load_option_conflict
from swarm.core.models.model_server import Limits, Reply
from swarm.core.task import Claim, ImageRef, Task, Trail
from swarm.core.workflow import templating
from swarm.core.workflow.templating import EarlierResults, ReadEnded, TemplateError
from swarm.runtime.ports import ModelServer
from swarm.worker.attempt import packable
from swarm.worker.executors.embedding_packs import EmbeddingPacks
from swarm.worker.executors.response_cache import ResponseCache
from swarm.worker.executors.structured_output import ask_in_form

ReadImage = Callable[[ImageRef], bytes]
"""The content, as it was when the task was made. Raises ``OSError``; ``ValueError`` if it is not that any more."""


def with_results(task: Task, read: ReadEnded) -> Task:
    """The task with earlier results filled into its request; itself when it asks for none.

    Only what a task waits for can be asked for; a task that depends on nothing may have such texts in its prompt. Raises
    ``TaskFault`` (deterministic): ``result_unusable``.
    """
    if not task.depends_on or not any(r.startswith("results.") for r in templating.references(task.request)):
        return task
    earlier = EarlierResults(task, read)
    try:
        request = templating.fill(task.request, earlier.answer)
    except TemplateError as error:
        raise TaskFault("deterministic", "result_unusable", str(error)) from error
    return msgspec.structs.replace(task, request=request)


def with_images(body: Mapping[str, Any], task: Task, read: ReadImage) -> dict[str, Any]:
    """The body with the task's images in base64: with its last message of a user, or beside its prompt.

    Raises ``TaskFault``: ``image_unusable``.
    """
    images = [_encoded(ref, read) for ref in task.images]
    messages = body.get("messages")
    if not isinstance(messages, list):
        return {**body, "images": [*(body.get("images") or ()), *images]}
    asked = [index for index, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "user"]
    if not asked:
        raise TaskFault("deterministic", "image_unusable", "the images need a message of role user")
    last = messages[asked[-1]]
    shown = {**last, "images": [*(last.get("images") or ()), *images]}
    return {**body, "messages": [*messages[: asked[-1]], shown, *messages[asked[-1] + 1 :]]}


def _encoded(ref: ImageRef, read: ReadImage) -> str:
    try:
        return base64.b64encode(read(ref)).decode()
    except (ValueError, FileNotFoundError) as problem:
        text = "is gone" if isinstance(problem, FileNotFoundError) else str(problem)
        raise TaskFault("deterministic", "image_unusable", f"{ref.path} {text}") from problem
    except OSError as error:
        raise TaskFault("transient", "image_unusable", f"{ref.path}: {error.strerror}") from error


_DROPPED = ("context",)
"""Fields left out of results: ``context`` lists every token's number, is deprecated and outgrows the text."""


class LlmExecutor:
    """Fits the ``RequestExecutor`` port. Files are read on threads, so that the event loop waits for no disk."""

    def __init__(
        self,
        server: ModelServer,
        settings: LlmSettings,
        *,
        models: Mapping[str, ModelSettings],
        read_image: ReadImage | None = None,
        read_ended: ReadEnded = lambda _task_id: None,
        cache: ResponseCache | None = None,
    ) -> None:
        self._server = server
        self._settings = settings
        self._models = ModelTable(models)
        self._read_image = read_image
        self._read_ended = read_ended
        self._cache = cache
        self._packs = EmbeddingPacks(server)

    @property
    def pack_size(self) -> int:
        """Texts that one embedding request carries now."""
        return self._packs.size

    async def run(self, claim: Claim, *, progress: Progress) -> Trail:
        """Answer from the cache where the task wants that; else send the request and wait for the whole answer.

        Raises ``TaskFault``.
        """
        task = claim.task
        if task.depends_on:
            task = await to_thread(with_results, task, self._read_ended)
        body = request_body(task, self._models, num_predict=self._settings.num_predict)
        wanted = self._settings.cache if task.cache is None else task.cache
        if not wanted or self._cache is None:
            return await self._ask(claim, task, body, progress)
        key = await to_thread(self._cache.key, task, body)
        trail = None if key is None else await to_thread(self._cache.find, key)
        if trail is None:
            trail = await self._ask(claim, task, body, progress)
            if key is not None:
                await to_thread(self._cache.keep, key, task, trail)
        return trail

    async def _ask(self, claim: Claim, task: Task, body: dict[str, Any], progress: Progress) -> Trail:
        if task.images:
            if self._read_image is None:
                raise TaskFault("deterministic", "image_unusable", "this worker reads no images")
            body = await to_thread(with_images, body, task, self._read_image)

        async def ask(asked: Mapping[str, Any]) -> Reply:
            limits = request_limits(task, self._settings)
            if packable(claim):
                return await self._packs.embed(asked, limits=limits, marker=task.task_id)
            return await self._server.run(task.endpoint, asked, limits=limits, progress=progress, marker=task.task_id)

        schema = task.request.get("format")
        if isinstance(schema, dict):  # a JSON Schema, which the answer has to fit
            reply, result = await ask_in_form(body, schema, ask, _result)
            return Trail(result=result, simulated=reply.simulated)
        reply = await ask(body)
        return Trail(result=_result(reply), simulated=reply.simulated)


def request_limits(task: Task, settings: LlmSettings) -> Limits:
    """The bounds of one request."""
    total_s = task.timeout_s or settings.timeout_s
    return Limits(
        total_s=total_s,
        first_token_s=min(settings.first_token_s, total_s),
        token_gap_s=min(settings.token_gap_s, total_s),
        max_reply_bytes=int(settings.max_reply_mib * (1 << 20)),
    )


def request_body(task: Task, models: ModelTable, *, num_predict: int) -> dict[str, Any]:
    """The body to send: the task's request, with what is fixed for its model.

    Options of the model's configuration are defaults that the request may override, except those that only take effect
    at load time. ``keep_alive`` is the configured one whatever the request says: how long a model stays is the swarm's
    to decide. A prompt longer than the context is refused by the server unless the request itself says ``truncate``.
    Raises ``TaskFault`` (deterministic): ``bad_request``, ``load_option``.
    """
    if not task.model:
        raise TaskFault("deterministic", "bad_request", "an llm task needs a model")
    fixed = models.of(task.model)
    asked = task.request.get("options", {})
    if not isinstance(asked, dict):
        raise TaskFault("deterministic", "bad_request", "request.options must be an object")
    _refuse_reload(task, asked, fixed.options)
    options = {**fixed.options, **asked}
    if task.endpoint != "/api/embed":
        options.setdefault("num_predict", num_predict)
    body = {key: value for key, value in task.request.items() if key not in ("model", "stream", "keep_alive")}
    # Left to itself the server cuts a prompt that is too long, silently, and answers something else.
    body.setdefault("truncate", False)
    body |= {"model": task.model, "options": options}
    if fixed.keep_alive is not None:
        body["keep_alive"] = fixed.keep_alive
    return body


def _refuse_reload(task: Task, asked: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """A load-time option that differs from the loaded model's would make the server load it anew, for this one request.

    Two such tasks side by side would have it load for ever; so the option belongs to the model, in the configuration.
    """
    if message := load_option_conflict(task.model or "", asked, fixed):
        raise TaskFault("deterministic", "load_option", message)
    if task.request.get("shift") is False:
        message = f"request.shift = false would make the server load {task.model} again; leave it out"
        raise TaskFault("deterministic", "load_option", message)


def _result(reply: Reply) -> dict[str, Any]:
    return {
        **{key: value for key, value in reply.final.items() if key not in _DROPPED},
        "usage": usage_of(reply),
        "first_token_s": round(reply.first_token_s, 4),
        "total_s": round(reply.total_s, 4),
    }


def usage_of(reply: Reply) -> dict[str, int] | None:
    """Its tokens. None: the server did not count, so nobody knows."""
    if reply.final.get("usage_missing"):
        return None
    usage = {
        "prompt_tokens": reply.tokens_in,
        "completion_tokens": reply.tokens_out,
        "total_tokens": reply.tokens_in + reply.tokens_out,
    }
    if isinstance(cached := reply.final.get("prompt_cached_count"), int):
        usage["cached_tokens"] = cached
    return usage
