"""``docs/ollama.md`` names a test for each trap: they must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_named_in_the_table_exists() -> None:
    rows = [line.split("|") for line in (ROOT / "docs" / "ollama.md").read_text().splitlines() if line.startswith("| ")]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row[3])]
    assert len(names) > 50
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    functions = re.findall(r"^def test_(\w+)", sources, re.MULTILINE)
    for name in names:
        if "/" in name:
            assert (ROOT / name).exists(), name
        elif name.endswith(".py"):
            assert list((ROOT / "tests").rglob(name)), name
        elif not name.startswith("["):
            parts = re.sub(r"\[.*\]", "", name).split("…")
            assert any(all(part in function for part in parts) for function in functions), f"no test is called {name}"
