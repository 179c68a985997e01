"""Environments of processes: markers by which all descendants are found, and a fixed one.

The fixed environment is the same on every machine.
"""

from __future__ import annotations

import math
import os
import signal as signals
import time
from collections.abc import Iterator

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.identity import all_pids, read_stat
from swarm.proc.process_group import KILL_WAIT_S

ROOT_MARKER = "SWARM_ROOT"
"""The queue root a process belongs to, an absolute path."""
SERVER_MARKER = "SWARM_SERVER"
"""The worker whose model server (or runner of it) a process is."""
MODEL_MARKER = "SWARM_MODEL_SERVER"
"""The worker that started a process which serves one model."""
PROCESS_MARKER = "SWARM_PROCESS"
"""The brain or worker a process is or descends from."""
KEPT = {"SPT_NOENV": "1"}
"""With it the library setproctitle, by which vLLM and SGLang name their processes, does not write over the environment."""
_POLL_S = 0.01
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def fixed_env(home: str) -> dict[str, str]:
    """The whole environment of a program that tasks and notifications may name: no token or setting of ours is in it."""
    return {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": home}


def find_marked(**env: str) -> list[ProcessIdentity]:
    """Living processes of our user that carry every one of these NAME=VALUE pairs; never this process itself."""
    return [identity for identity, _ in _marked(env)]


def find_marked_values(name: str, **env: str) -> dict[ProcessIdentity, str]:
    """Like ``find_marked``, for those that also have ``name`` in their environment, with its value."""
    prefix = os.fsencode(f"{name}=")
    found: dict[ProcessIdentity, str] = {}
    for identity, entries in _marked(env):
        value = next((e[len(prefix) :] for e in entries if e.startswith(prefix)), None)
        if value is not None:
            found[identity] = os.fsdecode(value)
    return found


def is_marked(process: ProcessIdentity, /, **env: str) -> bool:
    """Whether that very process lives, is our user's, and carries every one of these pairs."""
    entries = _environment(process.pid, os.geteuid())
    return {os.fsencode(f"{name}={value}") for name, value in env.items()} <= entries and identities.is_same(process)


def kill_marked(grace_s: float, wait_s: float = KILL_WAIT_S, /, **env: str) -> list[ProcessIdentity]:
    """End all that ``find_marked`` finds: SIGTERM, up to ``grace_s``, SIGKILL. Returns those that would not die.

    With a grace of 0 SIGKILL goes out at once; from the first one on it takes at most ``wait_s``. Each is signalled through
    its identity, so an innocent process that took over a number is never hit.
    """
    kill_at, give_up_at = time.monotonic() + grace_s, math.inf
    asked: set[ProcessIdentity] = set()
    while left := find_marked(**env):
        now = time.monotonic()
        if now >= give_up_at:
            return left
        if now >= kill_at:
            give_up_at = min(give_up_at, now + wait_s)
        for identity in left:
            if now >= kill_at:
                identities.signal(identity, signals.SIGKILL)
            elif identity not in asked:
                asked.add(identity)
                identities.signal(identity, signals.SIGTERM)
                identities.signal(identity, signals.SIGCONT)
        time.sleep(_POLL_S)
    return []


def _marked(env: dict[str, str]) -> Iterator[tuple[ProcessIdentity, frozenset[bytes]]]:
    if not env:
        raise ValueError("a marker is needed: without one every process would match")
    wanted = {os.fsencode(f"{name}={value}") for name, value in env.items()}
    own_uid, own_pid = os.geteuid(), os.getpid()
    for pid in all_pids():
        if pid == own_pid:
            continue
        entries = _environment(pid, own_uid)
        if not wanted <= entries:
            continue
        stat = read_stat(pid)
        if stat is not None and stat.alive:
            yield stat.identity, entries


def _environment(pid: int, uid: int) -> frozenset[bytes]:
    """The environment a process of that user was started with; empty for others' and for what has ended."""
    try:
        if os.stat(f"/proc/{pid}").st_uid != uid:
            return frozenset()
        with open(f"/proc/{pid}/environ", "rb") as file:
            return frozenset(file.read().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return frozenset()
