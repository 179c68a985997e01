"""When and how often the tasks of a submission run: what the command line says, as task fields."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import Any

from swarm.cli.facade import RunRequest
from swarm.cli.units import parse_duration_s
from swarm.clock import iso_of
from swarm.errors import InputError

MAX_ATTEMPTS = 100


def task_fields(request: RunRequest, now_s: float | None = None) -> dict[str, Any]:
    """``priority``, ``not_before``, ``timeout_s``, ``max_attempts``, ``cache`` as far as asked for. Raises ``InputError``.

    ``now_s``: seconds since the epoch from which durations and times of day count.
    """
    fields: dict[str, Any] = {} if request.priority is None else {"priority": request.priority}
    if request.not_before is not None:
        fields["not_before"] = moment(request.not_before, time.time() if now_s is None else now_s)
    if request.timeout is not None:
        fields["timeout_s"] = _timeout_s(request.timeout)
    if request.max_attempts is not None:
        fields["max_attempts"] = request.max_attempts
    if request.cache is not None:
        fields["cache"] = request.cache
    return fields


def with_defaults(document: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document with fields that it does not say itself: a line's own word wins."""
    missing = {name: value for name, value in defaults.items() if name not in document}
    return {**document, **missing} if missing else document


def moment(text: str, now_s: float) -> str:
    """ISO 8601 with offset for ``10m``, ``22:00`` (the next one), ``2026-02-07T21:05`` (local unless it says otherwise).

    One that has passed already is as good as none and comes back as it is. Raises ``InputError``.
    """
    hint = "a time to wait: 10m, 1h30m; a time of day: 22:00; or a date and time: 2026-02-07T21:05"
    try:
        return iso_of(now_s + parse_duration_s(text))
    except InputError:
        pass  # no duration, then a time
    except (OverflowError, ValueError, OSError) as error:
        raise InputError(f"--not-before {text!r} is too far away", hint=hint) from error
    try:
        if "-" not in text and ":" in text:
            return iso_of(_next(time_of_day.fromisoformat(text.strip()), now_s))
        return iso_of(datetime.fromisoformat(text.strip()).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"--not-before {text!r} is no time and no duration", hint=hint) from error


def _next(at: time_of_day, now_s: float) -> float:
    if at.tzinfo is not None:
        raise ValueError("a time of day with an offset")
    now = datetime.fromtimestamp(now_s)  # noqa: DTZ006 - people mean their own clock
    today = datetime.combine(now.date(), at)
    return (today if today > now else today + timedelta(days=1)).timestamp()


def _timeout_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = parse_duration_s(text)
    if not 0 < seconds < float("inf"):
        raise InputError(f"--timeout {text}: must be more than 0", hint="seconds, or a duration: --timeout 90, --timeout 5m")
    return seconds
