"""The configuration in force as a document, for readers who may not see its secrets without them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from swarm.config.settings import Settings

HIDDEN = "(hidden)"
_HIDDEN_TABLES = frozenset({"env", "targets"})
"""Every value of these may be a secret: variables of servers, targets of notifications."""
_TOKENS = frozenset({"token"})
"""Keys that hold a token: nobody is shown it, not even who may read the file."""
_SECRET_FLAG = re.compile(r"(?i)^-.*(key|token|secret|password|credential)")


class ConfigDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm config show`."""

    file: str | None
    settings: Settings
    sources: Mapping[str, str]
    """Where each key that is no default came from: ``file``, ``$NAME``, ``--root``."""


def without_tokens(settings: Settings) -> dict[str, Any]:
    """The settings as JSON knows them, tokens hidden."""
    shown: dict[str, Any] = msgspec.to_builtins(settings)
    shown["workers"] = [_tokens_hidden(worker) for worker in shown["workers"]]
    return shown


def _tokens_hidden(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: HIDDEN if key in _TOKENS and value is not None else value for key, value in table.items()}


def without_secrets(document: ConfigDocument) -> Any:  # noqa: ANN401 - the document as JSON knows it
    """The same with what may be a secret hidden."""
    return _hidden(msgspec.to_builtins(document))


def _hidden(value: object, name: str = "") -> object:
    match value:
        case dict() if name in _HIDDEN_TABLES:
            return dict.fromkeys(value, HIDDEN)
        case dict():
            return {key: _hidden(item, str(key)) for key, item in _tokens_hidden(value).items()}
        case list() | tuple():
            return _arguments(value)
        case str():
            return _url(value)
        case _:
            return value


def _arguments(values: Sequence[object]) -> list[object]:
    """``--api-key X`` and ``--api-key=X`` of a command without X; items of any other list as they are."""
    shown: list[object] = []
    hide = False
    for value in values:
        flag = isinstance(value, str) and _SECRET_FLAG.match(value) is not None
        if hide:
            shown.append(HIDDEN)
        elif flag and "=" in str(value):
            shown.append(f"{str(value).partition('=')[0]}={HIDDEN}")
        else:
            shown.append(_hidden(value))
        hide = flag and "=" not in str(value) and not hide
    return shown


def _url(text: str) -> str:
    """A URL without the password and the query that it may carry."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return HIDDEN
    place = parts.netloc.rpartition("@")
    netloc = f"{HIDDEN}@{place[2]}" if place[1] else place[2]
    return urlunsplit(parts._replace(netloc=netloc, query=HIDDEN if parts.query else ""))
