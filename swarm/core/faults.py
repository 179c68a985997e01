"""Faults of an attempt, classified by who is to blame.

The class decides what happens next (``swarm.core.policy.retry``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

FaultClass = Literal["infra", "transient", "deterministic", "crash", "cancelled", "poison", "suspect"]
"""infra: server, card or host (uses up no attempt of the task). transient: worth another try after a backoff.
deterministic: would fail again. crash: the worker died holding it. cancelled: somebody asked. poison: the request broke a
server that serves others. suspect: it failed together with others, and any of them may be the cause (uses up none)."""


NO_SERVER = frozenset({"server_down", "node_down"})
"""Kinds of faults where nobody took the connection: no server has seen the request."""
LOST_NODE = frozenset({"node_down", "node_lost", "node_silent"})
"""Kinds of faults where the machine of a card is lost: nobody listens there, the connection ended, no line came. Neither the
request nor the model server is to blame."""


class TaskFault(Exception):
    """An attempt failed in a way that was foreseen; ``kind`` is one word for machines (``timeout``, ``server_down`` …)."""

    def __init__(
        self, fault: FaultClass, kind: str, message: str, result: dict[str, Any] | None = None, *, alone: bool = False
    ) -> None:
        super().__init__(message)
        self.result = result
        """What the attempt produced all the same (a program's output); kept with the task when it fails for good."""
        self.fault: FaultClass = fault
        self.kind = kind
        self.message = message
        self.alone = alone
        """From now on the task runs alone on its server, so that its next fault proves something."""


def fault_of_stop(reason: str) -> TaskFault:
    """The fault of an attempt that was stopped for this reason."""
    if reason == "timeout":
        return TaskFault("transient", "timeout", "the attempt took longer than its limit and was stopped")
    return TaskFault("cancelled", reason, f"the request was stopped: {reason}")


class DeliveryFailed(Exception):
    """A notification did not reach its target."""

    def __init__(self, message: str, *, permanent: bool = False, down: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        """No other try can succeed."""
        self.down = down
        """Nothing else can be delivered there just now either."""


class CancelToken(Protocol):
    """Carries "stop this attempt" into an executor or a request."""

    @property
    def reason(self) -> str | None:
        """Why it was cancelled (``cancelled``, ``timeout``, ``stopping``), or None while it is not."""
        ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this when cancelled (at once if it already is); it must unblock the executor, say by closing its socket."""
        ...


Progress = Callable[[int], None]
"""Called with the number of new tokens or output chunks."""
