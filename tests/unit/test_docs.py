"""The pages name only files, tests and commands that exist; the picture is what its script draws."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from swarm.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CODE_ENDS = (".py", ".md", ".toml", ".svg", ".json", ".service")
PLACES = ("", "swarm", "tests", "tests/unit", "tests/integration", "docs")


FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """What stands between single backquotes."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))]


def test_the_picture_is_what_the_script_draws() -> None:
    drawn = subprocess.run([sys.executable, ROOT / "scripts" / "picture"], capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "swarm.svg").read_text() == drawn.stdout


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) < 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", page.read_text())
    inside = [link for pair in links for link in pair if link and "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_source_files_and_tests_are_there(page: Path) -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    functions = re.findall(r"^def test_(\w+)", sources, re.MULTILINE)
    missing = []
    for span in spans(page):
        if re.fullmatch(r"test_[\w…]+", span):
            parts = span.removeprefix("test_").split("…")
            found = any(all(part in function for part in parts) for function in functions)
        elif re.fullmatch(r"test_\w+\.py", span):
            found = bool(list((ROOT / "tests").rglob(span)))
        elif re.fullmatch(r"(swarm|scripts|tests|docs|core|queue|worker|brain|cli|ollama|config)/[\w/.]+", span):
            known = span.endswith(CODE_ENDS) or span.split("/")[0] in ("swarm", "scripts", "tests", "docs")
            found = not known or any((ROOT / place / span).exists() for place in PLACES)
        else:
            continue
        if not found:
            missing.append(span)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_there(page: Path) -> None:
    root = typer.main.get_command(app)
    shown = [body for language, body in FENCE.findall(page.read_text()) if not language]
    missing = []
    for words in re.findall(r"(?:^|· )swarm ((?:[a-z][a-z-]* ?)+)", "\n".join([*spans(page), *shown]), re.MULTILINE):
        group = root
        for word in words.split():
            commands = getattr(group, "commands", None)
            if commands is None:
                break
            if word not in commands:
                missing.append(words)
                break
            group = commands[word]
    assert missing == []
