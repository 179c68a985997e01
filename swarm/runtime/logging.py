"""The log format and its files (one per process, rotated, mode 0600), and troubles that are logged once.

* A line: ``[2026-02-07T21:05:50.123+01:00] [worker-1] INFO  message``.
* A line reaches the kernel in one ``write``, so it survives the death of its writer and is never mixed with another's.
* A record of several lines (a traceback) has the header on every line and ``| `` before each line after the first, so
  that all of it can be searched and merged by time, and no text from outside can pass for a line of ours.
* ``LogOnce``: troubles are logged when they come, change or end, not each time they are met.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from swarm.clock import iso_of
from swarm.errors import SwarmError
from swarm.filesystem.entries import open_file
from swarm.plain_text import lines

MAX_RECORD_CHARS = 16_384
_FRAMES = 12
CONTINUATION = "| "
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class LineFormatter(logging.Formatter):
    """Records as lines with the header of process ``name``. Total: a message that cannot be built is shown in pieces."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """All lines of a record, without the final newline."""
        header = f"[{iso_of(record.created)}] [{self._name}] {record.levelname:<5} "
        first, *more = self._text(record).splitlines() or [""]
        return "\n".join([header + first, *(header + CONTINUATION + line for line in more)])

    def _text(self, record: logging.LogRecord) -> str:
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError) as problem:
            text = f"{record.msg!r} with {record.args!r} (a log message that does not fit its values: {problem})"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + record.stack_info
        if len(text) > MAX_RECORD_CHARS:
            text = f"{text[:MAX_RECORD_CHARS]} … ({len(text) - MAX_RECORD_CHARS} more characters)"
        return lines(text)


class LineHandler(logging.Handler, ABC):
    """Passes lines to ``_write``. A write that fails ends nothing: lost lines are counted, and reported later."""

    dropped = 0
    """Lines lost since the last report."""
    _last_problem = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; never raises for a full or broken disk."""
        try:
            if self.dropped:
                message = f"{self.dropped} log lines were lost before this one: {self._last_problem}"
                self._write(self.format(logging.LogRecord("swarm", logging.WARNING, "", 0, message, None, None)))
                self.dropped = 0
            self._write(self.format(record))
        except (OSError, ValueError) as problem:  # ValueError: the stream was closed under us
            self.dropped += 1
            self._last_problem = str(problem)

    @abstractmethod
    def _write(self, lines: str) -> None:
        """Put lines out. Raises ``OSError`` when the medium refuses."""


