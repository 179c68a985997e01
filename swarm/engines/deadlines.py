"""The limits of one request to a model server, and which of them ends next."""

from __future__ import annotations

import time

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits


class Deadlines:
    """Which limit of a request ends next, and which has passed. All on the monotonic clock."""

    def __init__(self, limits: Limits, *, streamed: bool = True) -> None:
        self.limits = limits
        self.started = time.monotonic()
        self.first_s: float | None = None
        """Seconds to the first line; None before it."""
        self._end = self.started + limits.total_s
        self.next = min(self._end, self.started + limits.first_token_s) if streamed else self._end
        """Monotonic time by which the next line (or the end) must be here."""

    def line_seen(self) -> None:
        """A whole line came: the gap starts anew. Bytes that do not end a line change nothing."""
        now = time.monotonic()
        if self.first_s is None:
            self.first_s = now - self.started
        self.next = min(self._end, now + self.limits.token_gap_s)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def fault(self) -> TaskFault:
        """The fault for the limit that passed."""
        if self.next >= self._end:
            return TaskFault("transient", "timeout", f"no complete answer within {self.limits.total_s:g} s")
        if self.first_s is None:
            return TaskFault("transient", "first_token_timeout", f"no first token within {self.limits.first_token_s:g} s")
        return TaskFault("transient", "token_gap_timeout", f"no further token for {self.limits.token_gap_s:g} s")


def too_large(max_bytes: int) -> TaskFault:
    """The fault for an answer past the limit."""
    return TaskFault("deterministic", "reply_too_large", f"the answer is longer than {max_bytes} bytes; set num_predict")
