"""Commands that our own texts name: found in the sources, and tried against the commands there are."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from swarm.cli.app import app

PACKAGE = Path(__file__).parents[2] / "swarm"
GROUP: Any = typer.main.get_command(app)
STANDS_FOR = "1"
"""For what a text fills in: good as a name, as a number and as a time."""
_TICKED = re.compile(r"`(swarm [^`]+)`")
_BARE = re.compile(
    rf"(?:^|; |: |, |\bor |\n\s*|\()(swarm (?:{'|'.join(GROUP.commands)})\b(?:[^;,\n`()\"']|'[^']*'|\"[^\"]*\")*)"
)
_REST = re.compile(r"\s+(?:\||>|&&|\.\.\.|…|then\b|-?\s*$).*|\s{2,}.*|[.:]$|: [^\"']*$", re.DOTALL)


class Spoken(NamedTuple):
    """A command as a text names it."""

    place: str
    command: str
    whole: bool
    """The text is this command: somebody is told to type it as it stands."""


def in_sources() -> Iterator[Spoken]:
    """All that hints, messages, findings and the examples of help texts name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for line, text, said in _texts(tree):
            place = f"{path.relative_to(PACKAGE)}:{line}"
            for command in examples(text) if not said else named_in(text):
                yield Spoken(place, command, whole=not said or text == command)


def named_in(text: str) -> list[str]:
    """The commands that a sentence names, in backticks or as they stand."""
    found = [*_TICKED.findall(text), *_BARE.findall(_TICKED.sub("", text))]
    return [command for raw in found if (command := _REST.sub("", raw).strip()) != "swarm"]


def examples(doc: str) -> list[str]:
    """Those of a help text: a line each."""
    lines = (line.strip() for line in doc.splitlines())
    return [_REST.sub("", part).strip() for line in lines if line.startswith("swarm ") for part in line.split("; ")]


def _texts(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is said; the docstrings of functions only matter as help texts."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body and isinstance(node.body[0], ast.Expr)
    }
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {
        id(sub) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for sub in ast.walk(node) if sub is not node
    }
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(v.value if isinstance(v, ast.Constant) else STANDS_FOR for v in node.values), True
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            help_text = "\b" in node.value
            if help_text or not (id(node) in docs or id(node) in loose):
                yield node.lineno, node.value, not help_text


def fault_of(command: str) -> str | None:
    """What is wrong with a command, by its words alone; None: nothing."""
    try:
        words = [word for word in shlex.split(command)[1:] if word != "…"]
    except ValueError as error:
        return str(error)
    found = GROUP
    path: list[str] = []
    while words and hasattr(found, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in found.commands:
            return f"there is no {name!r}"
        found = found.commands[name]
        path.append(name)
    if "--help" in words or "--version" in words or (hasattr(found, "commands") and not words):
        return None  # a group without more words shows its help
    try:
        found.make_context(" ".join(path), words).close()
    except Exception as error:  # whatever the parser does not like
        return f"{type(error).__name__}: {error}"
    return None
