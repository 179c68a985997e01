"""Classifies what went wrong as a ``TaskFault``: statuses, error texts, broken connections.

Pure. Texts are matched loosely (any case, anywhere), because their wording changes between Ollama releases.
"""

from __future__ import annotations

import http.client
import re
from typing import Final, NamedTuple

import msgspec
import urllib3

from swarm.core.faults import FaultClass, TaskFault
from swarm.engines.server_proof import ForeignServer
from swarm.plain_text import one_line

SHOWN_CHARS: Final = 500
"""Error texts are cut to this length; runners append whole logs."""
_READ_CHARS: Final = 8192
"""Of a longer text so much of either end is read for what it means."""


_ADVICE: Final = {
    "too_long": '; raise the model\'s num_ctx, or let the server cut the prompt: "truncate": true in the request'
}


class TextRule(NamedTuple):
    """What a text means in which one of some phrases is found."""

    pattern: re.Pattern[str]
    fault: FaultClass
    kind: str


def text_rule(fault: FaultClass, kind: str, *texts: str) -> TextRule:
    """The rule for regular expressions, matched in any case, anywhere."""
    return TextRule(re.compile("|".join(texts), re.IGNORECASE), fault, kind)


# The first match wins: a crash report quotes its cause, so causes come before crashes.
_TEXT_RULES: Final = (
    text_rule("deterministic", "model_incompatible", "may be incompatible with your version of ollama"),
    text_rule("infra", "does_not_fit", "requires more system memory", "unable to load full model on gpu"),
    text_rule(
        "infra",
        "out_of_memory",
        r"out[ _]?of[ _]?(device|host)?[ _]?memory",
        "cudamalloc failed",
        "failed to allocate",
        r"unable to allocate \S+ buffer",
        "memory layout cannot be allocated",
        "insufficient memory",
        "not enough memory",
        "allocation failed",
        "no available memory for the cache blocks",
        "larger than the available kv cache memory",
    ),
    text_rule("deterministic", "too_long", "exceeds? the context length", "exceeds the available context size"),
    text_rule("transient", "aborted", "context canceled", "request canceled"),
    text_rule("transient", "token_repeat", "token repeat limit"),
    text_rule("transient", "busy", "server busy", "maximum pending requests"),
    text_rule("infra", "load_timeout", r"timed out waiting for (llama|runner)"),
    text_rule("infra", "runner_died", "(cuda|rocm|hip) error", "gpu is lost", "device ?lost"),
    text_rule(
        "infra",
        "load_failed",
        "process has terminated",
        "error starting llama-server",
        "error loading model",
        "model failed to load",
    ),
    text_rule(
        "infra",
        "runner_died",
        "has unexpectedly stopped",
        "error was encountered while running the model",
        "connection refused",
        "connection reset",
        r"\bEOF\b",
    ),
    text_rule("infra", "disk_full", "no space left on device"),
    text_rule(
        "deterministic", "model_missing", r"model ['\"].*not found", "try pulling it first", "manifest: file does not exist"
    ),
    text_rule(
        "deterministic",
        "bad_request",
        "must be of type",
        "invalid format",
        "does not support",
        "invalid model name",
        "invalid input",
        "is required",
        "missing request body",
    ),
)


def shown_text(text: str, limit: int = SHOWN_CHARS) -> str:
    """A server's words in one line of bounded length, with nothing in it that a terminal or log would obey."""
    return one_line(text.strip(), limit)


def fault_of_text(text: str, own_rules: tuple[TextRule, ...] = ()) -> TaskFault:
    """Class an error text of the server. An unknown text is transient: it is tried again, but not for ever.

    ``own_rules`` come before those of Ollama, which hands on what llama-server and CUDA say.
    """
    shown = shown_text(text) or "the server gave no reason"
    if len(text) > 2 * _READ_CHARS:
        text = f"{text[:_READ_CHARS]}\n{text[-_READ_CHARS:]}"
    for rule in (*own_rules, *_TEXT_RULES):
        if rule.pattern.search(text):
            return TaskFault(rule.fault, rule.kind, shown)
    return TaskFault("transient", "server_error", shown)


def fault_of_status(status: int, body: str, *, endpoint: str) -> TaskFault:
    """Class a reply whose status is not 200. ``body`` is its text as received."""
    if 300 <= status < 400:
        what = f"HTTP {status}: it sends requests elsewhere, and redirects are not followed; is this URL an Ollama server?"
        return TaskFault("infra", "redirected", what)
    text = error_text(body)
    if text is None:
        return _foreign_status(status, body)
    fault, kind = _class_of_status(status, text, endpoint)
    advice = _ADVICE.get(kind, "")
    return TaskFault(fault, kind, f"HTTP {status}: {shown_text(text)}{advice}")


def _class_of_status(status: int, text: str, endpoint: str) -> tuple[FaultClass, str]:
    known = fault_of_text(text)
    # Embedding answers 400 to whatever fails after loading, a dead runner included: only the text can tell.
    text_decides = (
        status >= 500
        or known.kind == "too_long"
        or (status == 400 and endpoint == "/api/embed" and known.kind != "server_error")
    )
    match status:
        case 404:
            return "deterministic", "model_missing"
        case 401 | 403:
            return "deterministic", "forbidden"
        case 408 | 429 | 499 | 502 | 503 | 504:
            return "transient", "busy"
        case _ if text_decides:
            return known.fault, known.kind
        case _:
            return "deterministic", "bad_request"


def _foreign_status(status: int, body: str) -> TaskFault:
    """An error that is not in Ollama's form: a proxy or another program answers, or our Host header was refused."""
    if status == 403:
        return TaskFault(
            "infra", "forbidden", "HTTP 403: the server refuses this address; use a loopback URL or set OLLAMA_HOST"
        )
    if status == 503:
        return TaskFault("transient", "busy", f"HTTP 503: {shown_text(body)}")
    return TaskFault(
        "infra",
        "garbage",
        f"HTTP {status} without an Ollama error: {shown_text(body, 120)!r}; is this URL an Ollama server?",
    )


def error_text(body: str) -> str | None:
    """The text in ``{"error": "…"}`` (or the nested form); None if the body is not of that form."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else None


def fault_of_transport(error: BaseException, *, url: str) -> TaskFault:
    """Class a broken connection: always the server's or the host's fault, never the task's."""
    what = shown_text(f"{type(error).__name__}: {error}")
    if isinstance(error, ForeignServer):
        return TaskFault("infra", "foreign_server", str(error))
    if isinstance(error, ConnectionRefusedError):
        return TaskFault("infra", "server_down", f"nothing listens at {url}; is the server running?")
    if isinstance(error, (ConnectionError, http.client.IncompleteRead)):
        return TaskFault(
            "infra", "connection_lost", f"the server at {url} closed the connection before its answer was complete ({what})"
        )
    if isinstance(error, (http.client.HTTPException, urllib3.exceptions.HTTPError)):
        return TaskFault("infra", "garbage", f"what answers at {url} does not speak HTTP ({what})")
    return TaskFault("infra", "server_down", f"cannot reach {url} ({what})")
