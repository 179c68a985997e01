"""``swarm logs``: all logs at once in time order, filtered, followed."""

# ruff: noqa: D301  (the help texts carry \b, which keeps their examples as they are)

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Config, Json, Root, load

if TYPE_CHECKING:
    import re
    from collections import deque
    from collections.abc import Iterable, Iterator, Sequence

    from swarm.cli.logs.log_files import Entry, Wanted
    from swarm.config.settings import Settings

DEFAULT_LINES = 100
POLL_S = 0.2
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def logs(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="brain, worker-1, ollama-worker-1 …")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines as they come; Ctrl-C ends.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="Only the last N. [default: 100; all with --since]")
    ] = None,
    level: Annotated[
        str | None, typer.Option("--level", metavar="LEVEL", help="debug, info, warning or error, and worse.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="AGE", help="Not older than this: 90s, 15m, 24h, 2d.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="REGEX", help="Only records that match, such as a task id.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="The life of one task, whoever had it in hand.")
    ] = None,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the logs of all processes, merged by time.

    Without a NAME: brain, workers and model servers together. What a process said on standard error when it died is
    shown at that time. With --json and -f: one JSON object per line.

    \b
    Examples:
      swarm logs -f
      swarm logs worker-1 -n 50
      swarm logs --since 24h --level warning
      swarm logs --task d5de16d7          its life, from all logs and its own record
    """
    found = load(root, config).settings
    folder = f"{found.queue.root}/logs"
    wanted = _wanted(level, since, grep)
    record: tuple[Entry, ...] = ()
    if task is not None:
        wanted, record = _of_task(found, task, wanted)
    chosen = _choose(folder, names or [], follow=follow, needed=not record)
    if lines is None and since is None and task is None:
        lines = DEFAULT_LINES
    history = _history(folder, chosen, wanted, lines, record)
    if follow:
        _follow(folder, chosen, wanted, history, as_json=as_json)
    elif as_json:
        from swarm.cli.render import to_json

        print(to_json({"lines": [_document(entry) for entry in history]}))
    else:
        _print(history)


def _wanted(level: str | None, since: str | None, grep: str | None) -> Wanted:
    import time

    from swarm.cli.logs.log_files import LEVELS, Wanted
    from swarm.cli.units import parse_duration_s
    from swarm.errors import InputError

    if level is not None:
        asked, level = level, {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(level.upper(), level.upper())
        if level not in LEVELS:
            raise InputError(
                f"--level {asked!r}: there is no such level", hint=f"one of: {', '.join(name.lower() for name in LEVELS)}"
            )
    since_s = 0.0 if since is None else time.time() - parse_duration_s(since)
    return Wanted(level=level, since_s=since_s, pattern=_pattern(grep))


def _of_task(settings: Settings, task_id: str, wanted: Wanted) -> tuple[Wanted, tuple[Entry, ...]]:
    """What to look for, and what the task's document tells. Raises ``InputError`` beside --grep, ``UnknownTask``."""
    import msgspec

    from swarm.cli.logs import task_history as tasklife
    from swarm.errors import InputError
    from swarm.runtime.open import open_reader

    if wanted.pattern is not None:
        raise InputError("--task and --grep cannot be used together", hint=f"swarm logs --task {task_id} | grep -E ...")
    document = open_reader(settings).read(task_id)
    looking = msgspec.structs.replace(wanted, pattern=tasklife.pattern(task_id))
    kept = msgspec.structs.replace(wanted, pattern=None)
    return looking, tuple(filter(kept, tasklife.entries(document)))


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    import re

    from swarm.errors import InputError

    try:
        return None if grep is None else re.compile(grep)
    except re.error as problem:
        hint = r"a regular expression; for text with ( [ . * or \ in it write a backslash before each"
        raise InputError(f"--grep {grep!r} cannot be used: {problem}", hint=hint) from problem


def _choose(folder: str, names: Sequence[str], *, follow: bool, needed: bool) -> tuple[str, ...]:
    """The logs asked for (empty: all), each with what its process said on standard error.

    Raises ``NotRunning`` when there are none although they are ``needed``, ``InputError`` for an unknown one.
    """
    import os

    from swarm.cli.logs.log_files import ERR, sources
    from swarm.errors import InputError, NotRunning, name_hint

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


def _history(
    folder: str, names: Sequence[str], wanted: Wanted, lines: int | None, record: Sequence[Entry] = ()
) -> Iterator[Entry]:
    """What the logs hold, with ``record`` merged into it by time; ``lines``: only the last of them."""
    import os

    from swarm.cli.logs import log_files as logfiles
    from swarm.cli.logs import stderr_log as stderrlog

    files = logfiles.sources(folder) if os.path.isdir(folder) else {}
    chosen = {name: paths for name, paths in files.items() if not names or name in names}
    logs = {name: paths for name, paths in chosen.items() if not name.endswith(logfiles.ERR)}
    words = [iter(stderrlog.entries(name, paths[-1])) for name, paths in chosen.items() if name not in logs]
    said = [filter(wanted, stream) for stream in words]
    if lines is None:
        streams = [filter(wanted, logfiles.forwards(name, paths, wanted.since_s)) for name, paths in logs.items()]
        yield from logfiles.merged([iter(record), *streams, *said])
        return
    tails = [iter(logfiles.last(name, paths, lines, wanted)) for name, paths in logs.items()]
    everything = list(logfiles.merged([iter(record), *tails, *said]))
    yield from everything[max(0, len(everything) - lines) :]


def _follow(folder: str, names: Sequence[str], wanted: Wanted, history: Iterator[Entry], *, as_json: bool) -> None:
    import time
    from collections import deque

    from swarm.cli.logs.follow import Follower
    from swarm.cli.logs.stderr_log import is_start

    follower = Follower(folder, names)  # before the history is read (it is lazy), so that no line falls between the two
    shown: deque[Entry] = deque(maxlen=1000)
    try:
        _print(_keeping(history, shown), json_lines=as_json)
        first = {(entry.source, entry.lines) for entry in shown}
        _print((e for e in follower.poll() if wanted(e) and (e.source, e.lines) not in first), json_lines=as_json)
        while True:
            time.sleep(POLL_S)
            _print((e for e in follower.poll() if wanted(e) and not is_start(e)), json_lines=as_json)
    finally:
        follower.close()


def _keeping(entries: Iterator[Entry], kept: deque[Entry]) -> Iterator[Entry]:
    for entry in entries:
        kept.append(entry)
        yield entry


def _print(entries: Iterable[Entry], *, json_lines: bool = False) -> None:
    import os
    import sys

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for entry in entries:
        if json_lines:
            from swarm.cli.render import to_json_line

            print(to_json_line(_document(entry)))
            continue
        for line in entry.lines:
            text = line if line.startswith("[2") else f"[{entry.source}] {line}"
            code = _COLOURS.get(entry.level or "") if colour else None
            print(f"\x1b[{code}m{text}\x1b[0m" if code else text)
    sys.stdout.flush()


def _document(entry: Entry) -> dict[str, object]:
    from datetime import UTC, datetime

    time = (
        datetime.fromtimestamp(entry.time_s, UTC).astimezone().isoformat(timespec="milliseconds") if entry.time_s else None
    )
    return {"time": time, "source": entry.source, "level": entry.level, "text": "\n".join(entry.lines)}
