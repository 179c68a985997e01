"""The flags of llama-server, as far as swarm uses them, and those it may be given without effect here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import msgspec


class LlamaFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    file: str
    alias: str
    host: str
    port: int
    parallel: int
    """Below 1: four slots on one unified context."""
    context: int
    """Tokens of all slots together; 0: as many as the model was trained for, if they fit."""
    unified: bool
    api_keys: tuple[str, ...]
    embeddings: bool
    metrics: bool
    slots: bool
    gpu_layers: str


_IGNORED_VALUES = (
    ("-b", "--batch-size"),
    ("-ub", "--ubatch-size"),
    ("-fa", "--flash-attn"),
    ("-fit", "--fit"),
    ("-fitt", "--fit-target"),
    ("-fitc", "--fit-ctx"),
    ("-t", "--threads"),
    ("-tb", "--threads-batch"),
    ("--threads-http",),
    ("-n", "--predict", "--n-predict"),
    ("-cram", "--cache-ram"),
    ("--cache-reuse",),
    ("-sps", "--slot-prompt-similarity"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-sm", "--split-mode"),
    ("-ts", "--tensor-split"),
    ("-mg", "--main-gpu"),
    ("-dev", "--device"),
    ("--pooling",),
    ("--lora",),
    ("--mmproj",),
    ("--kv-unified-per-slot",),
    ("--sleep-idle-seconds",),
    ("-to", "--timeout"),
    ("--reasoning-format",),
    ("--reasoning-budget",),
    ("--chat-template",),
    ("-lv", "--log-verbosity", "--verbosity"),
    ("-lm", "--load-mode"),
    ("--slot-save-path",),
)
_IGNORED_SWITCHES = (
    ("-cb", "--cont-batching", "-nocb", "--no-cont-batching"),
    ("--jinja", "--no-jinja"),
    ("--no-webui", "--webui", "--ui", "--no-ui"),
    ("--warmup", "--no-warmup"),
    ("--mlock",),
    ("--mmap", "--no-mmap"),
    ("--offline",),
    ("--props",),
    ("--cache-prompt", "--no-cache-prompt"),
    ("--cache-idle-slots", "--no-cache-idle-slots"),
    ("--context-shift", "--no-context-shift"),
    ("--log-prefix", "--no-log-prefix", "--log-timestamps", "--no-log-timestamps", "--log-disable"),
    ("--swa-full",),
    ("-v", "--verbose"),
)


def parse_flags(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[LlamaFlags, list[str]]:
    """The flags, and the arguments that are none of llama-server's. Exits with status 1 on a bad value."""
    parser = argparse.ArgumentParser(prog="llama-server (simulated)", add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--model", dest="file", required=True)
    parser.add_argument("-a", "--alias", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("-np", "--parallel", type=int, default=-1)
    parser.add_argument("-c", "--ctx-size", dest="context", type=int, default=0)
    parser.add_argument("-kvu", "--kv-unified", dest="unified", action="store_true")
    parser.add_argument("-no-kvu", "--no-kv-unified", dest="unified", action="store_false")
    parser.add_argument("--api-key", default=environ.get("LLAMA_API_KEY", ""))
    parser.add_argument("--embeddings", "--embedding", action="store_true")
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--slots", action="store_true", default=True)
    parser.add_argument("--no-slots", dest="slots", action="store_false")
    parser.add_argument("-ngl", "--gpu-layers", "--n-gpu-layers", dest="gpu_layers", default="auto")
    for names in _IGNORED_VALUES:
        parser.add_argument(*names, dest="ignored")
    for switches in _IGNORED_SWITCHES:
        parser.add_argument(*switches, dest="ignored", action="store_true")
    given, others = parser.parse_known_args(argv)
    fields = {name: value for name, value in vars(given).items() if name in LlamaFlags.__struct_fields__}
    keys = tuple(key for key in given.api_key.split(",") if key)
    return LlamaFlags(**(fields | {"api_keys": keys, "alias": given.alias.partition(",")[0]})), others
