"""One message to one target. Bounded in time; raises ``NotTold`` with whether another try may help.

Each message has a ``message_id``: the same whenever it comes again, so that who is told can drop what comes twice.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, InvalidURL
from typing import IO, Any

import msgspec

from swarm.config.settings import Settings, script_entry
from swarm.errors import InputError
from swarm.proc.environment import fixed_env

SCRIPT = "script:"
_HAS_APPRISE = importlib.util.find_spec("apprise") is not None
_ASK_LATER = (408, 425, 429)
_BUSY = (429, 502, 503, 504)
_REASON_CHARS = 200


class NotTold(Exception):
    """A target could not be told. ``hopeless``: nor will it be, whatever the number of tries; ``down``: nor could it be told
    anything else just now.
    """

    def __init__(self, message: str, *, hopeless: bool, down: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless
        self.down = down


def check_target(target: str, settings: Settings) -> None:
    """Raises ``InputError`` for what can never be told: an unknown name, script or kind."""
    place = _resolved(target, settings)
    problem = _problem(place, settings) or _malformed(place)
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
        _run(script_entry(settings.scripts[place.removeprefix(SCRIPT)]).command, message, timeout_s)
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


def _malformed(place: str) -> str | None:
    if place.startswith(SCRIPT):
        return None
    if place.startswith(("http://", "https://")):
        return None if urllib.parse.urlsplit(place).hostname and place.isprintable() and " " not in place else "is no URL"
    return None if importlib.import_module("apprise").Apprise.instantiate(place) else "is no URL that apprise knows"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, and count as told."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """None: the redirect is an error like any other."""


_open = urllib.request.build_opener(_NoRedirects).open


def _post(url: str, message: Mapping[str, Any], timeout_s: float) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "swarm"}
    if "message_id" in message:
        headers["Idempotency-Key"] = message["message_id"]
    try:
        request = urllib.request.Request(url, data=msgspec.json.encode(message), headers=headers, method="POST")  # noqa: S310
        with _open(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        with error:
            hopeless = 300 <= error.code < 500 and error.code not in _ASK_LATER
            elsewhere = f" and sends elsewhere: {error.headers.get('Location')}" if error.code < 400 else ""
            raise NotTold(
                f"it answered HTTP {error.code}{elsewhere}", hopeless=hopeless, down=error.code in _BUSY
            ) from error
    except (ValueError, InvalidURL) as error:
        raise NotTold(f"{type(error).__name__}: {error}", hopeless=True) from error
    except (OSError, HTTPException) as error:
        raise NotTold(f"{type(error).__name__}: {error}", hopeless=False, down=True) from error


def _run(argv: tuple[str, ...], message: Mapping[str, Any], timeout_s: float) -> None:
    """The message comes on standard input and, its parts that are plain, as ``SWARM_…`` variables.

    Any task may have any entry told: beside that it gets what a task's program gets, not the brain's secrets.
    """
    plain = {f"SWARM_{k}".upper(): str(v).replace("\0", "") for k, v in message.items() if isinstance(v, str | int)}
    try:
        done = subprocess.run(
            argv,
            input=msgspec.json.encode(message),
            env={**fixed_env(os.environ.get("HOME", "/")), **plain},
            cwd="/",
            capture_output=True,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotTold(f"{argv[0]}: {error}", hopeless=False, down=True) from error
    if done.returncode:
        raise NotTold(f"{argv[0]} ended with {done.returncode}", hopeless=False)


def _apprise(url: str, message: Mapping[str, Any]) -> None:
    teller = importlib.import_module("apprise").Apprise()
    if not teller.add(url):
        raise NotTold("apprise does not know this kind of URL", hopeless=True)
    subject = message.get("batch_id") if message["event"] == "batch_ended" else message.get("task_id")
    title = f"swarm: {message['event'].replace('_', ' ')}: {subject}"
    with _said("apprise") as said:
        try:
            told = teller.notify(title=title, body=msgspec.json.format(msgspec.json.encode(message), indent=2).decode())
        except Exception as error:  # a hundred services of others' making: whatever they raise, this one was not told
            raise NotTold(f"apprise: {type(error).__name__}: {error}", hopeless=False, down=True) from error
    if not told:
        reason = said.getvalue().strip().partition("\n")[0][:_REASON_CHARS]
        raise NotTold(f"apprise could not deliver it{f': {reason}' if reason else ''}", hopeless=False, down=True)


@contextmanager
def _said(logger: str) -> Iterator[io.StringIO]:
    """What a library warns of within the block: the only place where it says why."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setLevel(logging.WARNING)
    log = logging.getLogger(logger)
    log.addHandler(handler)
    try:
        yield text
    finally:
        log.removeHandler(handler)
