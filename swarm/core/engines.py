"""Which engine serves a model on a worker, and what is wrong with the engines of a configuration. Pure.

The most specific setting wins: that of the model, of the worker, of ``[llm]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from swarm.config.settings import EngineSettings, Settings
from swarm.core.model_options import ModelTable
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
