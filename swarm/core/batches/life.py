"""The life of a batch that a client created: what is to be done next, from what is on disk alone.

* ``validating`` -> ``failed`` | ``in_progress`` -> ``finalizing`` -> ``completed`` | ``expired``;
  from the first two also ``cancelling`` -> ``cancelled``. A status never goes back.
* Every step may be cut off anywhere and is then done again: the same facts give the same step.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class BatchStatus(StrEnum):
    """OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
OVER = (BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)
"""Nothing of a batch changes any more."""


class BatchStep(StrEnum):
    """What its driver does next."""

    CHECK = "check"
    """Read the input file: it is bad, or its requests are counted."""
    SUBMIT = "submit"
    """Put the next requests into the queue."""
    CANCEL = "cancel"
    """It was asked for: from now on ``cancelling``."""
    EXPIRE = "expire"
    """Its window has passed: ``finalizing``, to end as ``expired``."""
    FINISH = "finish"
    """All requests have ended: ``finalizing``, to end as ``completed``."""
    STOP = "stop"
    """Cancel what has not ended."""
    WRITE = "write"
    """Write output and error file, and end."""
    WAIT = "wait"


class BatchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is on disk about one batch."""

    status: BatchStatus
    ending: BatchStatus | None = None
    """How it is to end, once that is decided: ``completed``, ``expired`` or ``cancelled``."""
    cancel_asked: bool = False
    due: bool = False
    """Its completion window has passed."""
    total: int | None = None
    """Requests in its file; None until that has been checked."""
    submitted: bool = False
    """All of them are in the queue, or have been."""
    unended: int = 0
    """Requests that are in the queue and have not ended."""


def next_step(facts: BatchFacts) -> BatchStep:
    """What to do next."""
    match facts.status:
        case BatchStatus.VALIDATING:
            return BatchStep.CANCEL if facts.cancel_asked else BatchStep.CHECK
        case BatchStatus.IN_PROGRESS:
            return _in_progress(facts)
        case BatchStatus.CANCELLING | BatchStatus.FINALIZING:
            return _ending(facts)
        case _:
            return BatchStep.WAIT


def _in_progress(facts: BatchFacts) -> BatchStep:
    if facts.cancel_asked:
        return BatchStep.CANCEL
    if facts.submitted and not facts.unended:
        return BatchStep.FINISH
    if facts.due:
        return BatchStep.EXPIRE
    return BatchStep.WAIT if facts.submitted else BatchStep.SUBMIT


def _ending(facts: BatchFacts) -> BatchStep:
    if facts.total is None:
        return BatchStep.CHECK  # cancelled before it was read: its requests belong into the error file all the same
    if not facts.unended:
        return BatchStep.WRITE
    # Of one that has completed, somebody is retrying requests: their new answers are waited for.
    return BatchStep.WAIT if facts.ending is BatchStatus.COMPLETED else BatchStep.STOP


def counts_shown(shown: tuple[int, int], completed: int, failed: int, total: int) -> tuple[int, int]:
    """Completed and failed requests as clients see them, from those ``shown`` before: neither goes back.

    A failed request that is retried counts as failed until it, or so many others, have completed.
    """
    done = min(max(shown[0], completed), total)
    return done, min(max(shown[1], failed), total - done)
