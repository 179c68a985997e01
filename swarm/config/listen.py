"""Where a server listens: ``[HOST:]PORT`` as it is typed, and the URL of it.

An IPv6 address is typed in brackets: ``[::1]:8080``.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from swarm.config.settings import Settings
from swarm.errors import InputError

DEFAULT_PORT = 8080
"""Of ``swarm http``, where neither an option nor the configuration names one."""
LAST_PORT = 65535
_FORM = re.compile(r"(?:(?P<host>\[[^\[\]]*\]|[^\[\]:]*):)?(?P<port>[^:]*)")
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
_NUMBERS = re.compile(r"[0-9.]+")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    """A name or a literal address, IPv6 without brackets."""
    port: int

    @property
    def text(self) -> str:
        """As ``parse_listen`` reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return f"http://{self.text}"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine reach it. A name that is not ``localhost`` counts as reachable."""
        literal = literal_address(self.host)
        return self.host.lower() == "localhost" if literal is None else literal.is_loopback

    @property
    def is_every(self) -> bool:
        """Whether it is every address of this machine."""
        literal = literal_address(self.host)
        return literal is not None and literal.is_unspecified


def literal_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def parse_listen(text: str, option: str, host: str, *, least: int = 1) -> Address:
    """``[HOST:]PORT``; ``host`` is that of a text without one. Raises ``InputError`` that names ``option``.

    ``least`` 0: port 0 is any free one.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        hint = "an IPv6 address needs brackets: [::1]:8080" if text.count(":") > 1 else None
        raise InputError(f"{option} {text!r} is not [HOST:]PORT", hint=hint)
    port = found["port"]
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and least <= int(port) <= LAST_PORT):
        hint = f"[HOST:]PORT, such as {port}:{DEFAULT_PORT}" if found["host"] is None and port else None
        raise InputError(
            f"{option} {text!r}: the port must be a number from {least} to {LAST_PORT}, not {port!r}", hint=hint
        )
    if found["host"] is None:
        return Address(host, int(port))
    return Address(_host(found["host"], f"{option} {text!r}"), int(port))


def _host(text: str, where: str) -> str:
    if text.startswith("["):
        literal = literal_address(text[1:-1])
        if literal is None or literal.version != 6:
            raise InputError(f"{where}: {text} is no IPv6 address")
        return text[1:-1]
    if _NUMBERS.fullmatch(text) and literal_address(text) is None:
        raise InputError(f"{where}: {text} is no IPv4 address")
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise InputError(f"{where}: {text!r} is no host name or address", hint="0.0.0.0 is every address of this machine")
    return text


def address_of(url: str) -> Address:
    """The address of a URL that ``Address.url`` made. Raises ``ValueError``."""
    parts = urlsplit(url)
    return Address(parts.hostname or "", parts.port or 0)


def http_address(settings: Settings) -> Address | None:
    """Where the HTTP server listens; None where no port is set."""
    http = settings.http
    return None if http.port is None else Address(http.host.removeprefix("[").removesuffix("]"), http.port)


def needs_tokens(settings: Settings) -> bool:
    """Whether every request needs a token: others than this machine may reach the server, or it is told to ask for one."""
    address = http_address(settings)
    if address is None:
        return False
    return settings.http.tokens == "always" or not address.is_loopback or bool(settings.http.hosts)


def with_http(settings: Settings, address: Address) -> Settings:
    """These settings with the HTTP server at that address."""
    http = msgspec.structs.replace(settings.http, host=address.host, port=address.port)
    return msgspec.structs.replace(settings, http=http)
