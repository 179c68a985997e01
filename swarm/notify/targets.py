"""Notification targets: a URL, ``script:NAME``, or a name of ``[notify] targets``."""

from __future__ import annotations

import importlib
import importlib.util
import urllib.parse

from swarm.config.settings import Settings
from swarm.errors import InputError

HTTP = ("http://", "https://")
SCRIPT = "script:"
_HAS_APPRISE = importlib.util.find_spec("apprise") is not None


def check_target(target: str, settings: Settings) -> None:
    """Raises ``InputError`` for what can never be delivered: an unknown name, script or kind."""
    place = resolve(target, settings)
    problem = problem_of(place, settings) or _malformed(place)
    if problem:
        raise InputError(f"notify {target!r}: {problem}", hint="http(s)://…, script:NAME, or a name of [notify] targets")


def resolve(target: str, settings: Settings) -> str:
    """The URL or script behind a name; anything else as it is."""
    return settings.notify.targets.get(target, target)


def problem_of(place: str, settings: Settings) -> str | None:
    """Why nothing can be delivered there; None as far as its kind shows."""
    if place.startswith(HTTP):
        return None
    if place.startswith(SCRIPT):
        name = place.removeprefix(SCRIPT)
        return None if name in settings.scripts else f"no script {name!r} is allowed in [scripts]"
    if "://" not in place:
        return "is no URL and no name of [notify] targets"
    return None if _HAS_APPRISE else "this kind of URL needs apprise: pip install 'gpu-swarm[notify]'"


def _malformed(place: str) -> str | None:
    if place.startswith(SCRIPT):
        return None
    if place.startswith(HTTP):
        return None if urllib.parse.urlsplit(place).hostname and place.isprintable() and " " not in place else "is no URL"
    return None if importlib.import_module("apprise").Apprise.instantiate(place) else "is no URL that apprise knows"
