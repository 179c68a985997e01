"""The repair ladder as a value: each hang of a server is met by a stronger repair.

* A hang is a request without a first token or with too long a gap, several that timed out in silence, a scheduler that does
  not answer, a model that will not unload.
* The first rung is cutting the request, which has been done when the hang is known. The last gives the card up.
* One success leads back to the ground.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.config.settings import RepairSettings
from swarm.core.backoff import doubled_s

Rung = Literal["cancel", "kill_runner", "restart_server", "quarantine"]


class Ladder(msgspec.Struct, frozen=True):
    """``hangs`` and ``crashes`` in a row; whatever began before ``repaired_s`` (monotonic) proves nothing any more."""

    hangs: int = 0
    crashes: int = 0
    repaired_s: float = 0.0


def rungs(limits: RepairSettings) -> tuple[Rung, ...]:
    """The repairs for the first hang, the second, and so on; the last one repeats."""
    steps: tuple[tuple[Rung, int], ...] = (
        ("cancel", limits.cut_requests),
        ("kill_runner", limits.kill_runners),
        ("restart_server", limits.restart_servers),
        ("quarantine", 1),
    )
    return tuple(rung for rung, times in steps for _ in range(times))


def after_hang(ladder: Ladder, limits: RepairSettings, *, began_s: float, now_s: float) -> tuple[Ladder, Rung | None]:
    """The next rung; None for a request that began before the last repair, and was hit by it or by what it mended."""
    if began_s < ladder.repaired_s:
        return ladder, None
    every = rungs(limits)
    rung = every[min(ladder.hangs, len(every) - 1)]
    return Ladder(ladder.hangs + 1, 0, now_s), rung


def after_wedge(ladder: Ladder, limits: RepairSettings, *, began_s: float, now_s: float) -> tuple[Ladder, Rung | None]:
    """Like ``after_hang`` where there is nothing left to cut: the scheduler, a model that will not go, timeouts."""
    return after_hang(_at_least(ladder, limits.cut_requests), limits, began_s=began_s, now_s=now_s)


def after_crash(ladder: Ladder, limits: RepairSettings, *, began_s: float, now_s: float) -> tuple[Ladder, Rung | None]:
    """A runner died under a request. ``limits.crashes`` of them in a row are a reason to restart the server, then to stop.

    Fewer are not: the server starts a new runner by itself, and most often that helps.
    """
    if began_s < ladder.repaired_s:
        return ladder, None
    crashes = ladder.crashes + 1
    if crashes < limits.crashes:
        return Ladder(ladder.hangs, crashes, ladder.repaired_s), None
    return after_hang(_at_least(ladder, limits.cut_requests + limits.kill_runners), limits, began_s=began_s, now_s=now_s)


def after_success(ladder: Ladder) -> Ladder:
    """The ladder after a success: reset."""
    return Ladder(0, 0, ladder.repaired_s)


def quarantine_s(times: int, limits: RepairSettings) -> float:
    """How long the quarantine number ``times`` (from 1, in a row) lasts: doubled each time, up to the cap."""
    return doubled_s(limits.quarantine_s, times - 1, limits.quarantine_cap_s)


def _at_least(ladder: Ladder, hangs: int) -> Ladder:
    return Ladder(max(ladder.hangs, hangs), 0, ladder.repaired_s)
