"""Who started a process and may start it again: the unit of systemd, or the name of a known service manager."""

from __future__ import annotations

import os

import msgspec

from swarm.core.worker import ProcessIdentity
from swarm.proc.stat import read_stat

_SYSTEMD = "systemd"
_OTHERS = {
    "runsv": "sv down",
    "supervise": "svc -d",
    "s6-supervise": "s6-svc -d",
    "supervisord": "supervisorctl stop",
    "circusd": "circusctl stop",
    "monit": "monit stop",
}


class Manager(msgspec.Struct, frozen=True):
    """A service manager, in words."""

    name: str
    way_out: str
    """The command that ends a process for good."""

    def __str__(self) -> str:
        return self.name


def manager_of(process: ProcessIdentity) -> Manager | None:
    """The service manager that is the parent of a process; None where the parent is none that is known."""
    stat = read_stat(process.pid)
    if stat is None or stat.identity != process:
        return None
    try:
        with open(f"/proc/{stat.parent}/comm", encoding="utf-8", errors="replace") as file:
            command = file.read().strip()
        with open(f"/proc/{process.pid}/cgroup", encoding="utf-8", errors="replace") as file:
            path = file.read().strip().rpartition("\n")[2].rpartition(":")[2]
    except OSError:
        return None
    unit = os.path.basename(path)
    if command == _SYSTEMD and unit.endswith(".service"):
        user = " --user" if stat.parent != 1 else ""
        return Manager(unit, f"`systemctl{user} stop {unit}`")
    return Manager(command, f"`{_OTHERS[command]} NAME`") if command in _OTHERS else None
