"""Faults on demand, and which request each of them hits.

Before anything of the answer: ``reset`` (connection reset), ``busy`` (503), ``error_500``, ``unknown_500`` (a text nobody
has seen), ``html``, ``html_502``, ``garbage``.

With a slot taken: ``hang_first`` (not one byte), ``hang_mid``, ``error_line`` (in a 200), ``bad_line`` (no JSON),
``half_stream`` (ends without ``"done": true``), ``cut_mid`` (the connection is closed), ``reset_mid``, ``kill_runner``,
``slow`` (a twentieth of the speed), ``length_cut`` (half the text, ``done_reason`` length), ``repeat`` (one token again and
again, then no final line), ``endless``, ``long_line`` (never ends).
"""

from __future__ import annotations

import random
from typing import Final

from swarm.simulator.http import TEXT, ApiError, Response
from swarm.simulator.knobs import Knobs

FIRST: Final = frozenset({"reset", "busy", "error_500", "unknown_500", "html", "html_502", "garbage"})
"""Faults that need neither model nor slot."""
_BREAKS: Final = frozenset({"error_line", "bad_line", "half_stream", "cut_mid", "reset_mid", "kill_runner", "length_cut"})
_LASTS: Final = frozenset({"hang_first", "hang_mid", "slow", "repeat", "endless", "long_line"})
MODES: Final = FIRST | _BREAKS | _LASTS
SLOW_FACTOR: Final = 20
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>simulated proxy</body></html>"
_UNKNOWN = "simulated: the flux capacitor is out of phase"
BAD_LINE: Final = b'{"response": simulated nonsense\n'
_GARBAGE = b"\x00\xff\xfe simulated garbage \x80\n{{{not json\n"


class FaultPicker:
    """Draws a fault for each request; the same seed and the same requests give the same faults."""

    def __init__(self, seed: int) -> None:
        self._pick = random.Random(seed)
        self._seen = 0
        self.drawn: dict[str, int] = {}
        """Faults so far, by mode."""

    def draw(self, knobs: Knobs, body: bytes) -> str | None:
        """The mode of the fault that hits this request, or None."""
        self._seen += 1
        for spec in knobs.poison:
            text, _, mode = spec.rpartition("=")
            if text.encode() in body:
                return self._note(mode)
        if not knobs.faults or self._seen <= knobs.fault_after:
            return None
        if 0 <= knobs.fault_limit <= sum(self.drawn.values()):
            return None
        if knobs.fault_match and knobs.fault_match.encode() not in body:
            return None
        for spec in knobs.faults:
            mode, _, rate = spec.partition("=")
            if not rate or self._pick.random() < float(rate):
                return self._note(mode)
        return None

    def _note(self, mode: str) -> str:
        self.drawn[mode] = self.drawn.get(mode, 0) + 1
        return mode

    def turned(self) -> None:
        """Restart the counts after the knobs have changed."""
        self._seen = 0
        self.drawn = {}


def check(knobs: Knobs) -> None:
    """Raises ``ValueError`` for a fault that does not exist or a rate that is none."""
    for spec in knobs.poison:
        text, _, mode = spec.rpartition("=")
        _check_mode(mode)
        if not text:
            raise ValueError(f"poison {spec!r}: write TEXT=MODE")
    for spec in knobs.faults:
        mode, _, rate = spec.partition("=")
        _check_mode(mode)
        if rate and not 0 <= float(rate) <= 1:
            raise ValueError(f"fault {spec!r}: the rate must be from 0 to 1")


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"unknown fault {mode!r}; there are: {', '.join(sorted(MODES))}")


def fail_first(mode: str, text: str, response: Response) -> None:
    """Answer a request with one of the ``FIRST`` faults. Raises ``ApiError`` where the API itself complains."""
    match mode:
        case "reset":
            response.reset()
        case "busy":
            raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded")
        case "error_500":
            raise ApiError(500, text)
        case "unknown_500":
            raise ApiError(500, _UNKNOWN)
        case "html_502":
            response.send(502, _HTML, "text/html")
        case "html":
            response.send(200, _HTML, "text/html")
        case "garbage":
            response.send(200, _GARBAGE, TEXT)
        case _:
            raise AssertionError(mode)
