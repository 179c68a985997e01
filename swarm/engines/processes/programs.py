"""The programs of engines that start processes: where they are, and which version."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

import msgspec

from swarm.config.settings import Settings
from swarm.core.models.engines import OLLAMA, Engine, engine_named
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.processes import llama_server
from swarm.errors import ConfigError
from swarm.plain_text import one_line

_VERSION_CHARS = 100


class Program(msgspec.Struct, frozen=True):
    """A program by its name, and where that leads."""

    name: str
    path: str = ""
    """Empty: it cannot be started, and ``trouble`` says why."""
    trouble: str = ""


def find_program(name: str, env: Mapping[str, str]) -> Program:
    """Look it up as a start would."""
    path = shutil.which(name, path=env.get("PATH", os.defpath))
    if path is not None:
        return Program(name, path)
    if os.sep not in name:
        return Program(name, trouble="is not on the PATH")
    if os.path.isdir(name):
        return Program(name, trouble="is a directory")
    return Program(name, trouble="may not be executed" if os.path.exists(name) else "does not exist")


def program_of(engine: Engine, env: Mapping[str, str]) -> Program | None:
    """The program of an engine that starts a process for each model; None for others."""
    if engine.kind == "ollama" or engine.url is not None:
        return None
    return find_program((*engine.settings.command, llama_server.PROGRAM)[0], env)


def api_key(engine: Engine, env: Mapping[str, str]) -> str:
    """What its requests have to bring; empty: nothing, or a key that is made for each start. Raises ``ConfigError``."""
    name = engine.settings.api_key_env
    if name is None:
        return ""
    if not env.get(name):
        raise ConfigError(
            f"engines.{engine.name}.api_key_env: ${name} is not set", hint=f"export {name}=…, or leave api_key_env out"
        )
    return env[name]


def check_engines(plan: WorkerPlan, settings: Settings, env: Mapping[str, str]) -> None:
    """Before a start: whether every engine of this worker but Ollama has its program and its key. Raises ``ConfigError``.

    Those of a card in another machine are that machine's.
    """
    for name in plan.engines if plan.url is not None and not plan.simulated and plan.relay is None else ():
        if name == OLLAMA:
            continue
        engine = engine_named(settings, name)
        api_key(engine, env)
        found = program_of(engine, env)
        if found is not None and not found.path:
            raise ConfigError(
                f"there is no program for the engine {name!r} of {plan.name}: {found.name!r} {found.trouble}",
                hint=f"install it, set command in [engines.{name}] to its path, choose another engine, or try --simulate 4",
            )


def version_of(path: str, env: Mapping[str, str], timeout_s: float = 10.0) -> str:
    """What a program says of its version, in one line; empty where it does not say."""
    try:
        done = subprocess.run(
            [path, "--version"], env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace").splitlines()
    lines = [line.strip() for line in said if line.strip()]
    named = [line for line in lines if "version" in line.lower()]
    return one_line((named or lines or [""])[0], _VERSION_CHARS) if done.returncode == 0 else ""
