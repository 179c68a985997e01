"""Turns an error of a command into a message, a hint and an exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from swarm.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, InputError, SwarmError
from swarm.plain_text import lines
from swarm.stdio import OutputLost, forget_output

_PLACE = re.compile(r"(.+?):([0-9]+): (.*)", re.DOTALL)


@contextmanager
def endings() -> Iterator[None]:
    """Turn errors that leave this block into a message on standard error and ``typer.Exit``."""
    try:
        yield
    except SwarmError as error:
        _say(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from interrupt
    except OutputLost as lost:
        raise typer.Exit(output_lost(lost)) from lost
    except OSError as error:
        _say(SwarmError(_os_words(error), hint=_os_hint(error)))
        raise typer.Exit(EXIT_USAGE) from error


def output_lost(lost: OutputLost) -> int:
    """Say what was lost of standard output; the exit code. A reader that has all it wanted is no failure."""
    forget_output()
    if lost.reader_gone:
        return EXIT_OK
    hint = "the command may have been carried out; redirect its output elsewhere and check"
    _say(SwarmError(str(lost), hint=hint))
    return EXIT_USAGE


def _say(error: SwarmError) -> None:
    print(f"error: {lines(error.message)}", file=sys.stderr)
    if isinstance(error, InputError):
        for problem in folded(error.problems):
            print(f"  {lines(problem)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {lines(error.hint)}", file=sys.stderr)


def folded(problems: Sequence[str]) -> list[str]:
    """The same finding on lines that follow one another, said once: ``in.jsonl:1-24: model: is missing``."""
    runs: list[tuple[str, int, int, str]] = []
    for text in problems:
        place = _PLACE.fullmatch(text)
        label, line_no, finding = (place[1], int(place[2]), place[3]) if place else ("", 0, text)
        if runs and place and (runs[-1][0], runs[-1][2] + 1, runs[-1][3]) == (label, line_no, finding):
            runs[-1] = (label, runs[-1][1], line_no, finding)
        else:
            runs.append((label, line_no, line_no, finding))
    return [f"{label}:{_span(first, last)}: {finding}" if label else finding for label, first, last, finding in runs]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _os_words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and not error.filename and _is_nowhere():
        return "the current directory has been deleted; cd to one that exists"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _is_nowhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _os_hint(error: OSError) -> str | None:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            if not isinstance(error.filename, str):
                return "the system forbids a call, as a container's filter of system calls does: `swarm doctor` says which"
            return f"the file belongs to somebody else; run as its owner, or choose another --root{_owner(error.filename)}"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room on that disk and run the command again"
        case errno.EEXIST | errno.ENOTDIR:
            return "there is a file where a directory is needed; choose another --root"
        case errno.EROFS:
            return "the file system is read-only; choose another --root"
        case _:
            return None


def _owner(path: object) -> str:
    if not isinstance(path, str):
        return ""
    while path and not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        return f" (owner of {path}: uid {os.lstat(path).st_uid})"
    except OSError:
        return ""
