"""``swarm config …``: what is in force, is it right, what could be set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import typer

from swarm.cli.command_options import ShowOptions
from swarm.cli.render import to_json
from swarm.config.check import dotted
from swarm.core.nodes.relay_workers import relay_warnings, unset_tokens
from swarm.core.policy.script_entries import script_warnings
from swarm.views.blocks import Line
from swarm.views.config_document import without_tokens

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""Configuration: show, check, schema.

    \b
    Examples:
      swarm config check
      swarm config show --json | jq .settings.llm
    """,
)


@app.command()
def show(at: ShowOptions) -> None:
    """The settings in force as TOML. Other values than the defaults show their origin.

    \b
    Examples:
      swarm config show
      SWARM_LLM__SLOTS=4 swarm config show --json | jq .settings.llm
    """
    loaded = at.load()
    if at.as_json:
        file = str(loaded.path) if loaded.path else None
        print(to_json({"file": file, "settings": without_tokens(loaded.settings), "sources": loaded.sources}))
        return
    print(f"# file: {loaded.path or 'none, these are the defaults'}")
    for line in _toml(without_tokens(loaded.settings), loaded.sources):
        print(line)


@app.command()
def check(at: ShowOptions) -> None:
    """Check file and environment. Lists every error with its line; warns of entries of
    [scripts] that let a task run any code, and of tokens and networks that are open to others.

    \b
    Example:
      swarm config check --config config/swarm.toml
    """
    loaded = at.load()
    path = str(loaded.path) if loaded.path else None
    text = f"{path or 'no file, defaults'}: all well ({len(loaded.sources)} keys set)"
    warnings = list(script_warnings(loaded.settings.scripts))
    lines = [Line(f"warning: [scripts] {w.name}: {w.what}; {w.next}", "yellow") for w in warnings]
    mode = os.stat(loaded.path).st_mode if loaded.path else 0
    relays = [*unset_tokens(loaded.settings, os.environ)]
    relays += relay_warnings(loaded.settings, open_file=bool(mode & 0o044))
    lines += [Line(f"warning: [[workers]] {w.name}: {w.what}; {w.next}", "yellow") for w in relays]
    document = {"ok": True, "file": path, "keys_set": len(loaded.sources), "warnings": [*warnings, *relays]}
    at.show(document, [Line(text, "green"), *lines])


@app.command()
def schema() -> None:
    """The JSON Schema of the configuration file, for editors.

    \b
    Example:
      swarm config schema > config/swarm.schema.json
    """
    from swarm.config.schema import schema_text

    print(schema_text(), end="")


def _toml(document: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    """Plain values of a section first, then its tables, as TOML wants them."""
    for section, value in document.items():
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield f"\n[[{section}]]"
                yield from _lines(item, f"{section}[{index}]", sources)
        elif section in ("models", "engines"):
            for name, item in value.items():
                yield f"\n[{dotted((section, name))}]"
                yield from _lines(item, dotted((section, name)), sources)
        else:
            yield f"\n[{section}]"
            yield from _lines(value, section, sources)


def _lines(table: Mapping[str, Any], path: str, sources: Mapping[str, str]) -> Iterator[str]:
    for name, value in table.items():
        key = dotted((name,))
        source = sources.get(f"{path}.{key}")
        if value is None:
            yield f"# {key} is not set"
        else:
            yield f"{key} = {_value(value)}" + (f"  # from {source}" if source else "")


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case list() | tuple():
            return f"[{', '.join(_value(item) for item in value)}]"
        case dict():
            parts = [f"{_text(name)} = {_value(item)}" for name, item in value.items() if item is not None]
            return "{" + ", ".join(parts) + "}"
        case _:
            return str(value)


def _text(value: str) -> str:
    return msgspec.json.encode(value).decode()  # a JSON string is a TOML basic string
