"""Settings of the HTTP server and of live requests."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from swarm.config.section import Count, HostText, NotNegative, OriginText, Port, Positive, Section


class HttpSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[http]``: the HTTP server; needs the extra ``http``."""

    host: str = "127.0.0.1"
    port: Port | None = None
    """Unset: `swarm up` starts none."""
    stop_grace_s: NotNegative = 30.0
    """Once asked to stop it takes no more requests, and those that run have so long to finish."""
    tokens: Literal["auto", "always"] = "auto"
    """``auto``: each request needs one unless only this machine reaches the server: a loopback address, and no ``hosts``."""
    hosts: tuple[HostText, ...] = ()
    """Names under which clients reach it, as through a proxy; its address and ``localhost`` are known."""
    origins: tuple[OriginText, ...] = ()
    """Other web pages that may use it: ``https://chat.example.org``."""
    proxies: tuple[str, ...] = ()
    """Addresses of proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""
    max_body_mib: Count = 32
    """A larger request is refused; files have a limit of their own."""
    read_timeout_s: Positive = 30.0
    """Longest time to wait for the rest of a request."""
    max_connections: Count = 2048
    """More connections at once are refused."""
    client_requests: Count = 256
    """A token's requests at once, streams of events included; more are refused for now."""
    max_upload_mib: Count = 512
    """A larger file is refused."""
    max_batch_requests: Count = 200_000
    """A batch whose file has more requests fails."""


class LiveSettings(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[live]``: requests that a client of the HTTP server waits for; they go before batch work."""

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Live requests take at most this share of a card's slots from batch work, but always one."""
    max_wait_s: Positive = 30.0
    """So long a request waits for a slot or for its model before it is refused."""
    queue_max: Count = 256
    """More requests than this do not wait; they are refused at once."""
