r"""Renders the page's templates: everything escaped, control characters written out, nothing from outside allowed.

* A template's values are text of others (names of models, prompts, errors): Jinja escapes all of them, and what an editor or
  a terminal would obey is written out (``\u202e``).
* The Content-Security-Policy lets the browser load from this server alone and run no inline script.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from swarm import plain_text
from swarm.clock import iso_of, parse_iso
from swarm.http.parts import Client, Scope
from swarm.views.words import count, duration, percent, plural, rate

STATIC = "/static/"
"""Style and script; they hold nothing of the swarm, so that the page to sign in may use them."""
KINDS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "img-src", "connect-src", "form-action")),
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

STATES = {
    "bad": {"dead", "hung", "card_lost", "failed", "corrupt", "stuck"},
    "warn": {
        "stale",
        "unready",
        "draining",
        "loading",
        "cancelled",
        "incomplete",
        "waiting",
        "retried",
        "starting",
        "expired",
        "cancelling",
    },
    "ok": {"busy", "running", "processing", "completed", "finished", "loaded", "in_progress", "finalizing"},
}
"""States by the colour that they are shown in."""


@cache
def static_file(name: str) -> tuple[bytes, str]:
    """One of ``KINDS``: its bytes, and a mark that changes with them."""
    data = (files("swarm.http.page") / "static" / name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:12]


def static_url(name: str) -> str:
    """Where the browser gets it; a new version has a new address, so that it may keep each for good."""
    return f"{STATIC}{name}?v={static_file(name)[1]}"


def render_page(request: Request, template: str, *, status: int = 200, **values: object) -> Response:
    """A page as the whole answer. ``client`` in it is who asks, None for who has not signed in."""
    client: Client | None = getattr(request.state, "client", None)
    text = environment().get_template(template).render(path=request.url.path, client=client, **values)
    # Names of files need not be UTF-8: halves that stand for their bytes are written out.
    return Response(
        text.encode("utf-8", "backslashreplace"),
        status,
        {**HEADERS, "Cache-Control": "no-store"},
        "text/html; charset=utf-8",
    )


@cache
def environment() -> Environment:
    """The templates with their filters."""
    made = Environment(
        loader=PackageLoader("swarm.http.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "duration": duration,
        "count": count,
        "rate": rate,
        "percent": percent,
        "number": _number,
        "moment": moment,
        "clock": clock,
        "cut": _cut,
        "commands": _commands,
        "dash": _dash,
        "floor_percent": _floor_percent,
        "plural": plural,
        "state_class": _state_class,
    }
    made.globals |= {"mib": mib_words, "static_url": static_url, "may": _may}
    return made


def _finalized(value: object) -> object:
    """What is written for a value: text with control characters and changes of direction made visible."""
    if isinstance(value, Markup):
        return value
    return plain_text.lines(value) if isinstance(value, str) else value


def _may(client: Client | None, scope: str) -> bool:
    """Whether the client's scope includes this one."""
    order = list(Scope)
    return client is not None and order.index(client.scope) >= order.index(Scope(scope))


def _state_class(word: str) -> str:
    """The colour of a state; without one it is ordinary, or not known here."""
    return next((name for name, words in STATES.items() if word in words), "quiet")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _commands(text: str) -> Markup:
    """A text with what stands between backticks, as commands do, set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(plain_text.lines(text))
    shown = (escape(plain_text.lines(part)) for part in parts)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(shown))


def _dash(text: str) -> str:
    return "–" if text == "-" else text


def _floor_percent(share: float) -> str:
    """``99%`` until all is done."""
    return f"{math.floor(share)}%"


def mib_words(used: int | None, total: int | None) -> str:
    """``7.8/24.0 GiB``; ``?`` for what the driver did not say."""
    if used is None and total is None:
        return "–"
    return "/".join("?" if size is None else f"{size / 1024:.1f}" for size in (used, total)) + " GiB"


def _number(value: float | None, digits: int = 0) -> str:
    """``1,234``; ``–`` when unknown."""
    return "–" if value is None else f"{value:,.{digits}f}"


def moment(iso: str | None, now_s: float | None = None) -> Markup | str:
    """``3m12s ago`` with the absolute time in its title; what is no time is shown as it is."""
    if not iso:
        return "–"
    try:
        at_s = parse_iso(iso)
    except ValueError:
        return iso
    now_s = datetime.now(UTC).timestamp() if now_s is None else now_s
    ago_s = now_s - at_s
    words = f"{_rough(ago_s)} ago" if ago_s >= 0 else f"in {_rough(-ago_s)}"
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(iso, words)


def _rough(seconds: float) -> str:
    return f"{int(seconds)}s" if seconds < 60 else duration(seconds)


def clock(iso: str | None) -> Markup | str:
    """The time of day, with the date in its title."""
    if not iso:
        return "–"
    try:
        absolute = iso_of(parse_iso(iso))
    except ValueError:
        return iso
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(absolute, absolute[11:19])
