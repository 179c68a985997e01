"""Why a live request is not answered, as the client is told: status, code, what to do, when to come again."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from swarm.core.explain.reason import Reason
from swarm.core.live.dispatch import LiveDispatch
from swarm.core.live.routing import Standing, models_of
from swarm.errors import name_hint
from swarm.http.answers import ApiError
from swarm.http.live.worker_sockets import AnswerFault

LOADING = "model_loading"
"""The code where a worker could hold the model, and none does."""
MOST_REASONS = 3
LOAD_AGAIN_S = 10.0
FULL_AGAIN_S = 2.0
PAUSED_AGAIN_S = 30.0
_LATE = ("timeout", "first_token_timeout", "token_gap_timeout")
_RATE, _SERVER = "rate_limit_error", "server_error"


def _later(status: int, message: str, code: str, after_s: float, *, kind: str = _RATE, hint: str | None = None) -> ApiError:
    return ApiError(status, message, kind=kind, code=code, hint=hint, headers={"Retry-After": str(ceil(after_s))})


def unknown_model(model: str, known: list[str]) -> ApiError:
    """No worker has it."""
    hint = name_hint(model.removesuffix(":latest"), known, "there are:", 3)
    return ApiError(404, f"no worker has the model {model!r}", code="model_not_found", param="model", hint=hint)


def check(dispatch: LiveDispatch, model: str) -> None:
    """Raise for a model that cannot be had by waiting a little."""
    match dispatch.standing(model):
        case Standing.UNKNOWN:
            raise unknown_model(model, models_of(dispatch.workers.values()))
        case Standing.NOBODY:
            raise _later(503, "no worker runs", "no_worker", LOAD_AGAIN_S, kind=_SERVER, hint="start them with `swarm up`")
        case Standing.PAUSED:
            pauses = (dispatch.pauses.model(model), *(one.pause for one in dispatch.workers.values()))
            pause = next(one for one in pauses if one is not None)
            way_out = f"`{pause.way_out}` ends that"
            raise _later(503, pause.words, "paused", PAUSED_AGAIN_S, kind=_SERVER, hint=way_out)
        case Standing.LOADED | Standing.INSTALLED | Standing.UNSURE:
            pass


def _why(dispatch: LiveDispatch, model: str) -> tuple[str, str, float]:
    """What a request for this model waits for: words, code, when to come again."""
    match dispatch.standing(model):
        case Standing.LOADED:
            return f"all places for {model} are taken", "all_places_taken", FULL_AGAIN_S
        case Standing.INSTALLED:
            serving = [one for one in dispatch.workers.values() if one.model == model or model in one.servable]
            why = next((f"; {one.name}: {one.why}" for one in serving if one.why), "")
            return f"{model} is not loaded yet{why}", LOADING, LOAD_AGAIN_S
        case _:
            return f"no worker serves {model} now", "no_worker", LOAD_AGAIN_S


def waited_too_long(dispatch: LiveDispatch, model: str) -> ApiError:
    """It has waited for ``[live] max_wait_s``."""
    words, code, after_s = _why(dispatch, model)
    return _later(
        429, f"{words}; the request has waited as long as it may", code, after_s, hint="`[live] max_wait_s` says how long"
    )


def with_reasons(refusal: ApiError, reasons: Sequence[Reason]) -> ApiError:
    """The same, with what keeps its model from being loaded."""
    if not reasons:
        return refusal
    words = "; ".join(reason.text.rstrip(".") for reason in reasons[:MOST_REASONS])
    return ApiError(
        refusal.status,
        f"{refusal.message}: {words}",
        kind=refusal.kind,
        code=refusal.code,
        hint=f"`{reasons[0].next_step}`",
        headers=refusal.headers,
    )


def queue_full(dispatch: LiveDispatch, model: str) -> ApiError:
    """As many wait as may."""
    words, _, after_s = _why(dispatch, model)
    waiting = len(dispatch.queue)
    return _later(
        429,
        f"{words}, and {waiting} requests wait already",
        "queue_full",
        after_s,
        hint="`[live] queue_max` says how many may",
    )


def too_late(timeout_s: float) -> ApiError:
    """It was not answered within its time."""
    return ApiError(
        504,
        f"the request took longer than {timeout_s:g} s",
        kind=_SERVER,
        code="timeout",
        hint="`[llm] timeout_s` is the limit",
    )


def of_fault(fault: AnswerFault, tries: int) -> ApiError:
    """A worker's fault, where it is not tried elsewhere any more."""
    if fault.of_request:
        return ApiError(400, fault.message, code=fault.kind)
    again = f" (tried {tries} times)" if tries > 1 else ""
    status = 504 if fault.kind in _LATE else 502
    return ApiError(status, f"{fault.message}{again}", kind=_SERVER, code=fault.kind)
