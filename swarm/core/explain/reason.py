"""One reason of an explanation."""

from __future__ import annotations

import msgspec


class Reason(msgspec.Struct, frozen=True):
    """One reason: a code for programs, a sentence for the operator, and the command to run next."""

    code: str
    text: str
    next_step: str
