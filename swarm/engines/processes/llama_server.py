"""The flags with which swarm starts a llama-server. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PROGRAM = "llama-server"
KEY_VARIABLE = "LLAMA_API_KEY"
"""The key travels in the environment: arguments are seen by everybody on the machine."""
ENV_PREFIX = "LLAMA_ARG_"
"""Variables that stand for flags; none is inherited from the caller's shell."""
ALL_LAYERS = 999
"""For ``-ngl``: releases before the word ``all`` take numbers only."""
MOST_EMBEDDING_TOKENS = 8192


def own_flags(
    *,
    model: str,
    file: str,
    projectors: Sequence[str] = (),
    adapters: Sequence[str] = (),
    host: str,
    port: int,
    slots: int,
    context: int,
    embedding: bool,
    options: Mapping[str, Any],
) -> tuple[str, ...]:
    """The flags that swarm needs, after those of the configuration. ``context``: tokens of one request."""
    flags = ["-m", file, "-a", model, "--host", host, "--port", str(port)]
    # One pool of KV cells for all slots: a long request may use what short ones leave.
    flags += ["-np", str(slots), "-kvu", "-c", str(context * slots)]
    flags += ["--slots", "--metrics", "--no-webui"]
    flags += _loading(options)
    flags += [word for path in projectors[:1] for word in ("--mmproj", path)]
    flags += [word for path in adapters for word in ("--lora", path)]
    if embedding:
        # An embedding is computed in one batch: a text longer than that is refused.
        tokens = str(min(context, MOST_EMBEDDING_TOKENS))
        flags += ["--embeddings", "-b", tokens, "-ub", tokens]
    elif (batch := _whole(options, "num_batch")) is not None:
        flags += ["-b", str(batch), "-ub", str(batch)]
    return tuple(flags)


def _loading(options: Mapping[str, Any]) -> Iterator[str]:
    """Ollama's options of a load, as flags."""
    layers = _whole(options, "num_gpu")
    yield from ("-ngl", str(ALL_LAYERS if layers is None or layers < 0 else layers))
    if (threads := _whole(options, "num_thread")) is not None:
        yield from ("-t", str(threads))
    if (main_card := _whole(options, "main_gpu")) is not None:
        yield from ("-mg", str(main_card))


def own_variables(options: Mapping[str, Any]) -> dict[str, str]:
    """Beside the flags: where a name has changed, each release knows its own variable and ignores the others."""
    if options.get("use_mmap") is False:
        return {"LLAMA_ARG_LOAD_MODE": "none", "LLAMA_ARG_MMAP": "0", "LLAMA_ARG_NO_MMAP": "1"}
    return {}


def _whole(options: Mapping[str, Any], name: str) -> int | None:
    value = options.get(name)
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
