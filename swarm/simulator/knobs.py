"""Settings of a simulated server: its knobs, and the environment variables of Ollama.

Every knob is a flag, an environment variable ``SWARM_SIM_<NAME>`` and a key of ``POST /sim/knobs`` (those marked *start*
act only when the server starts). Ollama's variables are read once at start, as leniently as there.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from swarm.config.settings import NotNegative, Positive, SimSettings

ENV_PREFIX = "SWARM_SIM_"
_PATHS = frozenset({"card_dir", "ledger"})
"""These may hold any bytes."""

Count = Annotated[int, msgspec.Meta(ge=0)]


def _knob(default: Any, text: str) -> Any:  # noqa: ANN401 - stands for a field of any type
    _HELP.append(text)
    return default


_HELP: list[str] = []
"""Help texts in the order of the fields."""


class Knobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All knobs with their defaults; the help texts below are also the help of the flags."""

    start_delay_s: NotNegative = _knob(0.0, "start: TCP is accepted at once, HTTP answered only after this")
    never_ready: bool = _knob(False, "start: HTTP is never answered")
    ignore_sigterm: bool = _knob(False, "start: only SIGKILL ends the server")
    runner: Literal["process", "none"] = _knob("process", "whether a loaded model has a child process, as in the real one")
    seed: int = _knob(1, "start: for faults with a rate, and for answers")
    models: tuple[str, ...] = _knob(SimSettings().models, "start: models on disk, name or name=MiB")
    registry: tuple[str, ...] = _knob((), "models that can be pulled; none named means any")
    pull_s: NotNegative = _knob(0.1, "seconds of a pull")
    pull_error: str = _knob("", "pulls end with this error line, inside a 200")

    load_s: NotNegative = _knob(1.0, "seconds of a load")
    unload_s: NotNegative = _knob(0.05, "seconds from the last request of a model ordered out until it is gone")
    fail_load: str = _knob("", "every load fails as a 500 with this text")
    vram_mib: Count = _knob(24576, "memory of one card")
    card_dir: str = _knob("", "start: directory (or a JSON list of several) where runners show as <pid>.json")
    known_gpus: tuple[str, ...] = _knob((), "ids valid in CUDA_VISIBLE_DEVICES; none named means any that looks valid")
    placement: Literal["auto", "gpu", "partial", "none"] = _knob("auto", "where models go, whatever their size")
    overflow: Literal["partial", "refuse"] = _knob(
        "partial", "too big a model spills to the CPU, or fails as old releases did"
    )

    request_s: NotNegative = _knob(0.0, "above 0: every request takes exactly so long once it has a slot")
    tokens_per_s: Positive = _knob(500.0, "speed of one slot where request_s is 0")
    lines: Count = _knob(6, "pieces of text per answer; 0 means one line per token")
    obey: bool = _knob(
        False, "prompts that hold [[recite]] are answered with what follows it, [[lines]]: with its lines as a JSON list"
    )
    spill_factor: Positive = _knob(10.0, "how many times slower a model runs that is not whole on the card")

    faults: tuple[str, ...] = _knob(
        (), "what goes wrong with requests: MODE or MODE=RATE (0 to 1); see swarm.simulator.faults"
    )
    fault_after: Count = _knob(0, "faults spare so many requests first")
    fault_limit: int = _knob(-1, "at most so many faults; negative: no limit")
    fault_match: str = _knob("", "only requests whose body contains this text fail")
    poison: tuple[str, ...] = _knob(
        (), "TEXT=MODE: requests whose body contains TEXT fail in this mode, whatever else is turned"
    )
    fault_text: str = _knob("CUDA error: an illegal memory access was encountered", "text of error lines and 500s")
    fail_after: int = _knob(-1, "after so many requests every request fails as a 500; negative: never")
    exit_after: int = _knob(-1, "the server dies, leaving its runners, when request number n+1 arrives; negative: never")
    ps_hang: bool = _knob(False, "/api/ps never answers, as with a wedged scheduler")
    ledger: str = _knob("", "file to which each request is appended as one JSON line")


def parse(argv: Sequence[str] | None, environ: Mapping[str, str]) -> tuple[Knobs, str | None]:
    """Knobs from flags over environment over defaults, and the ``--host`` flag. Exits with status 2 on a bad flag."""
    parser = argparse.ArgumentParser(
        prog="swarm sim ollama",
        description="A simulated Ollama server. Honours OLLAMA_HOST, OLLAMA_MODELS, OLLAMA_NOPRUNE, OLLAMA_KEEP_ALIVE, "
        "OLLAMA_NUM_PARALLEL, OLLAMA_MAX_QUEUE, OLLAMA_MAX_LOADED_MODELS, OLLAMA_CONTEXT_LENGTH and CUDA_VISIBLE_DEVICES.",
        epilog="Each flag is also an environment variable: --load-s is SWARM_SIM_LOAD_S. Lists are separated by commas.",
    )
    parser.add_argument("--host", help="address and port, default: OLLAMA_HOST, else 127.0.0.1:11434")
    fields = msgspec.structs.fields(Knobs)
    for field, text in zip(fields, _HELP, strict=True):
        flag = "--" + field.name.replace("_", "-")
        extra: dict[str, Any] = {"nargs": "?", "const": "true"} if field.type is bool else {"metavar": "X"}
        parser.add_argument(flag, dest=field.name, help=f"{text} (default: {_shown(field.default)})", **extra)
    given = vars(parser.parse_args(argv))
    host = given.pop("host")
    texts = {f.name: environ[ENV_PREFIX + f.name.upper()] for f in fields if ENV_PREFIX + f.name.upper() in environ}
    texts |= {name: text for name, text in given.items() if text is not None}
    for name, text in {**texts, "host": host or ""}.items():
        if name not in _PATHS and re.search("[\ud800-\udfff]", text):
            parser.error(f"{name}: {text.encode('utf-8', 'backslashreplace').decode()}: is not UTF-8")
    lists = {field.name for field in fields if isinstance(field.default, tuple)}
    try:
        return msgspec.convert({n: _split(t) if n in lists else t for n, t in texts.items()}, Knobs, strict=False), host
    except msgspec.ValidationError as error:
        parser.error(str(error))


def turned(knobs: Knobs, changes: Mapping[str, Any]) -> Knobs:
    """Knobs with some of them changed. Raises ``msgspec.ValidationError`` for an unknown name or a wrong value."""
    return msgspec.convert({**msgspec.structs.asdict(knobs), **changes}, Knobs)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shown(default: object) -> str:
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    return (text or "none").replace("%", "%%")


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
    gpus = _visible(env.get("CUDA_VISIBLE_DEVICES"), knobs.known_gpus)
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


def _visible(text: str | None, known: tuple[str, ...]) -> int:
    """How many cards ``CUDA_VISIBLE_DEVICES`` leaves; one bad id hides them all."""
    if text is None:
        return max(len(known), 1)
    ids = [part.strip() for part in text.split(",")]
    if known:
        good = all(one in known or (one.isdigit() and int(one) < len(known)) for one in ids)
    else:
        good = all(one.isdigit() or one.upper().startswith(("GPU-", "MIG-", "SIM-")) for one in ids)
    return len(ids) if good else 0
