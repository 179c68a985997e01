"""Proves that our own model server answers, before anything is sent to it.

A port is free for a moment whenever its server ends; whoever listened there then would receive the prompts. So the kernel is
asked for the far end of each new connection: its user must be ours, its process the server that we started.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping

from swarm.core.worker import ProcessIdentity
from swarm.proc.env_markers import find_marked
from swarm.proc.ports import Owner, OwnerUnknown, accepted_by, describe, holder_of, holds, listener, user_words

log = logging.getLogger(__name__)
_HINT = "stop it, choose another ollama.base_port, or use that server with ollama_url in [[workers]]"


class ForeignServer(OSError):
    """Another program has the port of one of our servers."""


class ServerProof:
    """An ``OnConnect`` for one server. Thread-safe."""

    def __init__(self, markers: Mapping[str, str], *, known: Callable[[], ProcessIdentity | None]) -> None:
        """``markers`` stand in the environment of the server and its runners; ``known`` is the process it most likely is."""
        self._markers = dict(markers)
        self._known = known
        self._warned = False

    def __call__(self, sock: socket.socket, deadline: float) -> None:
        """Return if the far end of this connection is our server.

        Raises ``ForeignServer`` ``TimeoutError`` when nobody has accepted it by ``deadline``
        (monotonic seconds), ``ConnectionResetError`` when it ended before.
        """
        try:
            owner = accepted_by(sock, deadline)
        except OwnerUnknown as error:
            self._warn(error)
            return
        stranger = self._stranger(owner)
        if stranger:
            port = sock.getpeername()[1]
            raise ForeignServer(f"port {port} is taken by {stranger}, not by our server: nothing was sent; {_HINT}")

    def stranger_on(self, port: int) -> str:
        """The process that listens there instead of our server, in words; empty if ours, none or unknown."""
        try:
            owner = listener(port)
        except OwnerUnknown as error:
            self._warn(error)
            return ""
        return self._stranger(owner) if owner is not None else ""

    def _stranger(self, owner: Owner) -> str:
        if owner.uid != os.geteuid():
            pid = holder_of(owner.inode)
            return f"{user_words(owner.uid)}" + (f", {describe(pid)}" if pid is not None else "")
        hidden = False
        for process in self._ours():
            held = holds(process, owner.inode)
            if held:
                return ""
            hidden = hidden or held is None
        pid = holder_of(owner.inode)
        if pid is None and hidden:
            return ""  # a server that lets nobody look at it: its user is all that can be known
        return describe(pid) if pid is not None else "a process that cannot be seen"

    def _ours(self) -> Iterator[ProcessIdentity]:
        known = self._known()
        if known is not None:
            yield known
        for process in find_marked(**self._markers):
            if process != known:
                yield process

    def _warn(self, error: OwnerUnknown) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "this host does not report who listens on a port (%s): a foreign process on a server's port goes unnoticed",
                error,
            )
