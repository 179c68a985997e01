"""Which programs a task may run, with which argv and environment. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from swarm.core.faults import TaskFault

_LOADERS = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PERL5LIB", "PERL5OPT", "RUBYOPT", "NODE_OPTIONS"}
_STEERING = {"PATH", "ENV", "BASH_ENV"} | _LOADERS
_STEERING_PREFIXES = ("LD_", "SWARM_", "BASH_FUNC_")
"""Variables that make an allowed program load or run something else, and our own markers."""


def allowed_argv(command: Sequence[str], scripts: Mapping[str, Sequence[str]]) -> list[str]:
    """The argv of a task: its first word names an entry of the allow-list, the others are arguments.

    Raises ``TaskFault`` kind ``not_allowed``.
    """
    if not command:
        raise TaskFault(
            "deterministic", "not_allowed", "the task has no command; the first word names an entry of [scripts]"
        )
    name = command[0]
    prefix = scripts.get(name)
    if prefix:
        return [*prefix, *command[1:]]
    near = difflib.get_close_matches(name, scripts, n=3)
    if near:
        known = f"did you mean {', '.join(near)}?"
    elif scripts:
        known = f"allowed are: {', '.join(sorted(scripts)[:10])}"
    else:
        known = "the list is empty"
    message = f"{name!r} is not in the allow-list [scripts] of the configuration ({known})"
    raise TaskFault("deterministic", "not_allowed", message)


def allowed_env(env: Mapping[str, str]) -> Mapping[str, str]:
    """The task's own variables, unless one would turn an allowed program into another.

    Raises ``TaskFault`` kinds ``not_allowed``, ``bad_env``.
    """
    for name, value in env.items():
        if name in _STEERING or name.startswith(_STEERING_PREFIXES):
            message = f"env {name} is refused: it steers what is run; set it in the program that [scripts] names"
            raise TaskFault("deterministic", "not_allowed", message)
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise TaskFault("deterministic", "bad_env", f"env {name!r} is no variable that a process can have")
    return env
