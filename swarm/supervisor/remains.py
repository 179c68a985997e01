"""Ending what the tasks of a dead worker left running."""

from __future__ import annotations

import logging

from swarm.proc.env_markers import ROOT_MARKER, kill_marked
from swarm.proc.ports import describe
from swarm.proc.process_group import KILL_WAIT_S
from swarm.proc.stat import read_stat

log = logging.getLogger(__name__)
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
