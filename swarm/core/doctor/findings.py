"""A finding of ``swarm doctor``."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    code: str
    """For machines and for ``docs/troubleshooting.md``."""
    severity: Literal["critical", "warning"]
    """``critical``: work stands still, or will, until somebody does something."""
    subject: str
    """A process, ``gpu-1``, or ``box``."""
    concerns: str = ""
    """The worker it is about, where the subject does not say it."""
    what: str
    evidence: tuple[str, ...] = ()
    """Files with lines, numbers, words: what can be checked by hand."""
    next: str
    """What to do."""
