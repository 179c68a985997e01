"""Which engine serves a model on a worker, what it cannot do, and what is wrong with configured engines. Pure.

* The most specific setting wins: that of the model, of the worker, of ``[llm]``.
* Requests are written in Ollama's form, whichever engine answers them. What an engine has no counterpart for is refused by
  name, when it is submitted and again before it is sent; nothing is left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from swarm.config.settings import EngineSettings, Settings
from swarm.core.models.model_options import LOAD_OPTIONS, ModelTable
from swarm.core.task import Task
from swarm.errors import nearest

EngineKind = Literal["ollama", "llama-server", "openai"]
OLLAMA = "ollama"
_BUILT_IN: Mapping[str, EngineKind] = {OLLAMA: "ollama", "llama-server": "llama-server", "openai": "openai"}
PLACEHOLDERS = ("model", "file", "host", "port", "gpu", "slots", "context")
"""Filled in: the model's name and file, where to listen, the cards' indices, requests at once, tokens of context in all."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
_KeyPath = tuple[str | int, ...]


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine by its name, with its kind decided."""

    name: str
    kind: EngineKind
    settings: EngineSettings = EngineSettings()

    @property
    def url(self) -> str | None:
        """Base URL of the running server that it is, without ``/v1``; None: swarm starts its servers."""
        return self.settings.url.rstrip("/").removesuffix("/v1") if self.settings.url is not None else None


def engine_names(settings: Settings) -> tuple[str, ...]:
    """All engines that may be named: the built-in ones and those of ``[engines]``."""
    return tuple(dict.fromkeys((*_BUILT_IN, *settings.engines)))


def engine_named(settings: Settings, name: str) -> Engine:
    """The engine of a name that ``engine_problems`` has found right. Raises ``KeyError``."""
    entry = settings.engines.get(name)
    kind = _BUILT_IN.get(name)
    if entry is None and kind is None:
        raise KeyError(name)
    entry = entry or EngineSettings()
    return Engine(name=name, kind=entry.kind or kind or "openai", settings=entry)


def engine_of_worker(settings: Settings, engine: str | None) -> str:
    """The engine of a worker whose entry names ``engine``, for models that name none."""
    return engine or settings.llm.engine


def engine_of_model(settings: Settings, model: str, worker_engine: str) -> str:
    """The engine that serves a model on a worker of this engine."""
    return ModelTable(settings.models).of(model).engine or worker_engine


def filled_in(command: tuple[str, ...], values: Mapping[str, str]) -> tuple[str, ...]:
    """A command with its placeholders replaced; braces round anything else stay."""
    return tuple(_PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), word) for word in command)


def placeholder_problem(word: str) -> str | None:
    """What is wrong with the placeholders of one word of a command."""
    for name in _PLACEHOLDER.findall(word):
        if name not in PLACEHOLDERS:
            meant = nearest(name, PLACEHOLDERS)
            known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
            return f"there is no placeholder {{{name}}}" + (
                f", did you mean {{{meant[0]}}}?" if meant else f"; known are: {known}"
            )
    return None


def engine_problems(settings: Settings) -> Iterator[tuple[_KeyPath, str]]:
    """Every finding about engines, with the key it is about."""
    for name, entry in settings.engines.items():
        yield from ((("engines", name, *key), text) for key, text in _entry_problems(name, entry))
    named: list[tuple[_KeyPath, str]] = [(("llm", "engine"), settings.llm.engine)]
    named += [(("workers", i, "engine"), one.engine) for i, one in enumerate(settings.workers) if one.engine is not None]
    named += [(("models", name, "engine"), one.engine) for name, one in settings.models.items() if one.engine is not None]
    known = engine_names(settings)
    for key, name in named:
        if name not in known:
            meant = nearest(name, known)
            yield (
                key,
                f"there is no engine {name!r}"
                + (f", did you mean {meant[0]!r}?" if meant else f"; there are: {', '.join(known)}"),
            )
        elif name not in settings.engines and _BUILT_IN[name] == "openai":
            yield key, f"{name!r} needs a url or a command in [engines.{name}]"
        elif (
            key[0] == "models" and engine_named(settings, name).url is not None and name not in _engines_of_workers(settings)
        ):
            yield key, f"{name!r} is a running server that no worker uses; name it in a worker's engine or in [llm]"
    yield from _worker_problems(settings)
    yield from _file_problems(settings)


def _engines_of_workers(settings: Settings) -> set[str]:
    return {engine_of_worker(settings, one.engine) for one in settings.workers if one.ollama_url is None} or {
        settings.llm.engine
    }


def _entry_problems(name: str, entry: EngineSettings) -> Iterator[tuple[_KeyPath, str]]:
    if name == OLLAMA:
        yield (), "Ollama is set in [ollama], a running one with ollama_url in [[workers]]"
        return
    if entry.kind is not None and _BUILT_IN.get(name, entry.kind) != entry.kind:
        yield ("kind",), f"the engine called {name!r} is built in, of kind {_BUILT_IN[name]!r}; choose another name"
    if entry.command and entry.url is not None:
        yield (), "give command (swarm starts the servers) or url (yours runs already), not both"
    if entry.url is not None and entry.url.startswith("https:"):
        yield ("url",), f"{entry.url!r} must be an http:// address: put a proxy before a server that speaks https only"
    if not entry.health.startswith("/"):
        yield ("health",), f"{entry.health!r} is no path: it must begin with /"
    kind = entry.kind or _BUILT_IN.get(name) or "openai"
    if kind == "openai" and not entry.command and entry.url is None:
        yield (), "needs a command (swarm starts the servers) or a url (yours runs already)"
    if entry.command:
        yield from _command_problems(entry.command, own_flags=kind != "openai")


def _command_problems(command: tuple[str, ...], *, own_flags: bool) -> Iterator[tuple[_KeyPath, str]]:
    program = command[0]
    if not program or ("/" in program and not program.startswith("/")):
        yield ("command",), f"the program {program!r} must be a name on the PATH or an absolute path"
    used = {name for word in command for name in _PLACEHOLDER.findall(word)}
    if not own_flags and "port" not in used:
        yield ("command",), "has no {port}: every server would listen on the same one"
    if not own_flags and not used & {"model", "file"}:
        yield ("command",), "has neither {model} nor {file}: it could not load what is asked for"


def _worker_problems(settings: Settings) -> Iterator[tuple[_KeyPath, str]]:
    for index, worker in enumerate(settings.workers):
        name = engine_of_worker(settings, worker.engine)
        if name not in engine_names(settings) or name == OLLAMA:
            continue
        if worker.ollama_url is not None:
            if worker.engine is not None:
                yield ("workers", index, "engine"), f"{name!r} beside ollama_url: give one of them"
        elif engine_named(settings, name).url is not None and worker.port is not None:
            yield ("workers", index, "port"), f"the engine {name!r} is a running server; leave out port"


def _file_problems(settings: Settings) -> Iterator[tuple[_KeyPath, str]]:
    for name, model in settings.models.items():
        if model.file is None:
            continue
        if not model.file.startswith("/"):
            yield ("models", name, "file"), f"{model.file!r} must be an absolute path"
        if model.engine == OLLAMA:
            yield (
                ("models", name, "file"),
                "Ollama loads models from its own store by their names; name another engine, such as llama-server",
            )


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
        here = {
            OLLAMA if one.ollama_url is not None else engine_of_worker(settings, one.engine)
            for one in settings.workers
            if one.url is None
        }
        far = {engine_of_worker(settings, one.engine) for one in settings.workers if one.url is not None}
        self._workers = frozenset((here or {settings.llm.engine}) | far)
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
