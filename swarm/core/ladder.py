"""The repair ladder as a value: a server that hangs is repaired a little harder each time, until its card is given up.

A hang is a request without a first token or with too long a gap, a scheduler that does not answer, a model that will not
go. Cutting the request is the first rung and has been done when the hang is known. One success is the ground again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Rung = Literal["cancel", "kill_runner", "restart_server", "quarantine"]
RUNGS: tuple[Rung, ...] = ("cancel", "kill_runner", "restart_server", "quarantine")
CRASHES_PER_RUNG = 3
"""Runner deaths in a row that count like one hang: the server starts a new runner by itself, and most often that helps."""
QUARANTINE_S = 900.0
QUARANTINE_CAP_S = 4 * 3600.0


class Ladder(msgspec.Struct, frozen=True):
    """``hangs`` and ``crashes`` in a row; whatever began before ``repaired_s`` (monotonic) proves nothing any more."""

    hangs: int = 0
    crashes: int = 0
    repaired_s: float = 0.0


def after_hang(ladder: Ladder, *, began_s: float, now_s: float) -> tuple[Ladder, Rung | None]:
    """The next rung; None for a request that began before the last repair, and was hit by it or by what it mended."""
    if began_s < ladder.repaired_s:
        return ladder, None
    rung = RUNGS[min(ladder.hangs, len(RUNGS) - 1)]
    return Ladder(ladder.hangs + 1, 0, now_s), rung


def after_wedge(ladder: Ladder, *, began_s: float, now_s: float) -> tuple[Ladder, Rung | None]:
    """Like ``after_hang`` where there is no request to cut: the server's scheduler, or a model that will not go."""
    return after_hang(Ladder(max(ladder.hangs, 1), 0, ladder.repaired_s), began_s=began_s, now_s=now_s)


def after_crash(ladder: Ladder, *, began_s: float, now_s: float) -> tuple[Ladder, Rung | None]:
    """A runner died under a request. Every ``CRASHES_PER_RUNG`` of them are a reason to restart the server, then to stop."""
    if began_s < ladder.repaired_s:
        return ladder, None
    crashes = ladder.crashes + 1
    if crashes < CRASHES_PER_RUNG:
        return Ladder(ladder.hangs, crashes, ladder.repaired_s), None
    return after_hang(Ladder(max(ladder.hangs, 2), 0, ladder.repaired_s), began_s=began_s, now_s=now_s)


def after_success(ladder: Ladder) -> Ladder:
    """It works: on the ground again."""
    return Ladder(0, 0, ladder.repaired_s)


def quarantine_s(times: int) -> float:
    """How long the quarantine number ``times`` (from 1, in a row) lasts: 15 minutes, doubled up to 4 hours."""
    return min(QUARANTINE_CAP_S, QUARANTINE_S * 2.0 ** min(max(times, 1) - 1, 30))
