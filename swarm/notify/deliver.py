"""Delivers one message to one target, within a time limit.

* Raises ``DeliveryFailed``, which says whether another try may help.
* Each message has a ``message_id``, the same in every try, so that the receiver can drop what comes twice.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from requests import RequestException
from requests.utils import get_environ_proxies

from swarm.config.settings import Settings, script_entry
from swarm.core.faults import DeliveryFailed
from swarm.http_session import PlainSession, cause_of
from swarm.notify.targets import HTTP, SCRIPT, problem_of, resolve
from swarm.proc.env_markers import fixed_env

_ASK_LATER = (408, 425, 429)
_BUSY = (429, 502, 503, 504)
_REASON_CHARS = 200


def deliver(target: str, message: Mapping[str, Any], settings: Settings) -> None:
    """Deliver to one target. Raises ``DeliveryFailed``."""
    place = resolve(target, settings)
    problem = problem_of(place, settings)
    if problem:
        raise DeliveryFailed(problem, permanent=True)
    timeout_s = settings.notify.timeout_s
    if place.startswith(HTTP):
        _post(place, message, timeout_s)
    elif place.startswith(SCRIPT):
        _run(script_entry(settings.scripts[place.removeprefix(SCRIPT)]).command, message, timeout_s)
    else:
        _apprise(place, message)


def _post(url: str, message: Mapping[str, Any], timeout_s: float) -> None:
    """Redirects are errors: a redirected POST would arrive as a GET without its body, and count as delivered."""
    headers = {"Content-Type": "application/json", "User-Agent": "swarm"}
    if "message_id" in message:
        headers["Idempotency-Key"] = message["message_id"]
    known = ssl.get_default_verify_paths()
    try:
        with (
            PlainSession() as session,
            session.post(
                url,
                data=msgspec.json.encode(message),
                headers=headers,
                timeout=timeout_s,
                proxies=get_environ_proxies(url),
                verify=known.cafile or known.capath or True,  # the system's certificates, not only requests' own
                stream=True,
            ) as response,
        ):
            status, elsewhere = response.status_code, response.headers.get("Location")
    except ValueError as error:
        raise DeliveryFailed(f"{type(error).__name__}: {error}", permanent=True) from error
    except RequestException as error:
        cause = cause_of(error)  # those of requests would show the whole URL, which may hold a secret
        raise DeliveryFailed(f"{type(cause).__name__}: {cause}", down=True) from error
    if status >= 300:
        where = f" and sends elsewhere: {elsewhere}" if status < 400 else ""
        permanent = status < 500 and status not in _ASK_LATER
        raise DeliveryFailed(f"it answered HTTP {status}{where}", permanent=permanent, down=status in _BUSY)


def _run(argv: tuple[str, ...], message: Mapping[str, Any], timeout_s: float) -> None:
    """The message comes on standard input and, its parts that are plain, as ``SWARM_…`` variables.

    Any task may name any entry: it gets the environment of a task's program besides, not the brain's secrets. What it writes
    is not read, so that it has ended whatever it leaves running; past its time that is killed with it.
    """
    plain = {f"SWARM_{k}".upper(): str(v).replace("\0", "") for k, v in message.items() if isinstance(v, str | int)}
    try:
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**fixed_env(os.environ.get("HOME", "/")), **plain},
            cwd="/",
            start_new_session=True,
        ) as process:
            try:
                process.communicate(msgspec.json.encode(message), timeout_s)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeliveryFailed(f"{argv[0]}: {error}", down=True) from error
    if process.returncode:
        raise DeliveryFailed(f"{argv[0]} ended with {process.returncode}")


def _apprise(url: str, message: Mapping[str, Any]) -> None:
    service = importlib.import_module("apprise").Apprise()
    if not service.add(url):
        raise DeliveryFailed("apprise does not know this kind of URL", permanent=True)
    subject = message.get("batch_id") if message["event"] == "batch_ended" else message.get("task_id")
    title = f"swarm: {message['event'].replace('_', ' ')}: {subject}"
    with _warnings_of("apprise") as warnings:
        try:
            delivered = service.notify(
                title=title, body=msgspec.json.format(msgspec.json.encode(message), indent=2).decode()
            )
        except Exception as error:  # a hundred services of others' making: whatever they raise, nothing was delivered
            raise DeliveryFailed(f"apprise: {type(error).__name__}: {error}", down=True) from error
    if not delivered:
        reason = warnings.getvalue().strip().partition("\n")[0][:_REASON_CHARS]
        raise DeliveryFailed(f"apprise could not deliver it{f': {reason}' if reason else ''}", down=True)


@contextmanager
def _warnings_of(logger: str) -> Iterator[io.StringIO]:
    """What a library logs within the block: the only place where it says why."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setLevel(logging.WARNING)
    log = logging.getLogger(logger)
    log.addHandler(handler)
    try:
        yield text
    finally:
        log.removeHandler(handler)
