"""What an engine cannot do of a request, field by field. Pure.

Requests are written in Ollama's form, whichever engine answers them. What an engine has no counterpart for is refused by
name, when it is submitted and again before it is sent; nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from swarm.config.settings import Settings
from swarm.core.engines import OLLAMA, EngineKind, engine_named, engine_of_model, engine_of_worker
from swarm.core.model_options import LOAD_OPTIONS
from swarm.core.task import Task

_OURS = frozenset({"model", "stream", "keep_alive", "options"})
_EVERYWHERE = _OURS | {"truncate", "shift"}
_TEXT = _EVERYWHERE | {"format", "think", "logprobs", "top_logprobs", "template"}
_FIELDS: Mapping[str, frozenset[str]] = {
    "/api/chat": _TEXT | {"messages", "tools"},
    "/api/generate": _TEXT | {"prompt", "suffix", "images", "system", "raw", "context"},
    "/api/embed": _EVERYWHERE | {"input", "dimensions"},
}
_NO_TEMPLATE = ("system", "images", "think")
"""What takes effect through the chat template, which a raw prompt or one with a suffix goes without."""
_NOT_OPENAI = {
    "template": "templates of requests are Ollama's; this engine uses the template of the model",
    "context": "token numbers of an earlier answer are Ollama's; send the conversation as messages",
    "shift": "whether a full context is shifted is fixed when the server starts",
}
_NOT_LLAMA_SERVER = _NOT_OPENAI | {
    "suffix": "llama-server takes none in text completions",
    "dimensions": "llama-server always gives the whole vector",
    "truncate": "llama-server cuts no prompt; leave it out and give the model a larger num_ctx",
}
_LLAMA_SERVER_OPTIONS = frozenset({"num_keep", "repeat_last_n", "typical_p"})
"""Known to llama.cpp and to no other server."""
SET_BY_US = frozenset(
    {"messages", "prompt", "suffix", "input", "encoding_format", "tools", "tool_choice", "response_format", "json_schema"}
    | {"logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "n_predict", "n_keep", "n", "n_cmpl", "n_probs"}
    | {"chat_template_kwargs", "reasoning_effort", "stream_options", "truncate_prompt_tokens", "response_fields", *_OURS}
)
"""Fields of OpenAI's form that are made of other parts of a request, so no option may be called so."""


def unsupported(kind: EngineKind, endpoint: str, request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Fields of a request in Ollama's form that this engine cannot honour, each with the reason; empty: none.

    Ollama itself can do all of its own form. Null is as good as absent.
    """
    if kind == "ollama":
        return []
    given = {name: value for name, value in request.items() if value is not None}
    return [*_fields(kind, endpoint, given), *_options(kind, endpoint, given.get("options"))]


def text_only(request: Mapping[str, Any]) -> bool:
    """Whether a ``/api/generate`` request goes to the model without its chat template."""
    return bool(request.get("raw") or request.get("suffix"))


class EngineCheck:
    """What the engines of a configuration cannot do, asked for many requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        workers = (
            OLLAMA if one.ollama_url is not None else engine_of_worker(settings, one.engine) for one in settings.workers
        )
        self._workers = frozenset(workers) or frozenset((settings.llm.engine,))
        self._kinds: dict[str, frozenset[EngineKind]] = {}

    def kinds(self, model: str) -> frozenset[EngineKind]:
        """What may answer requests for this model, over all workers."""
        if model not in self._kinds:
            names = {engine_of_model(self._settings, model, worker) for worker in self._workers}
            self._kinds[model] = frozenset(engine_named(self._settings, name).kind for name in names)
        return self._kinds[model]

    def raw_completions(self, model: str) -> bool:
        """Whether a text completion of an OpenAI batch reaches this model as it is: Ollama alone puts it into a template."""
        return self.kinds(model) != {"ollama"}

    def problem(self, task: Task) -> tuple[str, str] | None:
        """The first field of an llm task that an engine which may be asked cannot honour, and why; None: all can do it."""
        model, request = task.model or "", task.request
        if task.images and task.endpoint == "/api/generate":
            request = {**request, "images": [one.path for one in task.images]}
        for kind in sorted(self.kinds(model)):
            for field, why in unsupported(kind, task.endpoint, request):
                return f"request.{field}", f"{why} (engine {kind}, which may serve {model})"
        return None


def _fields(kind: EngineKind, endpoint: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in given:
        if name not in _FIELDS[endpoint]:
            yield name, f"{_called(kind)} has no counterpart for it"
    for name, why in (_NOT_LLAMA_SERVER if kind == "llama-server" else _NOT_OPENAI).items():
        if given.get(name):
            yield name, why
    if endpoint == "/api/generate" and text_only(given):
        without = "raw" if given.get("raw") else "suffix"
        for name in _NO_TEMPLATE:
            if given.get(name):
                yield name, f"takes effect through the chat template, and {without} does without one"


def _options(kind: EngineKind, endpoint: str, options: object) -> Iterator[tuple[str, str]]:
    if not isinstance(options, Mapping) or endpoint == "/api/embed":
        return
    for name, value in options.items():
        if value is None or name in LOAD_OPTIONS:
            continue  # options of the loaded model have their own check (core.model_options)
        if name in SET_BY_US:
            yield f"options.{name}", "is no option but a field of the request itself"
        elif kind == "openai" and name in _LLAMA_SERVER_OPTIONS:
            yield f"options.{name}", "is known to Ollama and llama-server only"


def _called(kind: EngineKind) -> str:
    return "llama-server" if kind == "llama-server" else "OpenAI's API"
