"""From Ollama's JSON to our structs: names canonical, sizes in MiB, missing counters 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from swarm.core.task import canonical_model
from swarm.ollama.answers import MIB, InstalledModel, LoadedModel, ModelDetails, PullStep, Reply
from swarm.ollama.stream import Deadlines, Line, garbage

T = TypeVar("T")


class _PsEntry(msgspec.Struct):
    name: str
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int = 0
    expires_at: str = ""


class _PsReply(msgspec.Struct):
    models: list[_PsEntry] | None


class _TagEntry(msgspec.Struct):
    name: str
    digest: str = ""
    size: int = 0
    capabilities: list[str] | None = None


class _TagsReply(msgspec.Struct):
    models: list[_TagEntry] | None


class _ShowReply(msgspec.Struct):
    capabilities: list[str] | None = None
    parameters: str | None = None
    model_info: dict[str, Any] | None = None


class _VersionReply(msgspec.Struct):
    version: str


def version(document: Line) -> str:
    """Of ``/api/version``. This and the following raise ``TaskFault`` kind ``garbage`` for what is no such answer."""
    return _convert(document, _VersionReply).version


def loaded_models(document: Line) -> tuple[LoadedModel, ...]:
    """Of ``/api/ps``."""
    return tuple(
        LoadedModel(
            name=canonical_model(entry.name),
            digest=entry.digest,
            size_mib=_mib(entry.size),
            size_vram_mib=_mib(entry.size_vram),
            context_length=entry.context_length,
            expires_at=entry.expires_at,
        )
        for entry in _convert(document, _PsReply).models or ()
    )


def installed_models(document: Line) -> tuple[InstalledModel, ...]:
    """Of ``/api/tags``."""
    return tuple(
        InstalledModel(
            name=canonical_model(entry.name),
            digest=entry.digest,
            size_mib=_mib(entry.size),
            capabilities=tuple(entry.capabilities or ()),
        )
        for entry in _convert(document, _TagsReply).models or ()
    )


def model_details(model: str, document: Line) -> ModelDetails:
    """Of ``/api/show``."""
    answer = _convert(document, _ShowReply)
    info = answer.model_info or {}
    architecture = str(info.get("general.architecture") or "")
    return ModelDetails(
        name=canonical_model(model),
        capabilities=tuple(answer.capabilities or ()),
        architecture=architecture,
        context_length=_count(info, f"{architecture}.context_length"),
        parameters=answer.parameters or "",
        model_info=info,
    )


def pull_step(document: Line) -> PullStep:
    """Of one line of ``/api/pull``."""
    return _convert(document, PullStep)


def _convert(document: dict[str, Any], wanted: type[T]) -> T:
    try:
        return msgspec.convert(document, wanted)
    except msgspec.ValidationError as error:
        raise garbage(msgspec.json.encode(document), str(error)) from error


def whole_reply(final: Line, deadlines: Deadlines) -> Reply:
    """Of the final object of a request for work."""
    elapsed_s = deadlines.elapsed_s()
    return Reply(
        final=final,
        tokens_in=_count(final, "prompt_eval_count"),
        tokens_out=_count(final, "eval_count"),
        first_token_s=elapsed_s if deadlines.first_s is None else deadlines.first_s,
        total_s=elapsed_s,
        simulated=final.get("simulated") is True,
    )


def _count(document: Mapping[str, Any], key: str) -> int:
    """A counter; Ollama leaves out those that are zero."""
    value = document.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
