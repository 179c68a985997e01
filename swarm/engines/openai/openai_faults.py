"""Classifies what a server with OpenAI's API says went wrong, as a ``TaskFault``. Pure.

The kinds are those of ``swarm.engines.classify``. Servers differ in the form of an error: it is
``{"error": {"message": …}}`` (OpenAI, llama-server, vLLM), ``{"object": "error", "message": …}`` (SGLang, older vLLM) or
``{"detail": …}`` (FastAPI).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from swarm.core.faults import FaultClass, TaskFault
from swarm.engines.classify import fault_of_text, shown_text, text_rule

_RULES: Final = (
    # llama-server, when the requests under way have filled the context that they share: with fewer at once it goes.
    text_rule("infra", "does_not_fit", "context size has been exceeded", "failed to find free space in the kv cache"),
    text_rule(
        "deterministic",
        "too_long",
        "maximum context length",
        r"longer than the (model's context length|maximum model length)",
        "exceeds the available context size",
        "larger than the max context size",
        "too large to process. increase the physical batch size",
        r"exceeds the maximum (allowed length|input length)",
        "exceeds max_model_len",
        "context_length_exceeded",
        "exceed_context_size",
    ),
    text_rule("transient", "busy", "loading model", "queue is full", "too many requests", "rate limit"),
    text_rule("infra", "runner_died", "enginecore encountered", "engine (is )?dead", "background loop has errored"),
    text_rule("deterministic", "model_missing", r"model .{1,200} (does not exist|not found)"),
    text_rule(
        "deterministic",
        "bad_request",
        r"\b(is|are) not supported",
        "unsupported param",
        r"requires --",
        "failed to parse grammar",
        "unable to generate parser",
        "failed to load image",
        "failed to apply chat template",
        r"json_schema.{0,20}:",
        "must be provided",
        "validation error",
    ),
)
_ADVICE: Final = {
    "too_long": "; give the model a larger context (options.num_ctx, or the server's own setting)",
    "does_not_fit": "; the requests at work filled the context that they share: fewer at once will fit",
    "forbidden": "; set api_key_env of the engine to the variable that holds the right key",
}
_IS_IT: Final = "does this URL speak OpenAI's API?"


def fault_of_openai_status(status: int, body: str, *, path: str) -> TaskFault:
    """Class a reply whose status is not 200. ``body`` is its text as received, ``path`` what was asked."""
    if 300 <= status < 400:
        what = f"HTTP {status}: it sends requests elsewhere, and redirects are not followed; {_IS_IT}"
        return TaskFault("infra", "redirected", what)
    text = _error_of_body(body)
    fault, kind = _class_of(status, text)
    shown = f"HTTP {status}: {shown_text(text or body) or 'without a word'}"
    return TaskFault(
        fault, kind, f"{shown}{_ADVICE.get(kind, '')}" if kind != "garbage" else f"{shown} (asked for {path}); {_IS_IT}"
    )


def _class_of(status: int, text: str | None) -> tuple[FaultClass, str]:
    known = None if text is None else fault_of_text(text, _RULES)
    match status:
        case 401 | 403:
            return "infra", "forbidden"
        case 408 | 429 | 499 | 502 | 503 | 504:
            return "transient", "busy"
        case 404 if known is not None and known.kind == "model_missing":
            return "deterministic", "model_missing"
        case _ if known is None or status in (404, 405):
            return "infra", "garbage"
        case _ if (status >= 500 and status != 501) or known.kind in ("too_long", "model_missing", "out_of_memory"):
            return known.fault, known.kind
        case _:
            return "deterministic", "bad_request"


def fault_of_openai_error(document: Mapping[str, Any]) -> TaskFault | None:
    """The fault for an error that comes with status 200, in mid-stream or in place of an answer; None: it is no error."""
    text = _error_of(document)
    if text is None:
        return None
    known = fault_of_text(text, _RULES)
    return TaskFault(known.fault, known.kind, f"{known.message}{_ADVICE.get(known.kind, '')}")


def _error_of_body(body: str) -> str | None:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return _error_of(document) if isinstance(document, dict) else None


def _error_of(document: Mapping[str, Any]) -> str | None:
    """The text of an error in any of the forms, with its type or code where that says more; None: it has none of them."""
    error: object = document.get("error")
    if error is None and document.get("object") == "error":
        error = document
    if error is None and "choices" not in document and "data" not in document:
        error = document.get("detail")
    if isinstance(error, Mapping):
        named = [error.get(name) for name in ("message", "type", "code")]
        message, *others = (one if isinstance(one, str) else "" for one in named)
        return message or next((one for one in others if one), None) or msgspec.json.encode(error).decode()
    if error is None or error is False:
        return None
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()
