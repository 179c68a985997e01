"""What the supervisor sweeps: processes of an earlier plan, what is left at the end, and logs that grew.

Ending what the tasks of a dead worker left running.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from pathlib import Path

from swarm.proc.env_markers import PROCESS_MARKER, ROOT_MARKER, SERVER_MARKER, find_marked_values, kill_marked
from swarm.proc.identity import read_stat
from swarm.proc.log_trim import truncate_if_large
from swarm.proc.ports import describe
from swarm.proc.process_group import KILL_WAIT_S

log = logging.getLogger(__name__)
STRANGER_GRACE_S = 10.0


def end_strangers(root: Path, *, servers: AbstractSet[str], processes: AbstractSet[str]) -> None:
    """End processes of this root whose names are in no plan now, say after a change of ``--simulate N``.

    Takes up to ``STRANGER_GRACE_S`` for each name that is there; nothing otherwise.
    """
    for marker, known in ((SERVER_MARKER, servers), (PROCESS_MARKER, processes)):
        found = find_marked_values(marker, **{ROOT_MARKER: str(root)})
        for name in sorted(set(found.values()) - known):
            log.info("ending %s=%s of an earlier plan", marker, name)
            left = kill_marked(STRANGER_GRACE_S, **{ROOT_MARKER: str(root), marker: name})
            if left:
                log.error("%s=%s: cannot kill %s", marker, name, ", ".join(describe(i.pid) for i in left))


def find_leftovers(root: Path) -> tuple[str, ...]:
    """Living brains, workers, servers, runners and commands of this root, for people; empty after a clean end."""
    marker = {ROOT_MARKER: str(root)}
    found = {**find_marked_values(SERVER_MARKER, **marker), **find_marked_values(PROCESS_MARKER, **marker)}
    return tuple(describe(identity.pid) for identity in found)


def trim_logs(root: Path) -> None:
    """Servers write to their logs themselves, for months perhaps; brain and workers rotate their own."""
    for path in (*root.glob("logs/ollama-*.log"), *root.glob("logs/*.err")):
        try:
            truncate_if_large(path)
        except OSError as error:
            log.warning("cannot trim %s: %s", path, error.strerror)


BRAIN_WAIT_S = 0.5
"""The brain has others to look after, and comes again."""
WORKER_MARKER = "SWARM_WORKER"
"""The worker for which a task's program runs; see ``swarm.worker.executors.command``."""


def end_remains(root: str, worker: str, wait_s: float = KILL_WAIT_S) -> bool:
    """End the programs that a dead worker's tasks left running, so that none of them runs beside its next attempt."""
    return not immortal_remains(root, worker, wait_s)


def immortal_remains(root: str, worker: str, wait_s: float = KILL_WAIT_S) -> str:
    """The same; answers with what would not die, for people."""
    left = kill_marked(0.0, wait_s, **{ROOT_MARKER: root, WORKER_MARKER: worker})
    words = "; ".join(_named(one.pid) for one in left)
    if words:
        log.error("programs of %s will not die: %s; its tasks stay where they are", worker, words)
    return words


def _named(pid: int) -> str:
    stat = read_stat(pid)
    return f"{describe(pid)}, state {stat.state}" if stat is not None else describe(pid)
