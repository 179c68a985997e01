"""TCP ports: finding a free one, and naming who holds one."""

from __future__ import annotations

import errno
import os
import random
import socket

import psutil

from swarm.plain_text import one_line
from swarm.proc.peer import OwnerUnknown, holder_of, listener, user_words

_COMMAND_CHARS = 120
_FIRST_PORT = 16384
_USUAL_FIRST_CLIENT_PORT = 32768


def free_port(host: str = "127.0.0.1", room: int = 8) -> int:
    """A port with so many free ones from it on. It is only advice: another process may take it first.

    It lies below those that the kernel gives to outgoing connections, any of which could take it in the meantime.
    """
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            end = int(file.read().split()[0])
    except (OSError, ValueError):
        end = _USUAL_FIRST_CLIENT_PORT
    while True:
        port = random.randrange(_FIRST_PORT, max(end, _FIRST_PORT + 1000) - room)
        if all(is_free(host, port + n) for n in range(room)):
            return port


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises ``OSError`` for an address this machine does not have."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        # Connections of a server that just ended linger for a minute; a new server may listen all the same.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def who_listens(port: int, host: str = "127.0.0.1") -> str | None:
    """Names the holder of a port: ``pid 4711 (ollama serve)``, and another user. None if nobody listens there."""
    try:
        owner = listener(port, socket.gethostbyname(host)) or listener(port)
    except (OwnerUnknown, OSError):
        return None
    if owner is None:
        return None
    pid = holder_of(owner.inode)
    whose = "" if owner.uid == os.geteuid() else user_words(owner.uid)
    if pid is None:
        return f"a process of {whose or 'this user'}"
    return f"{describe(pid)} of {whose}" if whose else describe(pid)


def describe(pid: int) -> str:
    """A process in words: ``pid 4711 (ollama serve)``."""
    try:
        command = one_line(" ".join(psutil.Process(pid).cmdline()), _COMMAND_CHARS)
    except psutil.NoSuchProcess:
        return f"pid {pid} (ended)"
    except psutil.AccessDenied:
        command = ""
    return f"pid {pid} ({command})" if command else f"pid {pid}"
