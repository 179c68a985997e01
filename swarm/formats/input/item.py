"""One item of an input, before it is turned into a task."""

from __future__ import annotations

from typing import Any

import msgspec


class InputItem(msgspec.Struct, frozen=True):
    """One line (CSV: one row) as columns and values."""

    line_no: int
    """From 1; of a row that spans lines, the first."""
    record: dict[str, Any]
