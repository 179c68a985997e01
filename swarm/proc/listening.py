"""Sockets that listen at an address, or a message that says who is in the way."""

from __future__ import annotations

import errno
import socket
from typing import Any

from swarm.config.listen import Address
from swarm.errors import EngineError
from swarm.proc.ports import who_listens

BACKLOG = 2048


def listening_sockets(address: Address, *, stalled_ms: int, hint: str) -> list[socket.socket]:
    """Bound sockets, one for each address that the host has. Raises ``EngineError``, naming who has the port.

    ``stalled_ms``: a connection whose far end takes nothing of what was sent for so long is cut by the kernel. ``hint``:
    what to do about a port that is taken.
    """
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    try:
        for family, _kind, _proto, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            try:
                sockets.append(_bound(family, place, stalled_ms))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise
                refused = error  # localhost is ::1 too, where there is IPv6
        if not sockets and refused is not None:
            raise refused
    except (OSError, UnicodeError) as error:
        for one in sockets:
            one.close()
        raise _refusal(address, error, hint) from error
    return sockets


def _bound(family: int, place: Any, stalled_ms: int) -> socket.socket:  # noqa: ANN401 - as getaddrinfo gives it
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart takes the port at once
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stalled_ms)  # its connections inherit it
        one.bind(place)
        one.listen(BACKLOG)  # who connects from now on is answered as soon as the application is ready
    except OSError:
        one.close()
        raise
    return one


def _refusal(address: Address, error: OSError | UnicodeError, hint: str) -> EngineError:
    host, port = address
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        holder = who_listens(port, host) or "somebody"
        return EngineError(f"port {port} on {host} is taken by {holder}", hint=hint)
    why = error.strerror if isinstance(error, OSError) else "this is no valid host name"
    low = isinstance(error, PermissionError)
    return EngineError(f"cannot listen on {address.text}: {why}", hint="ports below 1024 belong to root" if low else hint)
