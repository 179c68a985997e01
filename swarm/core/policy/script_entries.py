"""Checks entries of the allow-list ``[scripts]``: mistakes, and rights wider than they look.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from swarm.config.settings import ScriptSettings, script_entry

_OURS = "SWARM_"
_STEERING = re.compile(
    r"PATH|HOME|ENV|BASH_ENV|SHELLOPTS|BASHOPTS|PS4|IFS|LD_.*|DYLD_.*|PYTHON.*|PERL.*|RUBY.*|NODE_.*|JAVA_TOOL_OPTIONS|JDK_.*"
    r"|GIT_.*|SSH_.*|PAGER|LESS.*|EDITOR|VISUAL|BROWSER|XDG_.*|GCONV_PATH|LUA_.*|R_.*|JULIA_.*|.*_CONFIG|.*_OPTIONS|.*_PRELOAD"
)
"""Variables known to make programs load or run something else. A hint only; what a task may set is listed by name."""


class _Interpreter(NamedTuple):
    """How the words after an interpreter's name are read, as far as it matters where its script is."""

    code: str = ""
    """Letters of the options whose next word is the code itself."""
    module: str = ""
    """The same for a module found by name."""
    valued: frozenset[str] = frozenset()
    """Other options that take the next word."""
    inline: bool = False
    """The first operand is code, no file."""


_SHELL = _Interpreter(code="c", valued=frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"}))
_INTERPRETERS: Mapping[str, _Interpreter] = {
    **dict.fromkeys(("sh", "bash", "dash", "zsh", "ksh", "ash", "fish", "csh", "tcsh"), _SHELL),
    "python": _Interpreter(code="c", module="m", valued=frozenset({"-W", "-X", "--check-hash-based-pycs"})),
    "pypy": _Interpreter(code="c", module="m", valued=frozenset({"-W", "-X"})),
    "perl": _Interpreter(code="eE"),
    "ruby": _Interpreter(code="e"),
    "node": _Interpreter(code="ep", valued=frozenset({"-r", "--require", "--import", "--loader"})),
    "php": _Interpreter(code="r"),
    "lua": _Interpreter(code="e"),
    "julia": _Interpreter(code="eE"),
    "Rscript": _Interpreter(code="e"),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), _Interpreter(valued=frozenset({"-F", "-v"}), inline=True)),
    "sed": _Interpreter(code="e", inline=True),
}
_WRAPPERS = frozenset(
    {"env", "nice", "nohup", "timeout", "setsid", "stdbuf", "time", "ionice", "xargs", "sudo", "doas", "busybox", "exec"}
)
"""They run what is named after them."""
_RUN_ARGUMENTS = frozenset(
    {"git", "find", "ssh", "scp", "sftp", "rsync", "tar", "make", "vi", "vim", "ed", "emacs", "less", "more", "man", "gdb"}
    | {"docker", "podman", "kubectl", "sqlite3", "psql", "mysql", "npm", "npx", "pip", "uv", "cargo", "go", "parallel"}
)
"""Some of their options run programs."""
_READS_CWD = frozenset({"git", "make", "npm", "npx", "cargo", "go"})
"""They obey files that lie in the working directory."""


class Script(NamedTuple):
    """Where an entry's own code is."""

    program: str
    """The name of the program that reads it, wrappers left out, version left off: ``python``."""
    kind: Literal["program", "file", "code", "module", "alone"]
    """``alone``: an interpreter, or a wrapper, that takes what it runs from the task's arguments."""
    file: str = ""


def script_of(argv: Sequence[str]) -> Script:
    """The script an argv runs, as far as its words show."""
    name = re.sub(r"[\d.]+\Z", "", argv[0].rpartition("/")[2]) if argv else ""
    rest = argv[1:]
    if name in _WRAPPERS:
        inner = next((n for n, word in enumerate(rest) if not re.match(r"-|[\d.]+[smhd]?\Z|\w+=", word)), None)
        return Script(name, "alone") if inner is None else script_of(rest[inner:])
    return _script_of(name, _INTERPRETERS[name], rest) if name in _INTERPRETERS else Script(name, "program")


def _script_of(name: str, how: _Interpreter, words: Sequence[str]) -> Script:
    skip = False
    for place, word in enumerate(words):
        last = place + 1 == len(words)
        if skip:
            skip = False
        elif word == "--" or word in how.valued:
            skip = word != "--"
        elif word.startswith("-") and len(word) > 1:
            letter = word[-1] if not word.startswith("--") else ""
            if letter and letter in how.code + how.module:
                return Script(name, "alone" if last else "module" if letter in how.module else "code")
        else:
            return Script(name, "code") if how.inline else Script(name, "file", word)
    return Script(name, "alone")


def script_faults(key: str, entry: ScriptSettings) -> Iterator[str]:
    """What cannot be meant, one line each. ``key`` names the entry."""
    if not entry.command or not entry.command[0]:
        yield f"{key}: names no program"
        return
    program, found = entry.command[0], script_of(entry.command)
    if "/" in program and not program.startswith("/"):
        yield f"{key}: {program!r} is relative: it would be sought in the directory of each task; write its absolute path"
    if found.kind == "file" and not found.file.startswith("/"):
        yield (
            f"{key}: {found.program} would look for {found.file!r} in the directory of each task, where a task may have put "
            "its own; write its absolute path"
        )
    for name in entry.env:
        if name.startswith(_OURS):
            yield f"{key}.env: {name} is one of swarm's own markers; a task cannot set it"
    if entry.cwd is not None and (not entry.cwd.startswith("/") or ".." in entry.cwd.split("/")):
        yield f"{key}.cwd: {entry.cwd!r} must be an absolute path without '..'"
    if any("\0" in word for word in (*entry.command, entry.cwd or "")):
        yield f"{key}: holds a NUL character"


class ScriptWarning(msgspec.Struct, frozen=True):
    """An entry that hands tasks more than it seems to."""

    name: str
    what: str
    next: str


def script_warnings(scripts: Mapping[str, tuple[str, ...] | ScriptSettings]) -> Iterator[ScriptWarning]:
    """Entries that let a task run any code, by their words alone; sorted by name."""
    for name in sorted(scripts):
        entry = script_entry(scripts[name])
        found = script_of(entry.command)
        if found.kind == "alone":
            what = f"{' '.join(entry.command)} runs whatever a task's arguments say: any code, as you"
            yield ScriptWarning(name, what, "name the script as well: its full path after the program")
        elif found.program in _RUN_ARGUMENTS and entry.command[-1] != "--":
            what = f"{found.program} has options that run programs, so a task's arguments can be any code"
            yield ScriptWarning(name, what, "name a script of your own that calls it with fixed options")
        if steering := [variable for variable in entry.env if _STEERING.fullmatch(variable)]:
            what = f"a task may set {', '.join(steering)}, which can make the program run other code"
            yield ScriptWarning(name, what, "allow only variables that are plain values")
        if entry.cwd is not None and (found.program in _READS_CWD or found.kind == "module"):
            what = f"{found.program} takes code and settings from its working directory: files below {entry.cwd} are run"
            yield ScriptWarning(name, what, "let nobody else write there, or leave cwd out (python: add -P)")
