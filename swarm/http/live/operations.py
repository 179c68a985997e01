"""The operations of live requests, for the OpenAPI document.

The types name the fields that decide something here. What else a client sends goes to the engine, or is refused in words if
no engine knows it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from swarm.core.access import Scope
from swarm.http.operations import Operation

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
ModelName = Annotated[str, Meta(min_length=1, description="A model: llama3.2:3b. `/v1/models` lists them.")]
_FAULTS = (404, 502, 504)


class LiveMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a chat."""

    role: str
    content: Any = None


class ChatCompletionAsk(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's chat."""

    model: ModelName
    messages: tuple[LiveMessage, ...]
    stream: bool | None = None


class CompletionAsk(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's text completion."""

    model: ModelName
    prompt: Any
    stream: bool | None = None


class EmbeddingAsk(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's embeddings."""

    model: ModelName
    input: Any
    encoding_format: Literal["float", "base64"] | None = None


class OllamaChatAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Ollama's chat; without messages it asks for the model to be loaded."""

    model: ModelName
    messages: tuple[LiveMessage, ...] = ()
    stream: bool | None = None
    """Absent: it is streamed."""
    options: dict[str, Any] | None = None


class OllamaGenerateAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Ollama's prompt; without one it asks for the model to be loaded."""

    model: ModelName
    prompt: str = ""
    stream: bool | None = None
    """Absent: it is streamed."""
    options: dict[str, Any] | None = None


class OllamaEmbedAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Ollama's embeddings."""

    model: ModelName
    input: str | tuple[str, ...]


class OllamaEmbeddingsAsk(msgspec.Struct, frozen=True, kw_only=True):
    """The older form of them: one text."""

    model: ModelName
    prompt: str


class OllamaShowAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Which model to tell of."""

    model: ModelName


class OpenAIModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that may be asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    object: Literal["list"]
    data: tuple[OpenAIModel, ...]


class OllamaModels(msgspec.Struct, frozen=True, kw_only=True):
    """Models in Ollama's form."""

    models: tuple[dict[str, Any], ...]


class OllamaVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The version of swarm."""

    version: str


def _read(path: str, name: str, summary: str, answer: Any, errors: tuple[int, ...] = ()) -> Operation:  # noqa: ANN401
    return Operation(
        method="GET", path=path, name=name, group="live", summary=summary, scope=Scope.READ, answer=answer, errors=errors
    )


def _ask(path: str, name: str, summary: str, body: Any, *media_types: str) -> Operation:  # noqa: ANN401
    return Operation(
        method="POST",
        path=path,
        name=name,
        group="live",
        summary=summary,
        scope=Scope.SUBMIT,
        body=body,
        answer=dict[str, Any],
        media_types=("application/json", *media_types),
        errors=_FAULTS,
    )


OPERATIONS: tuple[Operation, ...] = (
    _ask("/v1/chat/completions", "chat_completion", "A chat, streamed if asked for.", ChatCompletionAsk, EVENTS),
    _ask("/v1/completions", "completion", "A text completion, streamed if asked for.", CompletionAsk, EVENTS),
    _ask("/v1/embeddings", "embeddings", "Embeddings.", EmbeddingAsk),
    _read("/v1/models", "list_models", "What may be asked for.", OpenAIModelPage),
    _read("/v1/models/{model:path}", "get_model", "One of them.", OpenAIModel, (404,)),
    _ask("/api/chat", "ollama_chat", "Ollama's chat.", OllamaChatAsk, LINES),
    _ask("/api/generate", "ollama_generate", "Ollama's prompt.", OllamaGenerateAsk, LINES),
    _ask("/api/embed", "ollama_embed", "Ollama's embeddings.", OllamaEmbedAsk),
    _ask("/api/embeddings", "ollama_embeddings", "Ollama's older embeddings.", OllamaEmbeddingsAsk),
    _read("/api/tags", "ollama_tags", "What may be asked for, in Ollama's form.", OllamaModels),
    _read("/api/ps", "ollama_ps", "What the workers hold.", OllamaModels),
    _read("/api/version", "ollama_version", "The version of swarm.", OllamaVersion),
    Operation(
        method="POST",
        path="/api/show",
        name="ollama_show",
        group="live",
        summary="What is known of a model.",
        scope=Scope.READ,
        body=OllamaShowAsk,
        answer=dict[str, Any],
        errors=(404,),
    ),
)
