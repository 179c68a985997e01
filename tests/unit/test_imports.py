"""Who may import whom: the picture of ARCHITECTURE.md, kept true."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "swarm"
LEAVES = {
    "errors",
    "plaintext",
    "settings",
    "clock",
    "disk",
    "entries",
    "proc",
    "stdio",
    "temporary",
    "ownership",
    "__init__",
}
ADAPTERS = {"taskqueue", "gpu", "ollama", "engines", "files", "notify"}
MAY_IMPORT = {
    "errors": set(),
    "plaintext": set(),
    "settings": set(),
    "clock": set(),
    "disk": set(),
    "stdio": set(),
    "ownership": set(),
    "entries": {"errors", "plaintext"},
    "temporary": {"disk", "entries", "errors"},
    "__init__": {"api"},  # by name only, when first asked for
    "proc": LEAVES | {"core"},
    "core": {"errors", "settings", "plaintext", "core"},
    **{room: LEAVES | {"core", room} for room in ADAPTERS},
    "runtime": LEAVES | {"core", "runtime"},
    "testing": LEAVES | {"core", "runtime", "testing"},
    "configcheck": LEAVES | {"core", "configcheck", "configfile"},
    "configfile": LEAVES | {"core", "configcheck", "configfile"},
    "cli": LEAVES | ADAPTERS | {"core", "runtime", "cli", "configfile", "configcheck", "__main__"},
    "api": LEAVES | ADAPTERS | {"core", "runtime", "cli", "configfile", "configcheck", "api"},  # a door like the commands
    "__main__": LEAVES | {"cli"},
}
IMPURE = {"os", "io", "time", "random", "socket", "subprocess", "threading", "logging", "pathlib", "datetime", "secrets"}
WIRING = PACKAGE / "runtime" / "wiring"


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
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_the_right_way(path):
    room = room_of(path)
    allowed = MAY_IMPORT[room] | (ADAPTERS | {"configfile"} if path.is_relative_to(WIRING) else set())
    for name in imports_of(path):
        if name.startswith("swarm."):
            target = name.split(".")[1]
            assert target in allowed, f"{room} may not import {name}"
        elif room == "core":
            assert name.split(".")[0] not in IMPURE, f"core is pure, {name} is not"
