"""The environment variables of Ollama, read once at start and as leniently as there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from swarm.simulator.cards import visible_cards
from swarm.simulator.knobs import Knobs

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_RE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
DEFAULT_PORT = 11434


class ServerEnv(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says."""

    host: str
    port: int
    models_dir: str | None
    prune: bool
    keep_alive_s: float
    parallel: int
    max_loaded: int
    max_queue: int
    context_length: int
    gpus: int
    """Cards it can see; 0 means that everything runs on the CPU."""


def read_environment(environ: Mapping[str, str], knobs: Knobs, host_flag: str | None) -> ServerEnv:
    """Read the variables. Raises ``ValueError`` for an address that is none; all else falls back to defaults."""
    env = {name: value.strip().strip("\"'") for name, value in environ.items()}
    host, port = _address(host_flag or env.get("OLLAMA_HOST", ""))
    gpus = visible_cards(env.get("CUDA_VISIBLE_DEVICES"), knobs.known_gpus)
    vram_gib = gpus * knobs.vram_mib / 1024
    by_memory = 4096 if vram_gib < 23 else 32768 if vram_gib < 47 else 262144
    try:
        keep_alive_s = parse_duration(env.get("OLLAMA_KEEP_ALIVE") or "5m", bare_seconds=True)
    except ValueError:
        keep_alive_s = 300.0
    return ServerEnv(
        host=host,
        port=port,
        models_dir=env.get("OLLAMA_MODELS") or None,
        prune=not _boolean(env.get("OLLAMA_NOPRUNE", "")),
        keep_alive_s=keep_alive_s,
        parallel=_number(env, "OLLAMA_NUM_PARALLEL", 1),
        max_loaded=_number(env, "OLLAMA_MAX_LOADED_MODELS", 3 * max(gpus, 1)),
        max_queue=_number(env, "OLLAMA_MAX_QUEUE", 512),
        context_length=_number(env, "OLLAMA_CONTEXT_LENGTH", by_memory),
        gpus=gpus,
    )


def parse_duration(text: str, *, bare_seconds: bool = False) -> float:
    """Seconds of a Go duration such as ``1h30m``; infinite for a negative one. Raises ``ValueError`` in Go's words."""
    body = text.removeprefix("-").removeprefix("+")
    if bare_seconds or body == "0":
        try:
            seconds = float(body)
        except ValueError:
            pass
        else:
            return math.inf if text.startswith("-") else seconds
    seconds, end = 0.0, 0
    for found in _DURATION_RE.finditer(body):
        if found.start() != end:
            break
        seconds += float(found.group(1)) * _UNITS[found.group(2)]
        end = found.end()
    if not body or end != len(body):
        unit = "missing unit in" if re.fullmatch(r"[\d.]+", body) else "invalid"
        raise ValueError(f'time: {unit} duration "{text}"')
    return math.inf if text.startswith("-") else seconds


def _address(text: str) -> tuple[str, int]:
    text = text.split("://", 1)[-1].rstrip("/")
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    if not (port.isascii() and port.isdigit()) or int(port) > 65535 or not _is_name(host):
        raise ValueError(f"{text!r} is no address; write 127.0.0.1:11434")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_name(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else default


def _boolean(text: str) -> bool:
    """Ollama's own rule: whatever is not plainly false is true."""
    return bool(text) and text.lower() not in ("0", "false", "f")
