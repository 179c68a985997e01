"""A notification that waits to be delivered."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Note(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message that is to be sent when its subject has ended: ``outbox/<name>.json``."""

    subject: Literal["task", "batch"]
    id: str
    targets: tuple[str, ...]
    """Who has not been notified yet."""
    tries: int = 0
    next_s: float = 0.0
    """Seconds since the epoch; not tried again before."""
    error: str = ""
    message: dict[str, Any] | None = None
    """What could not be delivered of a task: it is sent even if the task has been purged since."""
    by_hand: bool = False
    """Somebody asked for this try: it is made even if the target was down a moment ago."""
    mark: str = ""
    """Random, of this message alone: sent again after a crash it is the same, of a later end of the same subject another."""

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.subject}-{self.id}"

    @property
    def message_id(self) -> str:
        """Tells a message that comes twice from two messages."""
        return f"{self.name}-{self.mark}" if self.mark else self.name
