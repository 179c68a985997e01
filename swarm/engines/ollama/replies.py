"""From Ollama's JSON to our structs: names canonical, sizes in MiB, missing counters 0.

A server is not trusted with what it says of itself: texts are bounded and hold nothing that a terminal obeys, numbers that
cannot be are 0, lists have an end. Only the text of an answer is left as it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from swarm.core.faults import TaskFault
from swarm.core.models.model_file import ModelFile
from swarm.core.models.model_server import MIB, InstalledModel, LoadedModel, ModelDetails, PullStep, Reply
from swarm.core.task import canonical_model
from swarm.engines.classify import shown_text
from swarm.engines.deadlines import Deadlines
from swarm.engines.ollama.stream import Line, garbage
from swarm.plain_text import lines

T = TypeVar("T")
_MAX_MODELS = 10_000
_NAME_CHARS = 200
_WORD_CHARS = 100
_PARAMETER_CHARS = 10_000
_MOST = 1 << 53
_MOST_PER_MODEL = 1 << 16
"""Layers, heads, elements: a server that says more of a model is not believed."""
_COUNTERS = ("prompt_eval_count", "eval_count", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
_WORDS = ("model", "created_at", "done_reason")


class _ModelEntry(msgspec.Struct):
    """Of ``/api/ps`` or ``/api/tags``."""

    name: str
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int = 0
    expires_at: str = ""
    capabilities: list[str] | None = None


class _ModelsReply(msgspec.Struct):
    models: list[_ModelEntry] | None


class _ShowReply(msgspec.Struct):
    capabilities: list[str] | None = None
    parameters: str | None = None
    model_info: dict[str, Any] | None = None
    details: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    role: str = "assistant"
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Answer(msgspec.Struct):
    """What is read of an answer, wherever it is read."""

    message: _Message | msgspec.UnsetType = msgspec.UNSET
    response: str | None = None
    thinking: str | None = None
    embeddings: list[list[float]] | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[Any] | None = None
    model: str = ""
    created_at: str = ""
    done_reason: str | None = None


class _VersionReply(msgspec.Struct):
    version: str


def version(document: Line) -> str:
    """Of ``/api/version``. This and the following raise ``TaskFault`` kind ``garbage`` for what is no such answer."""
    return shown_text(_convert(document, _VersionReply).version, _WORD_CHARS)


def loaded_models(document: Line) -> tuple[LoadedModel, ...]:
    """Of ``/api/ps``."""
    return tuple(
        LoadedModel(
            name=_name(entry.name),
            digest=shown_text(entry.digest, _WORD_CHARS),
            size_mib=_mib(entry.size),
            size_vram_mib=_mib(entry.size_vram),
            context_length=_possible(entry.context_length),
            expires_at=shown_text(entry.expires_at, _WORD_CHARS),
        )
        for entry in _entries(document)
    )


def installed_models(document: Line) -> tuple[InstalledModel, ...]:
    """Of ``/api/tags``."""
    return tuple(
        InstalledModel(
            name=_name(entry.name),
            digest=shown_text(entry.digest, _WORD_CHARS),
            size_mib=_mib(entry.size),
            capabilities=_capabilities(entry.capabilities),
        )
        for entry in _entries(document)
    )


def _entries(document: Line) -> list[_ModelEntry]:
    return (_convert(document, _ModelsReply).models or [])[:_MAX_MODELS]


def model_details(model: str, document: Line) -> ModelDetails:
    """Of ``/api/show``."""
    answer = _convert(document, _ShowReply)
    info = answer.model_info or {}
    named = info.get("general.architecture")
    architecture = shown_text(named, _WORD_CHARS) if isinstance(named, str) else ""
    return ModelDetails(
        name=canonical_model(model),
        capabilities=_capabilities(answer.capabilities),
        architecture=architecture,
        context_length=_count(info, f"{architecture}.context_length"),
        parameters=lines((answer.parameters or "")[:_PARAMETER_CHARS]),
        families=_families(answer.details or {}),
        kv_bytes_per_token=_kv_bytes_per_token(info, architecture),
    )


def _families(details: Mapping[str, Any]) -> tuple[str, ...]:
    listed = details.get("families")
    words = [details.get("family"), *(listed if isinstance(listed, list) else [])]
    return tuple(dict.fromkeys(shown_text(word, 40) for word in words[:20] if isinstance(word, str) and word))


def _kv_bytes_per_token(info: Mapping[str, Any], architecture: str) -> int:
    """Of the keys that a GGUF header has as well. A list per layer is left out by some releases, and by others cut short."""

    def counted(key: str) -> int:
        return min(_count(info, f"{architecture}.{key}"), _MOST_PER_MODEL)

    layers, heads = counted("block_count"), counted("attention.head_count")
    per_layer = info.get(f"{architecture}.attention.head_count_kv")
    if isinstance(per_layer, list):
        known = [min(one, _MOST_PER_MODEL) for one in per_layer if isinstance(one, int) and one >= 0]
        kv_heads = tuple(known) if len(known) == layers else ()
    else:
        kv_heads = (counted("attention.head_count_kv") or heads,) * layers
    head = counted("embedding_length") // heads if heads else 0
    key = counted("attention.key_length") or head
    value = counted("attention.value_length") or key
    file = ModelFile(architecture=architecture, kv_heads=kv_heads, key_length=key, value_length=value)
    return file.kv_bytes_per_token


def pull_step(document: Line) -> PullStep:
    """Of one line of ``/api/pull``."""
    step = _convert(document, PullStep)
    return PullStep(
        status=shown_text(step.status, _NAME_CHARS),
        digest=shown_text(step.digest, _WORD_CHARS),
        total=_possible(step.total),
        completed=_possible(step.completed),
    )


def _convert(document: dict[str, Any], wanted: type[T]) -> T:
    try:
        return msgspec.convert(document, wanted)
    except msgspec.ValidationError as error:
        raise garbage(msgspec.json.encode(document), str(error)) from error


def answer(final: Line) -> Line:
    """The final object of a request for work, of the shape that others rely on; its text stays as it came.

    Raises ``TaskFault`` kind ``garbage``.
    """
    try:
        msgspec.convert(final, _Answer)
    except msgspec.ValidationError as error:
        raise TaskFault("infra", "garbage", f"the answer is not in Ollama's format: {shown_text(str(error))}") from error
    words = {key: shown_text(final[key], _NAME_CHARS) for key in _WORDS if isinstance(final.get(key), str)}
    return {**final, **words, **{key: _count(final, key) for key in _COUNTERS if key in final}}


def whole_reply(final: Line, deadlines: Deadlines, *, last: Line | None = None) -> Reply:
    """Of the final object of a request for work; ``last``: of its last piece, where that is another."""
    elapsed_s = deadlines.elapsed_s()
    return Reply(
        final=final,
        last=final if last is None else last,
        tokens_in=_count(final, "prompt_eval_count"),
        tokens_out=_count(final, "eval_count"),
        first_token_s=elapsed_s if deadlines.first_s is None else deadlines.first_s,
        total_s=elapsed_s,
        simulated=final.get("simulated") is True,
    )


def _count(document: Mapping[str, Any], key: str) -> int:
    """A counter; Ollama leaves out those that are zero."""
    value = document.get(key)
    return _possible(value) if isinstance(value, int) and not isinstance(value, bool) else 0


def _possible(number: int) -> int:
    """0 for what is below it, and for what no counter of this world reaches (and no double holds exactly)."""
    return number if 0 <= number <= _MOST else 0


def _mib(size_bytes: int) -> int:
    return -(-_possible(size_bytes) // MIB)


def _name(name: str) -> str:
    """Canonical. One that no task could name is shown as it is, escaped, and means no model."""
    return canonical_model(shown_text(name, _NAME_CHARS))


def _capabilities(words: list[str] | None) -> tuple[str, ...]:
    return tuple(shown_text(word, 40) for word in (words or ())[:40])
