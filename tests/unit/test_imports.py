"""Who may import whom: the picture of ARCHITECTURE.md, kept true."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "swarm"
LEAVES = {"errors", "clock", "stdio", "plain_text", "http_session", "__init__"}
BELOW = LEAVES | {"core", "config", "filesystem", "proc"}
ADAPTERS = {"queue", "gpu", "engines", "formats", "notify"}
PROCESSES = {"brain", "worker", "supervisor", "relay", "cluster"}
SHOWN = BELOW | ADAPTERS | PROCESSES | {"runtime"}
EVERYTHING = SHOWN | {"views", "cli", "simulator"}
MAY_IMPORT = {
    **dict.fromkeys(LEAVES, LEAVES),
    "__init__": {"api"},  # by name only, when first asked for
    "core": {"errors", "config"},
    "config": {"errors", "plain_text", "core", "filesystem"},
    "filesystem": LEAVES,
    "proc": BELOW,
    **dict.fromkeys(ADAPTERS, BELOW),
    "runtime": BELOW,
    **dict.fromkeys(PROCESSES, BELOW | {"runtime"}),
    "simulator": BELOW,
    "views": SHOWN,  # what the three doors show
    "cli": EVERYTHING | {"__main__", "http"},
    "api": EVERYTHING,  # a door like the commands
    "http": EVERYTHING,  # and a third one
    "__main__": LEAVES | {"cli", "proc"},  # process 1 of a container works in a child
}
IMPURE = {"os", "io", "time", "random", "socket", "subprocess", "threading", "logging", "pathlib", "datetime", "secrets"}
WIRING = {
    "runtime": ("bootstrap", "cards", "open"),
    "brain": ("main", "metrics_endpoint"),
    "worker": ("main", "server_wiring", "remote_wiring", "slot_wiring", "response_cache"),
    "relay": ("main", "relay_card", "relay_plan", "relay_host", "relay_guard", "shared_pulls"),
    "cluster": ("main",),
    "supervisor": ("main", "keeper_factory", "background", "local_process", "serve", "down", "what_runs", "restarts"),
}
"""The modules that put a process together: they alone name concrete adapters, and parts of other processes."""


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "swarm":
                yield from (f"swarm.{alias.name}" for alias in node.names if (PACKAGE / alias.name).exists())


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_the_right_way(path):
    room = room_of(path)
    allowed = EVERYTHING if path.stem in WIRING.get(room, ()) else MAY_IMPORT[room] | {room}
    for name in imports_of(path):
        if name.startswith("swarm."):
            target = name.split(".")[1]
            assert target in allowed, f"{room} may not import {name}"
            assert room != "core" or target != "config" or name == "swarm.config.settings", "core knows settings, no files"
        elif name.split(".")[0] == "ray":
            assert room == "cluster", "the Ray driver alone knows Ray"
        elif room == "core":
            assert name.split(".")[0] not in IMPURE, f"core is pure, {name} is not"
