"""One message to one target. Bounded in time; raises ``NotTold`` with whether another try may help."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import msgspec

from swarm.errors import InputError
from swarm.settings import Settings

SCRIPT = "script:"
_HAS_APPRISE = importlib.util.find_spec("apprise") is not None
_ASK_LATER = (408, 425, 429)


class NotTold(Exception):
    """A target could not be told. ``hopeless``: nor will it be, whatever the number of tries."""

    def __init__(self, message: str, *, hopeless: bool) -> None:
        super().__init__(message)
        self.hopeless = hopeless


def check_target(target: str, settings: Settings) -> None:
    """Raises ``InputError`` for what can never be told: an unknown name, script or kind."""
    problem = _problem(_resolved(target, settings), settings)
    if problem:
        raise InputError(f"notify {target!r}: {problem}", hint="http(s)://…, script:NAME, or a name of [notify] targets")


def deliver(target: str, message: Mapping[str, Any], settings: Settings) -> None:
    """Tell one target. Raises ``NotTold``."""
    place = _resolved(target, settings)
    problem = _problem(place, settings)
    if problem:
        raise NotTold(problem, hopeless=True)
    timeout_s = settings.notify.timeout_s
    if place.startswith(("http://", "https://")):
        _post(place, message, timeout_s)
    elif place.startswith(SCRIPT):
        _run(settings.scripts[place.removeprefix(SCRIPT)], message, timeout_s)
    else:
        _apprise(place, message)


def _resolved(target: str, settings: Settings) -> str:
    return settings.notify.targets.get(target, target)


def _problem(place: str, settings: Settings) -> str | None:
    if place.startswith(("http://", "https://")):
        return None
    if place.startswith(SCRIPT):
        name = place.removeprefix(SCRIPT)
        return None if name in settings.scripts else f"no script {name!r} is allowed in [scripts]"
    if "://" not in place:
        return "is no URL and no name of [notify] targets"
    return None if _HAS_APPRISE else "this kind of URL needs apprise: pip install 'gpu-swarm[notify]'"


def _post(url: str, message: Mapping[str, Any], timeout_s: float) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "swarm"}
    try:
        request = urllib.request.Request(url, data=msgspec.json.encode(message), headers=headers, method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=timeout_s):  # noqa: S310 - the scheme was checked
            return
    except urllib.error.HTTPError as error:
        with error:
            hopeless = 400 <= error.code < 500 and error.code not in _ASK_LATER
            raise NotTold(f"it answered HTTP {error.code}", hopeless=hopeless) from error
    except (OSError, ValueError) as error:
        raise NotTold(f"{type(error).__name__}: {error}", hopeless=isinstance(error, ValueError)) from error


def _run(argv: tuple[str, ...], message: Mapping[str, Any], timeout_s: float) -> None:
    """The message comes on standard input and, its parts that are plain, as ``SWARM_…`` variables."""
    plain = {f"SWARM_{k}".upper(): str(v) for k, v in message.items() if isinstance(v, str | int)}
    try:
        done = subprocess.run(
            argv,
            input=msgspec.json.encode(message),
            env={**os.environ, **plain},
            capture_output=True,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotTold(f"{argv[0]}: {error}", hopeless=False) from error
    if done.returncode:
        raise NotTold(f"{argv[0]} ended with {done.returncode}", hopeless=False)


def _apprise(url: str, message: Mapping[str, Any]) -> None:
    teller = importlib.import_module("apprise").Apprise()
    if not teller.add(url):
        raise NotTold("apprise does not know this kind of URL", hopeless=True)
    subject = message.get("batch_id") if message["event"] == "batch_ended" else message.get("task_id")
    title = f"swarm: {message['event'].replace('_', ' ')}: {subject}"
    if not teller.notify(title=title, body=msgspec.json.format(msgspec.json.encode(message), indent=2).decode()):
        raise NotTold("apprise could not deliver it", hopeless=False)
