"""All processes of a simulated machine, found by the marker in their environment, frozen, thawed, killed, named."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

from swarm.core.worker import ProcessIdentity
from swarm.proc import identity as identities
from swarm.proc.env_markers import MODEL_MARKER, SERVER_MARKER, find_marked, find_marked_values
from swarm.proc.identity import read_stat
from tests.endurance.process_killer import pick
from tests.helpers.ray_cluster import NODE_MARKER
from tests.helpers.wait import wait_until


class NodeProcesses:
    """Those of one node; ``marker`` is the value of ``NODE_MARKER`` with which the first of them was started."""

    def __init__(self, marker: str) -> None:
        self.marker = {NODE_MARKER: marker}

    def all(self) -> list[ProcessIdentity]:
        """Alive now."""
        return find_marked(**self.marker)

    def servers(self) -> list[ProcessIdentity]:
        """Model servers and their runners."""
        found = find_marked_values(SERVER_MARKER, **self.marker) | find_marked_values(MODEL_MARKER, **self.marker)
        return list(found)

    def where(self, fits: Callable[[list[str]], bool]) -> list[ProcessIdentity]:
        """Those whose command line fits."""
        return [one for one in self.all() if fits(identities.command_line(one))]

    def freeze(self) -> None:
        """SIGSTOP to all, those started meanwhile too, until all stand still."""

        def frozen() -> bool:
            running = [one for one in self.all() if (stat := read_stat(one.pid)) is not None and stat.state not in "Tt"]
            for one in running:
                identities.signal(one, signal.SIGSTOP)
            return not running

        wait_until(frozen, what="all processes of the node stand still")

    def thaw(self) -> None:
        """Have them go on."""
        for one in self.all():
            identities.signal(one, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all, as when the power fails."""

        def gone() -> bool:
            left = self.all()
            for one in left:
                identities.signal(one, signal.SIGKILL)
            return not left

        wait_until(gone, what="all processes of the node are dead")

    def names(self) -> list[str]:
        """What runs, for people."""
        return [f"{one.pid}: {' '.join(identities.command_line(one))[:160]}" for one in self.all()]


def shoot_one(found: list[ProcessIdentity], dice: random.Random) -> bool:
    """SIGKILL to one of them; False: there is none."""
    return bool(found) and identities.signal(pick(dict.fromkeys(found, ""), dice), signal.SIGKILL)
