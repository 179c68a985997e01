"""Who may do what: the checks that a request passes before anything else sees it.

* ``Host`` must be an address, ``localhost``, the name that the server listens on, or one of ``[http] hosts``: a web page
  whose own name was made to lead here (DNS rebinding) comes under that name.
* A request with an ``Origin`` comes from a web page: this server's own, or one of ``[http] origins``.
* A token is in ``Authorization: Bearer``, ``x-api-key`` or, signed in on the page, behind a cookie. Where none is needed
  everybody is ``local`` and may do everything, but for what a proxy has passed on: that comes from elsewhere.
* Without a token a key that is none of ours does not matter: many clients cannot do without one.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Scope as AsgiScope

from swarm.config.listen import http_address, literal_address, needs_tokens
from swarm.config.settings import Settings
from swarm.core.access import Scope
from swarm.errors import QueueError
from swarm.http.access.scopes import Rule
from swarm.http.access.session import cookie_name, signed_in
from swarm.http.answers import ApiError
from swarm.http.parts import Client
from swarm.queue.stores.tokens import LOCAL, PREFIX, TokenBook, TokenRecord

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL_CLIENT = Client(LOCAL, Scope.ADMIN)
_READ_HEADERS = frozenset({b"host", b"origin", b"authorization", b"x-api-key", b"cookie", b"sec-fetch-site", b"accept"})
_PROXY_HEADERS = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Asked:
    """The head of a request, as far as access goes."""

    method: str
    path: str
    headers: dict[bytes, str]
    """Those of ``_READ_HEADERS``."""
    proxied: bool
    """Somebody says that he has passed it on."""
    has_body: bool
    length: int | None
    """Of the body, where it is said."""

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.method not in SAFE_METHODS

    @property
    def wants_page(self) -> bool:
        """Whether it is a browser that goes to a page."""
        return self.method == "GET" and "text/html" in self.headers.get(b"accept", "")


def asked_of(scope: AsgiScope) -> Asked:
    """The head of a request. Raises ``ApiError`` for a header that says two things."""
    headers: dict[bytes, str] = {}
    proxied = has_body = False
    length: int | None = None
    for name, value in scope["headers"]:
        if name in _READ_HEADERS:
            if name in headers and name != b"cookie":
                raise ApiError(400, f"the header {name.decode()} is there twice")
            said = value.decode("latin-1")
            headers[name] = f"{headers[name]}; {said}" if name in headers else said
        elif name in _PROXY_HEADERS:
            proxied = True
        elif name == b"content-length" and value.isdigit():
            length = int(value)
            has_body = has_body or length > 0
        elif name == b"transfer-encoding":
            has_body = True
    return Asked(scope["method"], scope["path"], headers, proxied, has_body, length)


class AccessPolicy:
    """Judges requests; for one thread."""

    def __init__(self, settings: Settings, tokens: TokenBook) -> None:
        self._tokens = tokens
        self._needed = needs_tokens(settings)
        self._origins = frozenset(settings.http.origins)
        self._cookie = cookie_name(settings)
        address = http_address(settings)
        names = {"localhost", *settings.http.hosts}
        if address is not None:
            names.add(address.host)
            if not address.is_loopback:
                names.add(socket.gethostname())
        self._hosts = frozenset(name.lower() for name in names)
        self._host_is_ours = lru_cache(maxsize=64)(self._is_ours)

    def admit(self, asked: Asked, rule: Rule) -> Client | None:
        """Who asks; None for somebody unknown on a path that is open to everybody. Raises ``ApiError``."""
        self._check_host(asked)
        self._check_origin(asked)
        client = self._identify(asked)
        if rule.scope is None:
            return client
        if client is None:
            raise _unknown(asked)
        if not client.scope.covers(rule.scope):
            text = f"this needs the scope {rule.scope}; the token {client.name} has {client.scope}"
            hint = f"`swarm token create NAME --scope {rule.scope}` makes one that may"
            raise ApiError(403, text, kind="permission_error", code="insufficient_scope", hint=hint)
        return client

    def is_valid(self, client: Client) -> bool:
        """Whether a client that was admitted would be admitted again: its token was not revoked."""
        if client.name == LOCAL:
            return True
        try:
            return self._tokens.named(client.name) is not None
        except QueueError:
            return False

    def _check_host(self, asked: Asked) -> None:
        host = asked.headers.get(b"host", "")
        if not self._host_is_ours(host.lower()):
            text = f"the host {host[:100]!r} is not one of this server's" if host else "the header host is missing"
            hint = "name it in [http] hosts, if it is meant to lead here"
            raise ApiError(403 if host else 400, text, kind="permission_error", code="host_not_allowed", hint=hint)

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]")
        return literal_address(name) is not None or name.rstrip(".") in self._hosts

    def _check_origin(self, asked: Asked) -> None:
        origin = asked.headers.get(b"origin")
        if origin is not None:
            host = asked.headers.get(b"host", "")
            own = origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
            if not own and origin not in self._origins:
                self._refuse_origin(f"the origin {origin[:100]!r}")
        elif asked.changes and asked.headers.get(b"sec-fetch-site", "none") in ("cross-site", "same-site"):
            self._refuse_origin("another web page")

    @staticmethod
    def _refuse_origin(who: str) -> None:
        text = f"{who} may not use this server"
        hint = "name it in [http] origins, if it is meant to"
        raise ApiError(403, text, kind="permission_error", code="origin_not_allowed", hint=hint)

    def _identify(self, asked: Asked) -> Client | None:
        token = _token_in(asked)
        try:
            if token is not None and (self._needed or asked.proxied or token.startswith(PREFIX)):
                return self._known(self._tokens.find(token))
            cookie = asked.headers.get(b"cookie")
            if cookie is not None and (record := signed_in(cookie, self._cookie, self._tokens, time.time())) is not None:
                self._check_cookie_use(asked)
                return self._known(record)
        except QueueError as error:
            raise ApiError(503, error.message, kind="server_error", code="tokens_unreadable", hint=error.hint) from error
        return None if self._needed or asked.proxied else LOCAL_CLIENT

    @staticmethod
    def _known(record: TokenRecord | None) -> Client | None:
        return None if record is None else Client(record.name, record.scope)

    @staticmethod
    def _check_cookie_use(asked: Asked) -> None:
        """Browsers say where what changes something comes from; who does not is no browser, and has no use for a cookie."""
        if asked.changes and b"origin" not in asked.headers and b"sec-fetch-site" not in asked.headers:
            raise ApiError(403, "a cookie alone is not enough here: the header origin is missing", kind="permission_error")


def _token_in(asked: Asked) -> str | None:
    kind, _, token = asked.headers.get(b"authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return asked.headers.get(b"x-api-key")


def _unknown(asked: Asked) -> ApiError:
    shown = _token_in(asked) is not None
    text = "this token is not valid" if shown else "a token is needed: Authorization: Bearer TOKEN"
    code = "invalid_api_key" if shown else "missing_api_key"
    return ApiError(
        401,
        text,
        kind="authentication_error",
        code=code,
        hint="`swarm token create NAME` on the machine of the swarm makes one",
        headers={"www-authenticate": 'Bearer realm="swarm"'},
    )
