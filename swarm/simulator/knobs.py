"""The knobs of a simulated server.

Every knob is a flag, an environment variable ``SWARM_SIM_<NAME>`` and a key of ``POST /sim/knobs`` (those marked *start*
act only when the server starts).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from swarm.config.section import NotNegative, Positive
from swarm.config.settings import SimSettings

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
        "partial", "what does not fit on the card spills to the CPU, or the load fails"
    )

    request_s: NotNegative = _knob(0.0, "above 0: every request takes exactly so long once it has a slot")
    tokens_per_s: Positive = _knob(500.0, "speed of one slot where request_s is 0")
    curve: tuple[str, ...] = _knob(
        (),
        "in place of tokens_per_s: total tokens/s by requests at once, which they share, as n:rate for each point "
        "(straight lines between them) or one of the names in swarm.simulator.pace",
    )
    drift: tuple[str, ...] = _knob((), "seconds:factor: from so long after a load on, tokens come by this factor faster")
    noise: NotNegative = _knob(0.0, "how much the speed of single requests differs: 0.1 is 10 %")
    prompt_tokens_per_s: NotNegative = _knob(
        0.0, "above 0: what requests share that read their prompts; tokens found in a slot's context cost nothing"
    )
    oom_tokens: Count = _knob(
        0, "above 0: the runner dies of lack of memory once requests are at work with more tokens, prompts and answers"
    )
    lines: Count = _knob(6, "pieces of text per answer; 0 means one line per token")
    obey: bool = _knob(
        False, "prompts that hold [[recite]] are answered with what follows it, [[lines]]: with its lines as a JSON list"
    )
    spill_factor: Positive = _knob(10.0, "how many times slower a model runs that is not whole on the card")

    hold: str = _knob("", "requests whose prompt contains this text end only once it is turned off")
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
    report_usage: bool = _knob(True, "start: --engine openai: whether answers say how many tokens they took")
    impostor: Literal["no", "html", "json", "text"] = _knob(
        "no", "the faces of llama-server and openai: something else answers every request, with a 200 of this kind"
    )
    ledger: str = _knob("", "file to which each request is appended as one JSON line")


def parser_of_knobs(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with one flag per knob."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="Each flag is also an environment variable: --load-s is SWARM_SIM_LOAD_S. Lists are separated by commas.",
    )
    for field, text in zip(msgspec.structs.fields(Knobs), _HELP, strict=True):
        flag = "--" + field.name.replace("_", "-")
        extra: dict[str, Any] = {"nargs": "?", "const": "true"} if field.type is bool else {"metavar": "X"}
        words = f"{text} (default: {_shown(field.default)})".replace("%", "%%")  # argparse fills in what follows a %
        parser.add_argument(flag, dest=field.name, help=words, **extra)
    return parser


def read_knobs(parser: argparse.ArgumentParser, given: Mapping[str, str | None], environ: Mapping[str, str]) -> Knobs:
    """Knobs from flags over environment over defaults. Exits with status 2 on a bad value."""
    fields = msgspec.structs.fields(Knobs)
    texts = {f.name: environ[ENV_PREFIX + f.name.upper()] for f in fields if ENV_PREFIX + f.name.upper() in environ}
    texts |= {name: text for name, text in given.items() if text is not None}
    for name, text in texts.items():
        if name not in _PATHS and re.search("[\ud800-\udfff]", text):
            parser.error(f"{name}: {text.encode('utf-8', 'backslashreplace').decode()}: is not UTF-8")
    lists = {field.name for field in fields if isinstance(field.default, tuple)}
    values = {n: _split(t) if n in lists else t for n, t in texts.items() if n in Knobs.__struct_fields__}
    try:
        return msgspec.convert(values, Knobs, strict=False)
    except msgspec.ValidationError as error:
        parser.error(str(error))


def turned(knobs: Knobs, changes: Mapping[str, Any]) -> Knobs:
    """Knobs with some of them changed. Raises ``msgspec.ValidationError`` for an unknown name or a wrong value."""
    return msgspec.convert({**msgspec.structs.asdict(knobs), **changes}, Knobs)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shown(default: object) -> str:
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    return text or "none"
