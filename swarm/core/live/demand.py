"""What live requests want of the swarm: which models clients wait for, or have just used.

``live/demand.json`` in the queue root holds one. It is true only while the process that wrote it lives.
"""

from __future__ import annotations

import msgspec

from swarm.core.worker import ProcessIdentity


class ModelDemand(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Live requests for one model. With neither waiting nor in flight: its last one ended within ``KEPT_S``."""

    waiting: int = 0
    """Have no worker yet: the model is loaded nowhere, or every place is taken."""
    in_flight: int = 0
    """At workers."""
    oldest_s: float = 0.0
    """Age of the longest waiting one when this was written."""


class LiveDemand(msgspec.Struct, frozen=True, kw_only=True):
    """Written when a number changes, at most every ``WRITE_S``, and every ``REFRESH_S`` while it names a model."""

    process: ProcessIdentity
    """The HTTP server's process."""
    written_at: str
    models: dict[str, ModelDemand]
    """By canonical name."""


KEPT_S = 60.0
"""A model is named for so long after its last live request."""
WRITE_S = 0.2
REFRESH_S = 5.0
STALE_S = 3 * REFRESH_S
"""Not refreshed for so long although its process lives: it hangs, and what it said is not true any more."""
