"""TCP ports: a free one, the process that listens on one, and the one at the other end of a local connection.

The kernel says whose a socket is: one look-up of one socket through ``NETLINK_SOCK_DIAG``, however many connections there
are; where that is forbidden or missing, the rows of ``/proc/net/tcp`` and ``tcp6``.
"""

from __future__ import annotations

import errno
import os
import pwd
import random
import select
import socket
import struct
import time
from typing import NamedTuple

import psutil

from swarm.core.worker import ProcessIdentity
from swarm.plain_text import one_line
from swarm.proc.identity import all_pids, is_same

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
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
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
        owner = listener(port, host if ":" in host else socket.gethostbyname(host)) or listener(port)
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


_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_ANSWER = struct.Struct("=BBBB48xIIIII")
_LISTEN = 10
_PAUSE_S = 0.0001
_PAUSE_MAX_S = 0.02


class Owner(NamedTuple):
    """The owner of a socket. ``inode`` 0: no process has accepted the connection yet."""

    uid: int
    inode: int


class _Place(NamedTuple):
    """One end of a connection."""

    host: bytes
    port: int


class OwnerUnknown(Exception):
    """This host does not say who owns a socket."""


def accepted_by(sock: socket.socket, deadline: float) -> Owner:
    """Whose the other end of a connection to this host is; waits until a process has accepted it.

    Raises ``TimeoutError`` at ``deadline`` (monotonic seconds), ``ConnectionResetError`` when the connection ends before, by
    either end, and ``OwnerUnknown``.
    """
    here, there = _place(sock.getsockname()), _place(sock.getpeername())
    pause_s = _PAUSE_S
    while True:
        owner = _look_up(there, here)
        if owner is not None and owner.inode:
            return owner
        if owner is None and _look_up(here, there) is None:
            raise OwnerUnknown("no trace of our own connection")
        if owner is None or _has_ended(sock):
            raise ConnectionResetError(errno.ECONNRESET, "the connection ended before anybody accepted it")
        if time.monotonic() + pause_s > deadline:
            raise TimeoutError("nobody accepted the connection")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_MAX_S)


def _has_ended(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


def listener(port: int, host: str = "127.0.0.1") -> Owner | None:
    """The process that would accept a new connection to that address; None: there is none. Raises ``OwnerUnknown``."""
    return _look_up(_place((host, port)), None)


def holds(process: ProcessIdentity, inode: int) -> bool | None:
    """Whether that very process has the socket open; None: it does not let us look."""
    try:
        found = _has_open(process.pid, inode)
    except PermissionError:
        return None if is_same(process) else False
    return found and is_same(process)


def holder_of(inode: int) -> int | None:
    """The number of a process that has the socket open, as far as we may look."""
    for pid in all_pids():
        try:
            if _has_open(pid, inode):
                return pid
        except PermissionError:
            continue  # another user's
    return None


def user_words(uid: int) -> str:
    """A user in words: ``user alice (uid 1000)``."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"user with uid {uid}"


def _has_open(pid: int, inode: int) -> bool:
    wanted = f"socket:[{inode}]"
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return False
    for number in numbers:
        try:
            if os.readlink(f"{folder}/{number}") == wanted:
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed in the meantime
    return False


def _place(address: tuple[str, int] | tuple[str, int, int, int]) -> _Place:
    host, port = address[:2]
    return _Place(socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host.partition("%")[0]), port)


def _look_up(local: _Place, remote: _Place | None) -> Owner | None:
    """The owner of the socket at ``local`` that is connected to ``remote``, or (None) listens. None: there is none."""
    try:
        return _ask_kernel(local, remote)
    except OSError:
        return _read_table(local, remote)


def _ask_kernel(local: _Place, remote: _Place | None) -> Owner | None:
    """Raises ``OSError`` where the kernel does not answer such questions."""
    family = socket.AF_INET6 if len(local.host) == 16 else socket.AF_INET
    far = remote or _Place(bytes(len(local.host)), 0)
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    body += struct.pack(">HH16s16s", local.port, far.port, local.host, far.host)
    body += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
        kernel.sendto(header + body, (0, 0))
        answer = kernel.recv(8192)
    _size, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, os.strerror(-code))
    _family, state, *_, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    # For a connection that is not there the kernel answers with the socket that listens.
    return Owner(uid, inode) if (state == _LISTEN) == (remote is None) else None


def _read_table(local: _Place, remote: _Place | None) -> Owner | None:
    """The same from ``/proc``. Raises ``OwnerUnknown``."""
    here = _forms(local, any_host=remote is None)
    there = _forms(remote) if remote is not None else frozenset()
    read = 0
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="ascii") as table:
                read += 1
                for fields in map(str.split, table):
                    if len(fields) < 10 or fields[1] not in here:
                        continue
                    if fields[2] in there if remote is not None else int(fields[3], 16) == _LISTEN:
                        return Owner(int(fields[7]), int(fields[9]))
        except OSError:
            continue  # a kernel without IPv6 has no tcp6
    if not read:
        raise OwnerUnknown("neither sock_diag nor /proc/net/tcp can be asked")
    return None


def _forms(place: _Place, *, any_host: bool = False) -> frozenset[str]:
    """A place in the tables' notation, ``0100007F:2CAB``: words in this machine's order; IPv4 is in either table."""
    hosts = [place.host]
    if len(place.host) == 4:
        hosts.append(bytes(10) + b"\xff\xff" + place.host)
    if any_host:
        hosts += [bytes(4), bytes(16)]
    words = [struct.unpack(f"={len(host) // 4}I", host) for host in hosts]
    return frozenset("".join(f"{word:08X}" for word in one) + f":{place.port:04X}" for one in words)
