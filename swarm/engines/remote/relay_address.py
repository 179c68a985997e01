"""Where a card of another machine is, and by what the relay there knows who asks."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from urllib.parse import quote

import msgspec

from swarm.core.nodes.relay_wire import HOLDER, WIRE, WIRE_HEADER
from swarm.filesystem.entries import read_file

_MACHINE_ID = "/etc/machine-id"


class RelayAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A card's base URL at its relay, and what is sent with each request. Never shown: it holds the token."""

    url: str
    token: str
    holder: str

    def __repr__(self) -> str:
        return f"RelayAddress({self.url})"

    @property
    def node_url(self) -> str:
        """Base URL of the relay."""
        return self.url.rpartition("/cards/")[0] or self.url

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"Authorization": f"Bearer {self.token}", HOLDER: self.holder, WIRE_HEADER: str(WIRE)}


def holder_of(root: Path) -> str:
    """How this queue root calls itself to relays: an id, and where it is, for people. Raises ``OSError``."""
    status = os.stat(root)
    host = socket.gethostname()
    known = f"{_machine_id() or host}:{status.st_dev}:{status.st_ino}"
    name = hashlib.blake2b(known.encode(), digest_size=8, person=b"swarm-holder").hexdigest()
    return f"{name} {quote(host)}:{quote(str(root))}"


def _machine_id() -> str:
    try:
        return read_file(_MACHINE_ID, 256).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        return ""
