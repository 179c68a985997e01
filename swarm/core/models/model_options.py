"""Ollama's options: their names and types, checked when a task is submitted.

A server ignores names it does not know and refuses the whole request for a wrong type. Names unknown here are accepted (a
newer server may know them) unless they look like a misspelt one, or are another program's word for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from swarm.config.settings import ModelSettings
from swarm.core.task import canonical_model
from swarm.errors import nearest

LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
"""Options that belong to the loaded model: a request that changes one makes the server load it again."""

_WHOLE = "a whole number"
_NUMBER = "a number"
_SWITCH = "true or false"
_TEXTS = "a list of texts"
_KINDS = {
    **dict.fromkeys(LOAD_OPTIONS, _WHOLE),
    **dict.fromkeys(("num_predict", "num_keep", "seed", "top_k", "repeat_last_n"), _WHOLE),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), _NUMBER),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), _NUMBER),
    "use_mmap": _SWITCH,
    "stop": _TEXTS,
}
KNOWN_OPTIONS = frozenset(_KINDS)
OF_OTHERS = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict"), "num_predict"),
    **dict.fromkeys(("n_ctx", "context_length", "max_model_len"), "num_ctx"),
    "repetition_penalty": "repeat_penalty",
    "temp": "temperature",
}
"""What other programs call some of them. A server of Ollama ignores these names, and answers at full length."""
_BOUNDS = {"seed": 2**63}
_BOUND = 2**31
"""A server keeps whole numbers in so many bits; what is larger would come to mean another number there."""
_FLOAT32_BOUND = 3.4e38
_ALIKE = 0.8


def option_problem(name: str, value: object) -> str | None:
    """What keeps a server from taking this value; None for one that will do, and for names that are not known."""
    kind = _KINDS.get(name)
    if kind is None or value is None or _fits(name, kind, value):  # null is as good as absent
        return None
    return f"must be {kind}, is {_shown(value)}"


def _fits(name: str, kind: str, value: object) -> bool:
    match value:
        case bool():
            return kind == _SWITCH
        case int() | float() if kind == _NUMBER:
            return abs(value) < _FLOAT32_BOUND  # NaN is not
        case int() | float() if kind == _WHOLE:
            bound = _BOUNDS.get(name, _BOUND)
            return value == value // 1 and -bound <= value < bound
        case list():
            return kind == _TEXTS and all(isinstance(part, str) for part in value)
        case _:
            return False


def near_option(name: str) -> str | None:
    """The known option that an unknown name was probably meant to be."""
    if name in KNOWN_OPTIONS:
        return None
    return OF_OTHERS.get(name.lower()) or next(
        iter(nearest(name.lower(), sorted(KNOWN_OPTIONS), cutoff=_ALIKE, prefix=False)), None
    )


def misspelt(name: str) -> str | None:
    """The sentence about a name that is nearly a known one."""
    meant = near_option(name)
    return None if meant is None else f"there is no such option (did you mean {meant!r}?)"


def option_problems(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and sentence of each option that cannot be meant."""
    for name, value in options.items():
        problem = misspelt(name) or option_problem(name, value)
        if problem is not None:
            yield name, problem


def are_options(value: object) -> bool:
    """Whether an object in a column called ``options`` is meant as Ollama's: one of its names is, or nearly.

    Many data sets keep the choices of a question under that name.
    """
    return isinstance(value, dict) and any(name in KNOWN_OPTIONS or near_option(name) for name in value)


def _shown(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value[:40]!r}"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case _:
            return str(value)[:40]


def load_option_conflict(model: str, asked: Mapping[str, Any], fixed: Mapping[str, Any]) -> str | None:
    """What is wrong with options of a request for a model that is loaded with the options ``fixed``; None: nothing."""
    for name in LOAD_OPTIONS:
        if name not in asked or asked[name] == fixed.get(name):
            continue
        if name == "num_gpu" and _automatic(asked[name]) and _automatic(fixed.get(name, -1)):
            continue
        configured = f"configured: {fixed[name]}" if name in fixed else "configured: none, the server's default"
        return (
            f"request.options.{name} = {asked[name]} would make the server load {model} again ({configured}); "
            f'leave it out, or set it once for all tasks of the model: [models."{canonical_model(model)}"] '
            f"options.{name} = {asked[name]}"
        )
    return None


def _automatic(num_gpu: object) -> bool:
    return isinstance(num_gpu, int) and num_gpu < 0


class ModelTable:
    """The configured settings per model, found under every spelling of its name."""

    def __init__(self, models: Mapping[str, ModelSettings]) -> None:
        self._models = {canonical_model(name): settings for name, settings in models.items()}
        self._names = {canonical_model(name): name for name in models}

    def of(self, model: str) -> ModelSettings:
        """The model's settings; the defaults where none are written."""
        return self._models.get(canonical_model(model)) or ModelSettings()

    def spelled(self, model: str) -> str:
        """A canonical name as the configuration spells it (some engines tell capitals apart); else without ``:latest``."""
        wanted = canonical_model(model)
        return self._names.get(wanted, wanted.removesuffix(":latest"))
