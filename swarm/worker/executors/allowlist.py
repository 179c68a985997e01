"""Which programs a task may run, with which argv, environment and directory. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from swarm.config.settings import ScriptSettings, script_entry
from swarm.core.faults import TaskFault
from swarm.errors import InputError, name_hint

Scripts = Mapping[str, tuple[str, ...] | ScriptSettings]


class Permit(NamedTuple):
    """What was asked for and is allowed."""

    argv: list[str]
    env: Mapping[str, str]
    below: tuple[str, tuple[str, ...]] | None
    """The directory that the entry names, and the way down from it; None: a fresh one."""


def permit(command: Sequence[str], env: Mapping[str, str], cwd: str | None, scripts: Scripts) -> Permit:
    """The first word of ``command`` names an entry of the allow-list, the others are arguments.

    Raises ``TaskFault`` kinds ``not_allowed``, ``bad_env``, ``no_cwd``; each message names what is refused, and the entry.
    """
    entry = _entry(command, scripts)
    name = command[0]
    if any("\0" in word for word in command):
        raise _refused("an argument holds a NUL character, which no program can be given")
    _check_env(name, env, entry)
    below = None if cwd is None else (entry.cwd or "", _way_down(name, cwd, entry.cwd))
    return Permit([*entry.command, *command[1:]], env, below)


def _entry(command: Sequence[str], scripts: Scripts) -> ScriptSettings:
    if not command:
        raise _refused("the task has no command; the first word names an entry of [scripts]")
    name = command[0]
    if name in scripts and (entry := script_entry(scripts[name])).command:
        return entry
    known = name_hint(name, sorted(scripts), "allowed are:", 3, most=10) if scripts else "the list is empty"
    raise _refused(f"{name!r} is not in the allow-list [scripts] of the configuration ({known})")


def _check_env(name: str, env: Mapping[str, str], entry: ScriptSettings) -> None:
    for variable, value in env.items():
        if variable not in entry.env:
            allowed = f"only {', '.join(entry.env)}" if entry.env else "no variables"
            raise _refused(f"env {variable!r} is refused: [scripts] {name} allows {allowed}")
        if "\0" in value:
            raise TaskFault("deterministic", "bad_env", f"env {variable} holds a NUL character, which no process can have")


def _way_down(name: str, cwd: str, base: str | None) -> tuple[str, ...]:
    """The directories from ``base`` to ``cwd``, by their words; links are seen when they are opened."""
    if base is None:
        raise _refused(f"cwd {cwd!r} is refused: [scripts] {name} names no directory below which a task may run")
    if not cwd.startswith("/") or "\0" in cwd:
        raise TaskFault("deterministic", "no_cwd", f"cwd {cwd!r} is no absolute path of a directory")
    parts, base_parts = _parts(cwd), _parts(base)
    if ".." in parts or parts[: len(base_parts)] != base_parts:
        raise _refused(f"cwd {cwd!r} is refused: [scripts] {name} allows {base} and what is below it, without '..'")
    return parts[len(base_parts) :]


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _refused(message: str) -> TaskFault:
    return TaskFault("deterministic", "not_allowed", message)


def check_submitted(document: Mapping[str, Any], scripts: Scripts) -> None:
    """Refuse at submission what the workers would refuse. Raises ``InputError`` with the same words.

    Who submits may have no list, and the workers one: then they decide, as they do in any case. What is no task at all is
    told by who checks tasks.
    """
    if not scripts or document.get("task_class") not in ("cpu", "script"):
        return
    try:
        task = msgspec.convert(
            {name: document[name] for name in _CommandFields.__struct_fields__ if name in document}, _CommandFields
        )
    except msgspec.ValidationError:
        return
    try:
        permit(task.command, task.env, task.cwd, scripts)
    except TaskFault as fault:
        hint = "`swarm config show` prints [scripts]; an entry names what tasks may set with env = […] and cwd = …"
        raise InputError(fault.message, hint=hint) from fault


class _CommandFields(msgspec.Struct, frozen=True):
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
