"""``[[workers]]`` with a ``url``: cards of other machines, at a relay there. What is wrong with them, and where they are.

Pure. Messages never show a token, nor a URL that may hold a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from swarm.config.settings import Settings, WorkerSpec

EXAMPLE_URL = "http://box2:11500/cards/gpu0"
_SHAPE = f"write it as {EXAMPLE_URL}; `swarm serve --relay` prints it on that machine"
_CARD_PATH = re.compile(r"/cards/([A-Za-z0-9][A-Za-z0-9_-]{0,31})/?").fullmatch
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+").fullmatch
"""As RFC 6750 has it."""
_NEVER = re.compile(r"[^A-Za-z0-9._-]")
THIS_NODE = "local"
"""The machine that the queue is on; never the name of another one."""


class RelayPlace(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a card of another machine is to be had. The token is not in it: plans are written down for all to read."""

    node: str
    """The machine."""
    card: str
    """``gpu0``."""
    own_token: bool = True
    """Its token is in ``[[workers]]`` of this name; else in ``nodes/token``."""


class CardUrl(NamedTuple):
    """The URL of a card at a relay, taken apart."""

    base: str
    """``http://box2:11500``."""
    host: str
    port: int
    card: str

    @property
    def url(self) -> str:
        """In the one form in which two are compared."""
        return f"{self.base}/cards/{self.card}"


def card_url(text: str) -> CardUrl | None:
    """A card's URL; None for any other text."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        return None
    card = _CARD_PATH(parts.path)
    if parts.scheme != "http" or not host or card is None or re.search(r"\s", text):
        return None
    if "@" in parts.netloc or parts.query or parts.fragment:
        return None
    port = port or 80
    shown = f"[{host}]" if ":" in host else host
    return CardUrl(f"http://{shown}:{port}", host, port, card[1])


def relay_problems(settings: Settings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every finding about them, with the key it is about."""
    urls: dict[str, int] = {}
    places = relay_places(settings.workers)
    for index, spec in enumerate(settings.workers):
        for key, text in _entry_problems(spec):
            yield ("workers", index, key) if key else ("workers", index), text
        if spec.name in places and places[spec.name][1].node == THIS_NODE:
            key = "url" if spec.node is None else "node"
            yield ("workers", index, key), f"{THIS_NODE!r} is the machine of the queue; give that one another name with node"
        found = card_url(spec.url or "")
        if found is not None and found.url in urls:
            yield (
                ("workers", index, "url"),
                f"{found.url} is the card of workers[{urls[found.url]}] too; a card has one worker",
            )
        elif found is not None:
            urls[found.url] = index


def _entry_problems(spec: WorkerSpec) -> Iterator[tuple[str, str]]:
    if spec.url is None:
        for key in ("token", "token_env", "node"):
            if getattr(spec, key) is not None:
                yield key, f"belongs to a url, which is missing ({EXAMPLE_URL})"
        return
    yield from _url_problems(spec.url)
    for key, given in (
        ("port", spec.port is not None),
        ("ollama_url", spec.ollama_url is not None),
        ("gpus", bool(spec.gpus)),
    ):
        if given:
            yield key, "is for a server on this machine; beside url (a card of another one) leave it out"
    if spec.token is not None and spec.token_env is not None:
        yield "token", "give token or token_env, not both"
    elif spec.token is None and spec.token_env is None:
        yield "", "has a url but no token; set token_env to the variable that holds the one which the relay printed"
    elif spec.token is not None and _TOKEN(spec.token) is None:
        yield "token", "is no token: copy it as the relay printed it (`swarm config show` never shows it)"


def _url_problems(url: str) -> Iterator[tuple[str, str]]:
    if card_url(url) is not None:
        return
    if "@" in url or "?" in url or "#" in url:
        yield "url", f"holds more than an address, such as a password, which belongs into token_env; {_SHAPE}"
    elif url.startswith("https://"):
        yield "url", f"relays speak plain http: go through a VPN or an ssh tunnel, and {_SHAPE}"
    elif not url.startswith("http://"):
        yield "url", f"{url!r} is no http:// address; {_SHAPE}"
    elif "/cards/" not in url:
        yield "url", f"{url!r} names no card; {_SHAPE}"
    else:
        yield "url", f"{url!r} is no address of a card; {_SHAPE}"


def relay_places(specs: Sequence[WorkerSpec]) -> dict[str, tuple[CardUrl, RelayPlace]]:
    """Of each of these that has a url, by its name: the card's URL and place.

    A machine without a name of its own is called by its host; where several relays share that, by host and port.
    """
    found = {spec.name: (spec, card) for spec in specs if (card := card_url(spec.url or "")) is not None}
    ports: dict[str, set[int]] = {}
    for _, card in found.values():
        ports.setdefault(card.host, set()).add(card.port)

    def node(spec: WorkerSpec, card: CardUrl) -> str:
        host = _NEVER.sub("-", card.host)[:50].lstrip("._-") or "node"
        return spec.node or (host if len(ports[card.host]) == 1 else f"{host}-{card.port}")

    return {name: (card, RelayPlace(node=node(spec, card), card=card.card)) for name, (spec, card) in found.items()}


class RelayWarning(msgspec.Struct, frozen=True, kw_only=True):
    """A worker whose card is in another machine, and what is not well about it."""

    name: str
    what: str
    next: str


def unset_tokens(settings: Settings, env: Mapping[str, str]) -> Iterator[RelayWarning]:
    """Workers whose token's variable is not set: they cannot start."""
    for spec in settings.workers:
        if spec.token_env is not None and not env.get(spec.token_env, "").strip():
            what = f"${spec.token_env}, the variable of its token (token_env), is not set"
            yield RelayWarning(
                name=spec.name, what=what, next=f"export {spec.token_env}=… with what the relay printed, before `swarm up`"
            )


def relay_warnings(settings: Settings, *, open_file: bool) -> Iterator[RelayWarning]:
    """What works and yet tells others. ``open_file``: others may read the file. A host's name is not looked up."""
    for spec in settings.workers:
        card = card_url(spec.url or "")
        if card is None:
            continue
        if _is_public(card.host):
            what = f"{card.base} is reached over a public network, and prompts, answers and the token go there unencrypted"
            yield RelayWarning(name=spec.name, what=what, next="use its address in a VPN, or an ssh tunnel")
        if spec.token is not None and open_file:
            what = "its token is in a configuration file that others may read"
            yield RelayWarning(name=spec.name, what=what, next="chmod 600 that file, or use token_env")


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
