"""The cookie of who has signed in on the page: the token's name and an end, signed with what is kept of the token.

* The token itself is in no cookie: browsers send cookies to every port of a host.
* It ends with its token: a revoked one signs nothing any more. Nothing is kept here, so a restart ends no session.
"""

from __future__ import annotations

import hashlib
import hmac

from swarm.config.settings import Settings
from swarm.queue.stores.tokens import TokenBook, TokenRecord

SESSION_S = 7 * 86_400.0


def cookie_name(settings: Settings) -> str:
    """Servers on two ports of a host share its cookies, so each has a name of its own."""
    return f"swarm_session_{settings.http.port or 0}"


def session_value(record: TokenRecord, now_s: float) -> str:
    """The cookie of somebody who has shown this token; ``now_s`` in seconds since 1970."""
    ends_s = int(now_s + SESSION_S)
    return f"{record.name}.{ends_s}.{_signature(record, ends_s)}"


def signed_in(cookies: str, name: str, tokens: TokenBook, now_s: float) -> TokenRecord | None:
    """The token with which somebody has signed in, by the header ``cookie``; None: nobody, or too long ago.

    Raises ``QueueError``.
    """
    for one in cookies.split(";"):
        key, _, value = one.strip().partition("=")
        parts = value.split(".")
        if key != name or len(parts) != 3 or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) < 12):
            continue
        record, ends_s = tokens.named(parts[0]), int(parts[1])
        if record is None or now_s >= ends_s:
            continue
        if hmac.compare_digest(_signature(record, ends_s).encode(), parts[2].encode("utf-8", "surrogateescape")):
            return record
    return None


def _signature(record: TokenRecord, ends_s: int) -> str:
    return hmac.new(record.key, f"page session {record.name} {ends_s}".encode(), hashlib.sha256).hexdigest()
