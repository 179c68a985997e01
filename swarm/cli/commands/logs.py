"""``swarm logs``: all logs at once in time order, filtered, followed."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from swarm.cli.command_options import ShowOptions, arg, opt
from swarm.cli.render import to_json, to_json_line
from swarm.clock import iso_of
from swarm.errors import InputError, NotRunning, name_hint
from swarm.runtime.open import open_queue
from swarm.views.logs import task_history
from swarm.views.logs.log_files import ERR, LEVELS, Entry, Wanted, history, is_start, sources
from swarm.views.words import parse_duration_s

if TYPE_CHECKING:
    from swarm.config.settings import Settings

DEFAULT_LINES = 100
POLL_S = 0.2
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def logs(
    at: ShowOptions,
    names: list[str] | None = arg("[NAME]...", "brain, worker-1, ollama-worker-1 …", None),
    follow: bool = opt("--follow -f", "Follow new lines; Ctrl-C ends.", False),
    lines: int | None = opt("--lines -n", "Only the last N. [default: 100; all with --since]", least=0),
    level: str | None = opt("--level LEVEL", "This level and above: debug, info, warning, error."),
    since: str | None = opt("--since AGE", "Only records newer than this: 90s, 15m, 24h, 2d."),
    grep: str | None = opt("--grep REGEX", "Only records that match, such as a task id."),
    task: str | None = opt("--task ID", "One task across all processes."),
) -> None:
    """Show the logs of all processes, merged by time.

    Without a NAME: brain, workers and model servers together. The standard error of a process is shown at its time.
    With --json and -f: one JSON object per line.

    \b
    Examples:
      swarm logs -f
      swarm logs worker-1 -n 50
      swarm logs --since 24h --level warning
      swarm logs --task d5de16d7          one task, from all logs and its record
    """
    found = at.load().settings
    folder = f"{found.queue.root}/logs"
    wanted = _wanted(level, since, grep)
    record: tuple[Entry, ...] = ()
    if task is not None:
        wanted, record = _of_task(found, task, wanted)
    chosen = _choose(folder, names or [], follow=follow, needed=not record)
    if lines is None and since is None and task is None:
        lines = DEFAULT_LINES
    entries = history(folder, chosen, wanted, lines, record)
    if follow:
        _follow(folder, chosen, wanted, entries, as_json=at.as_json)
    elif at.as_json:
        print(to_json({"lines": [_document(entry) for entry in entries]}))
    else:
        _print(entries)


def _wanted(level: str | None, since: str | None, grep: str | None) -> Wanted:
    if level is not None:
        asked, level = level, {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(level.upper(), level.upper())
        if level not in LEVELS:
            names = ", ".join(name.lower() for name in LEVELS)
            raise InputError(f"--level {asked!r}: there is no such level", hint=f"one of: {names}")
    since_s = 0.0 if since is None else time.time() - parse_duration_s(since)
    return Wanted(level=level, since_s=since_s, pattern=_pattern(grep))


def _of_task(settings: Settings, task_id: str, wanted: Wanted) -> tuple[Wanted, tuple[Entry, ...]]:
    """What to look for, and what the task's document tells. Raises ``InputError`` beside --grep, ``UnknownTask``."""
    if wanted.pattern is not None:
        raise InputError("--task and --grep cannot be used together", hint=f"swarm logs --task {task_id} | grep -E ...")
    document = open_queue(settings).read(task_id)
    looking = msgspec.structs.replace(wanted, pattern=task_history.pattern(task_id))
    kept = msgspec.structs.replace(wanted, pattern=None)
    return looking, tuple(filter(kept, task_history.entries(document)))


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    try:
        return None if grep is None else re.compile(grep)
    except re.error as problem:
        hint = r"a regular expression; for text with ( [ . * or \ in it write a backslash before each"
        raise InputError(f"--grep {grep!r} cannot be used: {problem}", hint=hint) from problem


def _choose(folder: str, names: Sequence[str], *, follow: bool, needed: bool) -> tuple[str, ...]:
    """The logs asked for (empty: all), each with what its process said on standard error.

    Raises ``NotRunning`` when there are none although they are ``needed``, ``InputError`` for an unknown one.
    """
    known = sources(folder) if os.path.isdir(folder) else {}
    if not known and needed and not (follow and os.path.isdir(os.path.dirname(folder))):
        raise NotRunning(
            f"there are no logs in {folder}", hint="start with `swarm up`, or name the queue's directory with --root"
        )
    for name in names:
        if known and name not in known and f"{name}{ERR}" not in known:
            there = sorted({k.removesuffix(ERR) for k in known})
            raise InputError(f"there is no log of {name!r}", hint=name_hint(name, there))
    return tuple(part for name in names for part in (name, f"{name}{ERR}"))


def _follow(folder: str, names: Sequence[str], wanted: Wanted, before: Iterator[Entry], *, as_json: bool) -> None:
    from swarm.views.logs.follow import Follower

    follower = Follower(folder, names)  # before the history is read (it is lazy), so that no line falls between the two
    shown: deque[Entry] = deque(maxlen=1000)
    try:
        for entry in before:
            shown.append(entry)
            _print([entry], json_lines=as_json)
        first = {(entry.source, entry.lines) for entry in shown}
        _print((e for e in follower.poll() if wanted(e) and (e.source, e.lines) not in first), json_lines=as_json)
        while True:
            time.sleep(POLL_S)
            _print((e for e in follower.poll() if wanted(e) and not is_start(e)), json_lines=as_json)
    finally:
        follower.close()


def _print(entries: Iterable[Entry], *, json_lines: bool = False) -> None:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for entry in entries:
        if json_lines:
            print(to_json_line(_document(entry)))
            continue
        for line in entry.lines:
            text = line if line.startswith("[2") else f"[{entry.source}] {line}"
            code = _COLOURS.get(entry.level or "") if colour else None
            print(f"\x1b[{code}m{text}\x1b[0m" if code else text)
    sys.stdout.flush()


def _document(entry: Entry) -> dict[str, object]:
    moment = iso_of(entry.time_s) if entry.time_s else None
    return {"time": moment, "source": entry.source, "level": entry.level, "text": "\n".join(entry.lines)}
