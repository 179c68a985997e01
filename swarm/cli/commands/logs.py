"""``swarm logs``: all logs at once in time order, filtered, followed."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable

from msgspec.structs import replace

from swarm.cli.command_options import ShowOptions, arg, opt
from swarm.cli.render import to_json
from swarm.cli.task_names import meant
from swarm.errors import InputError
from swarm.runtime.open import open_queue
from swarm.views.json_text import to_json_line
from swarm.views.logs.log_files import Entry, is_start
from swarm.views.logs.log_query import ChosenLogs, LogLines, LogQuery, choose, log_line

POLL_S = 0.2
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def logs(
    at: ShowOptions,
    names: list[str] | None = arg("[NAME]...", "brain, worker-1, ollama-worker-1 …", None),
    follow: bool = opt("--follow -f", "Follow new lines; Ctrl-C ends.", False),
    lines: int | None = opt("--lines -n N", "Only the last N. [default: 100; all with --since]", least=0),
    level: str | None = opt("--level LEVEL", "This level and above: debug, info, warning, error."),
    since: str | None = opt("--since AGE", "Only records newer than this: 90s, 15m, 24h, 2d."),
    grep: str | None = opt("--grep REGEX", "Only records that match, such as a task id."),
    task: str | None = opt("--task ID", "One task across all processes."),
    node: str | None = opt("--node NODE", "All processes of another machine: its workers, its model servers."),
) -> None:
    """Show the logs of all processes, merged by time.

    Without a NAME: brain, workers and model servers together. The standard error of a process is shown at its time.
    With --json and -f: one JSON object per line.

    \b
    Examples:
      swarm logs -f
      swarm logs worker-1 -n 50
      swarm logs --since 24h --level warning
      swarm logs --task 1k7h2mz4q0035w3ce   one task, from all logs and its record
      swarm logs --node box2 -f           what concerns the cards of another machine
    """
    if task is not None and grep is not None:
        raise InputError("--task and --grep cannot be used together", hint=f"swarm logs --task {task} | grep -E ...")
    named, settings = tuple(names or ()), at.settings()
    query = LogQuery(names=named, node=node, lines=lines, level=level, since=since, pattern=_pattern(grep), task=task)
    with meant(open_queue(settings), task or "") as task_id:
        chosen = choose(settings, replace(query, task=task_id or None), follow=follow)
    if follow:
        _follow(chosen, as_json=at.as_json)
    elif at.as_json:
        print(to_json(LogLines(lines=tuple(map(log_line, chosen.entries())))))
    else:
        _print(chosen.entries())


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    try:
        return None if grep is None else re.compile(grep)
    except re.error as problem:
        hint = r"a regular expression; for text with ( [ . * or \ in it write a backslash before each"
        raise InputError(f"--grep {grep!r} cannot be used: {problem}", hint=hint) from problem


def _follow(chosen: ChosenLogs, *, as_json: bool) -> None:
    from swarm.views.logs.follow import Follower

    wanted, before = chosen.wanted, chosen.entries()
    # Made before the history is read (it is lazy), so that no line falls between the two.
    follower = Follower(chosen.folder, chosen.names)
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
            print(to_json_line(log_line(entry)))
            continue
        for line in entry.lines:
            text = line if line.startswith("[2") else f"[{entry.source}] {line}"
            code = _COLOURS.get(entry.level or "") if colour else None
            print(f"\x1b[{code}m{text}\x1b[0m" if code else text)
    sys.stdout.flush()
