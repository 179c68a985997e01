"""``nodes/``: machines whose cards a node source found, the wish to drain one, and the token of their relays.

* ``<node>.json`` is the source's (the Ray driver, under its process lock). Replaced whole, unflushed: it is found out anew.
* ``<node>.drain`` is there while the node is to be drained.
* ``token`` is made once, mode 0600; one that others may read is refused.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat

import msgspec

from swarm.core.nodes.node_record import NodeRecord, NodesSeen
from swarm.errors import OddEntry, QueueError
from swarm.filesystem.entries import DirStamp, list_names, read_file, stamp_of, status_of
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, storage_faults

is_node_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}").fullmatch
is_token = re.compile(r"[A-Za-z0-9._~+/=-]{16,}").fullmatch
_MAX_BYTES = 1 << 20
_decode = msgspec.json.Decoder(NodeRecord).decode
log = logging.getLogger(__name__)


def write_node(layout: Layout, storage: Storage, record: NodeRecord) -> None:
    """Replace its record atomically. Raises ``StorageFault``."""
    with storage_faults("the record of a node cannot be written"):
        storage.make_dir(layout.nodes)
        storage.replace(layout.node(record.name), msgspec.json.encode(record), durable=False)


@storage_faults("the records of nodes cannot be read")
def read_nodes(layout: Layout) -> tuple[NodeRecord, ...]:
    """All of them by name; a damaged one is logged and left out. Raises ``StorageFault``."""
    found = (_load(layout, name.removesuffix(".json")) for name in sorted(_names(layout)) if name.endswith(".json"))
    return tuple(record for record in found if record is not None)


@storage_faults("the wish to drain a node cannot be read")
def drained_nodes(layout: Layout) -> frozenset[str]:
    """Names of nodes that are to be drained. Raises ``StorageFault``."""
    return frozenset(name.removesuffix(".drain") for name in _names(layout) if name.endswith(".drain"))


class NodeWatch:
    """What lies there now, read again only when something came or went; one look costs a ``stat``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stamp: DirStamp | None = None
        self._seen = NodesSeen()

    def look(self) -> NodesSeen:
        """The same object as long as nothing has changed. Raises ``StorageFault``."""
        with storage_faults("the records of nodes cannot be read"):
            now = stamp_of(self._layout.nodes)
        if now is None:
            self._stamp, found = None, NodesSeen()
        elif now.unchanged_since(self._stamp):
            return self._seen
        else:
            found = NodesSeen(read_nodes(self._layout), drained_nodes(self._layout))
            self._stamp = now
        if found != self._seen:
            self._seen = found
        return self._seen


def forget_nodes(layout: Layout) -> None:
    """Remove all records; wishes to drain and the token stay. Raises ``StorageFault``."""
    with storage_faults("the records of nodes cannot be removed"):
        for name in _names(layout):
            if name.endswith(".json"):
                _remove(layout.node(name.removesuffix(".json")))


def forget_node(layout: Layout, name: str) -> None:
    """Remove its record. Raises ``StorageFault``."""
    with storage_faults("the record of a node cannot be removed"):
        _remove(layout.node(name))


def wish_drain(layout: Layout, storage: Storage, name: str, *, drain: bool) -> None:
    """Have this node drained, or used again. Raises ``StorageFault``."""
    with storage_faults("the wish to drain a node cannot be written"):
        if drain:
            storage.make_dir(layout.nodes)
            storage.replace(layout.node_drain(name), b"", durable=True)
        else:
            _remove(layout.node_drain(name))


def node_token(layout: Layout, storage: Storage | None = None) -> str:
    """The token of the relays that a node source starts; made when it is not there and ``storage`` is given.

    Raises ``QueueError`` where there is none, or one that others may read; ``StorageFault``.
    """
    path = layout.node_token
    with storage_faults("the token of the nodes cannot be read"):
        status = status_of(path)
        if status is None and storage is not None:
            storage.make_dir(layout.nodes)
            storage.replace(path, secrets.token_urlsafe(32).encode(), durable=True)
            status = status_of(path)
        if status is None:
            raise QueueError(f"{path}: there is no token of the nodes' relays", hint="the Ray driver makes it")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise QueueError(f"{path}: others may read it", hint=f"chmod 600 {path}, or remove it: a new one is made")
        token = read_file(path, _MAX_BYTES).decode("ascii", "replace").strip()
    if not is_token(token):
        raise QueueError(f"{path}: it holds no token", hint="remove it: the Ray driver makes a new one")
    return token


def _names(layout: Layout) -> list[str]:
    return [name for name in list_names(layout.nodes) if is_node_name(name.rpartition(".")[0])]


def _load(layout: Layout, name: str) -> NodeRecord | None:
    path = layout.node(name)
    try:
        record = _decode(read_file(path, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OddEntry, msgspec.MsgspecError, UnicodeError) as error:
        log.warning("%s is no record of a node: %s", path, error)
        return None
    return record if record.name == name else None


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
