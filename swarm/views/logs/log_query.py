"""What `swarm logs` and ``GET /swarm/logs`` ask for: which logs, which entries, how many; and entries as documents."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence

import msgspec

from swarm.clock import iso_of
from swarm.config.settings import Settings
from swarm.errors import InputError, NotRunning, UnknownName, name_hint
from swarm.queue.layout import Layout
from swarm.queue.stores.node_book import read_nodes
from swarm.runtime.open import open_queue
from swarm.views.logs import task_history
from swarm.views.logs.log_files import ERR, LEVELS, Entry, Wanted, history, sources
from swarm.views.node_words import nodes_of_workers
from swarm.views.words import parse_duration_s

DEFAULT_LINES = 100


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of one log; a traceback is one entry of several lines."""

    time: str | None
    source: str
    level: str | None
    text: str


class LogLines(msgspec.Struct, frozen=True, kw_only=True):
    """`swarm logs`."""

    lines: tuple[LogLine, ...]


def log_line(entry: Entry) -> LogLine:
    """An entry as it is sent."""
    moment = iso_of(entry.time_s) if entry.time_s else None
    return LogLine(time=moment, source=entry.source, level=entry.level, text="\n".join(entry.lines))


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Logs and entries of them; the texts as people write them."""

    names: tuple[str, ...] = ()
    """``brain``, ``worker-1``, ``ollama-worker-1`` …; empty (and no ``node``): all."""
    node: str | None = None
    """Besides those of ``names``: those of this other machine, its workers' and its model servers'."""
    lines: int | None = None
    """Only the last so many. Default: 100; all with ``since`` or ``task``."""
    level: str | None = None
    since: str | None = None
    """How old they may be: ``15m``."""
    pattern: re.Pattern[str] | None = None
    task: str | None = None
    """Only what concerns this task, its document included."""


class ChosenLogs(msgspec.Struct, frozen=True, kw_only=True):
    """The same with everything looked up."""

    folder: str
    names: tuple[str, ...]
    wanted: Wanted
    record: tuple[Entry, ...]
    """What the task's document tells."""
    lines: int | None

    def entries(self) -> Iterator[Entry]:
        """By time; read as they are asked for."""
        return history(self.folder, self.names, self.wanted, self.lines, self.record)


def choose(settings: Settings, query: LogQuery, *, follow: bool = False) -> ChosenLogs:
    """Look up what is asked for; with ``follow`` logs may still be to come.

    Raises ``InputError`` for a level, age, name or node that is none, ``UnknownTask``, ``NotRunning`` if there are no logs.
    """
    folder = f"{settings.queue.root}/logs"
    wanted, record = _wanted(query), tuple[Entry, ...]()
    if query.task is not None:
        document = open_queue(settings).read(query.task)
        record = tuple(filter(wanted, task_history.entries(document)))
        wanted = msgspec.structs.replace(wanted, pattern=task_history.pattern(query.task))
    of_node = () if query.node is None else _logs_of_node(settings, query.node)
    names = _choose_names(folder, query.names, follow=follow, needed=not record)
    names += tuple(name for name in of_node if name not in names)
    lines = query.lines
    if lines is None and query.since is None and query.task is None:
        lines = DEFAULT_LINES
    return ChosenLogs(folder=folder, names=names, wanted=wanted, record=record, lines=lines)


def _wanted(query: LogQuery) -> Wanted:
    level = query.level
    if level is not None:
        level = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(level.upper(), level.upper())
        if level not in LEVELS:
            names = ", ".join(name.lower() for name in LEVELS)
            raise InputError(f"level {query.level!r}: there is no such level", hint=f"one of: {names}")
    since_s = 0.0 if query.since is None else time.time() - parse_duration_s(query.since)
    return Wanted(level=level, since_s=since_s, pattern=query.pattern)


def _logs_of_node(settings: Settings, node: str) -> tuple[str, ...]:
    """What its workers and their model servers write, whether it is there yet or not. Raises ``UnknownName``."""
    layout = Layout(settings.queue.root)
    nodes = nodes_of_workers(layout) | {card.worker: one.name for one in read_nodes(layout) for card in one.cards}
    workers = sorted(worker for worker, its in nodes.items() if its == node)
    if not workers:
        known = sorted(set(nodes.values()))
        hint = (
            name_hint(node, known) if known else "no worker's card is in another machine; `swarm logs` shows all logs here"
        )
        raise UnknownName(f"there is no worker for a card of node {node!r}", hint=hint)
    return tuple(f"{kind}{name}{end}" for name in workers for kind in ("", "ollama-", "models-") for end in ("", ERR))


def _choose_names(folder: str, names: Sequence[str], *, follow: bool, needed: bool) -> tuple[str, ...]:
    """The logs asked for (empty: all), each with what its process said on standard error.

    Raises ``NotRunning`` when there are none although they are ``needed``, ``UnknownName``.
    """
    known = sources(folder) if os.path.isdir(folder) else {}
    if not known and needed and not (follow and os.path.isdir(os.path.dirname(folder))):
        raise NotRunning(
            f"there are no logs in {folder}", hint="start with `swarm up`, or name the queue's directory with --root"
        )
    for name in names:
        if known and name not in known and f"{name}{ERR}" not in known:
            there = sorted({k.removesuffix(ERR) for k in known})
            raise UnknownName(f"there is no log of {name!r}", hint=name_hint(name, there))
    return tuple(part for name in names for part in (name, f"{name}{ERR}"))