class ConsoleHandler(LineHandler):
    """Lines on standard error, whatever it is at the moment."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setFormatter(LineFormatter(name))

    def _write(self, lines: str) -> None:
        sys.stderr.write(lines + "\n")
        sys.stderr.flush()


class FileHandler(LineHandler, RotatingFileHandler):
    """Lines in a file that is rotated to ``.1``, ``.2`` … before it would pass ``max_bytes``; ``keep`` of those stay."""

    def __init__(self, name: str, path: Path, *, max_bytes: int, keep: int) -> None:
        RotatingFileHandler.__init__(self, path, maxBytes=max_bytes, backupCount=keep, encoding="utf-8", delay=True)
        self.setFormatter(LineFormatter(name))
        self._torn = False

    def _write(self, lines: str) -> None:
        data = lines.encode() + b"\n"
        if self._torn:
            data = b"\n" + data
        fd = self._current()
        size = os.fstat(fd).st_size
        if size and size + len(data) > self.maxBytes:
            with contextlib.suppress(OSError):  # a directory lies in its way: lines are worth more than the rotation
                self.doRollover()
            fd = self._current()
        written = os.write(fd, data)
        self._torn = written < len(data)
        if self._torn:  # the disk filled up in the middle of this line
            raise OSError(f"only {written} of {len(data)} bytes were written")

    def _current(self) -> int:
        """The file's descriptor; the file is opened again if somebody moved or removed it."""
        if self.stream is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self.stream.fileno()), os.lstat(self.baseFilename)):
                    return self.stream.fileno()
            stream, self.stream = self.stream, None  # or a directory that is missing would leave a closed one, for ever
            stream.close()
        self.stream = self._open()
        return self.stream.fileno()

    def _open(self) -> TextIOWrapper:
        fd = open_file(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # OddEntry: a ValueError
        return os.fdopen(fd, "a", encoding="utf-8")


class Logs:
    """What ``setup`` installed; ``close`` takes it out again."""

    def __init__(self, handlers: tuple[LineHandler, ...]) -> None:
        self._handlers = handlers
        self._before: tuple[Any, Any, Any, bool] | None = None

    @property
    def dropped(self) -> int:
        """Lines lost and not yet reported."""
        return sum(handler.dropped for handler in self._handlers)

    def install(self, level: Level) -> None:
        """Put the handlers on the root logger, and the hooks for what nobody catches into their places."""
        root = logging.getLogger()
        for handler in self._handlers:
            root.addHandler(handler)
        root.setLevel(logging.WARNING)  # libraries
        logging.getLogger("swarm").setLevel(level)
        logging.captureWarnings(True)
        self._before = (sys.excepthook, threading.excepthook, sys.unraisablehook, logging.raiseExceptions)
        sys.excepthook, threading.excepthook, sys.unraisablehook = _log_uncaught, _log_thread, _log_unraisable
        logging.raiseExceptions = False  # our handlers count what they lose; a traceback on a full disk helps nobody

    def close(self) -> None:
        """Remove and close the handlers, put the hooks back."""
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        if self._before is not None:
            sys.excepthook, threading.excepthook, sys.unraisablehook, logging.raiseExceptions = self._before
            logging.captureWarnings(False)
            self._before = None


_current: Logs | None = None


def setup(name: str, path: Path | None, level: Level, *, console: bool, max_mb: int = 100, keep: int = 3) -> Logs:
    """Log this process under ``name`` to ``path`` (None: no file) and, if asked, to standard error. A second call replaces.

    Uncaught exceptions of the main and other threads go to the log with their tracebacks. Raises ``OSError`` if the log's
    directory cannot be made; troubles with the file itself are survived, counted and reported in the log.
    """
    global _current  # noqa: PLW0603  (logging is per process, and so is this)
    if _current is not None:
        _current.close()
    handlers: list[LineHandler] = []
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handlers.append(FileHandler(name, path, max_bytes=max_mb << 20, keep=keep))
    if console:
        handlers.append(ConsoleHandler(name))
    _current = Logs(tuple(handlers))
    _current.install(level)
    return _current


def _log_uncaught(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("swarm").error("Uncaught %s: %s", kind.__name__, value, exc_info=(kind, value, traceback))
    sys.__excepthook__(kind, value, traceback)  # also to standard error, which whoever started us may keep


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        thread = args.thread.name if args.thread else "a thread"
        info: Any = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger("swarm").error(
            "Uncaught in %s: %s: %s", thread, args.exc_type.__name__, args.exc_value, exc_info=info
        )


def _log_unraisable(args: Any) -> None:  # noqa: ANN401  (sys.UnraisableHookArgs exists for type checkers only)
    info: Any = (args.exc_type, args.exc_value, args.exc_traceback)
    text = "Ignored in %r: %s"
    logging.getLogger("swarm").error(text, args.object, args.err_msg or args.exc_type.__name__, exc_info=info)


T = TypeVar("T")


class LogOnce:
    """Remembers the last line about each thing, by its key. For one thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lines: dict[str, str] = {}

    def failing(self, key: str, line: str, level: int = logging.WARNING) -> None:
        """Log ``line`` unless it is what was logged last about ``key``."""
        if self._lines.get(key) != line:
            self._log.log(level, "%s", line)
        self._lines[key] = line

    def working(self, key: str, line: str) -> None:
        """The trouble with ``key``, if there was one, is over: log that."""
        if self._lines.pop(key, None) is not None:
            self._log.info("%s", line)

    def keep_only(self, keys: Container[str]) -> None:
        """Forget the troubles of all other keys, unlogged."""
        self._lines = {key: line for key, line in self._lines.items() if key in keys}

    def tried(self, what: str, action: Callable[[], T], otherwise: T) -> T:
        """What ``action`` answers; ``otherwise`` if it fails with ``OSError`` or ``SwarmError``."""
        try:
            answer = action()
        except (OSError, SwarmError) as error:
            self.failing(what, f"{what}: {words_of(error)}; it is tried again")
            return otherwise
        self.working(what, f"{what}: that is over")
        return answer


def words_of(error: OSError | SwarmError) -> str:
    """An error in one line, with its hint or its path."""
    if isinstance(error, SwarmError):
        return f"{error.message} ({error.hint})" if error.hint else error.message
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason


def kind_and_place(error: BaseException) -> str:
    """The kind of an exception and where it was raised. Its text only where it cannot quote a request."""
    said = error.strerror or "" if isinstance(error, OSError) else ""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = " > ".join(f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.name}" for frame in frames)
    cause = f"; because of {kind_and_place(error.__cause__)}" if error.__cause__ is not None else ""
    return f"{type(error).__name__}{f' ({said})' if said else ''} at {places}{cause}"
