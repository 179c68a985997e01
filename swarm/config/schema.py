"""JSON Schema of the configuration file, with the settings' docstrings as descriptions."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import msgspec

from swarm.config import http_settings
from swarm.config import settings as settings_module
from swarm.config.settings import Settings


def schema_text() -> str:
    """The schema as indented JSON with a final newline; the same text for the same settings."""
    (reference,), components = msgspec.json.schema_components([Settings], ref_template="#/$defs/{name}")
    for section, texts in _docstrings().items():
        for key, text in texts.items():
            described = components.get(section, {}).get("properties", {}).get(key)
            if described is not None:
                described["description"] = text
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "swarm configuration",
        **reference,
        "$defs": components,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _docstrings() -> dict[str, dict[str, str]]:
    """What the settings say of their own fields, by class and field; Python does not keep these strings at run time."""
    found: dict[str, dict[str, str]] = {}
    for node in (one for module in (settings_module, http_settings) for one in ast.parse(inspect.getsource(module)).body):
        if isinstance(node, ast.ClassDef):
            texts = found.setdefault(node.name, {})
            for field, after in zip(node.body, node.body[1:], strict=False):
                match field, after:
                    case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))):
                        texts[name] = " ".join(text.split())
                    case _:
                        pass
    return found
