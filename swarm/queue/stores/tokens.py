"""``control/tokens.json``: who may use the HTTP server over the network, and for what.

* A token is 256 random bits, and only its SHA-256 is kept. A slow, salted hash protects passwords, of which somebody could
  try all likely ones; of tokens there are no likely ones, and this hash costs a request a microsecond.
* One writer at a time, under ``control/tokens.lock``. Replaced whole and durably, mode 0600.
* ``TokenBook`` looks at it for each request, at the cost of a ``stat``: what is made or revoked counts at once.
* A file that others may read or write, or that is damaged, lets nobody in.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import msgspec

from swarm.clock import now_iso
from swarm.config.listen import needs_tokens
from swarm.config.settings import Settings
from swarm.core.access import Scope
from swarm.errors import ConfigError, InputError, OddEntry, QueueError, name_hint
from swarm.filesystem.entries import read_file, status_of
from swarm.queue.coordination import exclusive
from swarm.queue.layout import Layout
from swarm.queue.storage import Storage, storage_faults

PREFIX = "swarm_"
"""Tells a token of ours from whatever other key a client was set up with."""
LOCAL = "local"
"""The name of who needs no token."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}").fullmatch
_MAX_BYTES = 1 << 20


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One token, without itself."""

    name: str
    scope: Scope
    sha256: str
    """Of the token's text, in hexadecimal."""
    created_at: str

    @property
    def key(self) -> bytes:
        """Signs what is valid for as long as this token is."""
        return bytes.fromhex(self.sha256)


class _TokenFile(msgspec.Struct, frozen=True):
    tokens: tuple[TokenRecord, ...] = ()


_decode = msgspec.json.Decoder(_TokenFile).decode


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_tokens(layout: Layout) -> tuple[TokenRecord, ...]:
    """All tokens by name; () without a file. Raises ``QueueError`` for one that is not to be trusted, ``StorageFault``."""
    with storage_faults("the tokens cannot be read"):
        return _read(layout.tokens)


def create_token(layout: Layout, storage: Storage, name: str, scope: Scope) -> str:
    """A new token, which nobody can read again later.

    Raises ``InputError`` for its name, ``QueueError``, ``StorageFault``.
    """
    if not _NAME(name) or name == LOCAL:
        hint = f"{LOCAL!r} is the name of who needs no token" if name == LOCAL else "up to 32 letters, digits, - and _"
        raise InputError(f"{name!r} cannot be the name of a token", hint=hint)
    token = PREFIX + secrets.token_urlsafe(32)
    with _changing(layout, storage) as (known, write):
        if any(one.name == name for one in known):
            raise InputError(f"there is a token called {name}", hint=f"`swarm token revoke {name}` first, or another name")
        write((*known, TokenRecord(name=name, scope=scope, sha256=digest_of(token), created_at=now_iso())))
    return token


def revoke_token(layout: Layout, storage: Storage, name: str) -> TokenRecord:
    """Remove a token; from now on nobody gets in by it. Raises ``InputError`` when there is none, as ``create_token``."""
    with _changing(layout, storage) as (known, write):
        found = next((one for one in known if one.name == name), None)
        if found is None:
            raise InputError(f"there is no token called {name}", hint=name_hint(name, [one.name for one in known]))
        write(tuple(one for one in known if one != found))
    return found


def check_entry(layout: Layout, settings: Settings) -> None:
    """Raises ``ConfigError`` where the HTTP server would be reached by others and no token lets anybody in."""
    if needs_tokens(settings) and not read_tokens(layout):
        where = "http.tokens is always" if settings.http.tokens == "always" else "others than this machine may reach it"
        hint = "`swarm token create NAME` makes one; or --listen 127.0.0.1:PORT"
        raise ConfigError(f"the HTTP server needs a token before it starts: {where}", hint=hint)


class TokenBook:
    """Follows the file. For one thread."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.tokens
        self._stamp: tuple[int, ...] | None = None
        self._by_digest: dict[str, TokenRecord] = {}
        self._by_name: dict[str, TokenRecord] = {}

    def find(self, token: str) -> TokenRecord | None:
        """The record of a token, None if there is none. Raises ``QueueError``, ``StorageFault``."""
        self._look()
        digest = digest_of(token)
        found = self._by_digest.get(digest)
        return found if found is not None and hmac.compare_digest(found.sha256, digest) else None

    def named(self, name: str) -> TokenRecord | None:
        """The record of that name, None if there is none. Raises ``QueueError``, ``StorageFault``."""
        self._look()
        return self._by_name.get(name)

    def _look(self) -> None:
        try:
            status = os.lstat(self._path)
        except OSError:
            status = None  # missing, or a disk in trouble: reading it says which
        stamp = None if status is None else (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        if stamp is not None and stamp == self._stamp:
            return
        self._stamp = None
        with storage_faults("the tokens cannot be read"):
            known = _read(self._path)
        self._by_digest = {one.sha256: one for one in known}
        self._by_name = {one.name: one for one in known}
        self._stamp = stamp


def _read(path: str) -> tuple[TokenRecord, ...]:
    status = status_of(path)
    if status is None:
        return ()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        hint = f"chmod 600 {path}" if status.st_uid == os.geteuid() else f"it belongs to uid {status.st_uid}; remove it"
        raise QueueError(f"{path}: others could have read or changed the tokens, so none of them is valid", hint=hint)
    try:
        known = _decode(read_file(path, _MAX_BYTES)).tokens
        for one in known:
            if not _NAME(one.name) or len(one.key) != hashlib.sha256().digest_size:
                _refuse(path, f"the entry {one.name!r} is no token")
    except FileNotFoundError:
        return ()
    except (OddEntry, ValueError, RecursionError) as error:
        _refuse(path, str(error))
    return known


def _refuse(path: str, why: str) -> NoReturn:
    raise QueueError(f"{path} is damaged, so no token is valid: {why}", hint="remove it and make new tokens")


@contextmanager
def _changing(
    layout: Layout, storage: Storage
) -> Iterator[tuple[tuple[TokenRecord, ...], Callable[[tuple[TokenRecord, ...]], None]]]:
    def write(tokens: tuple[TokenRecord, ...]) -> None:
        storage.replace_json(layout.tokens, _TokenFile(tokens))

    with storage_faults("the tokens cannot be changed"), exclusive(storage, f"{layout.control}/tokens.lock"):
        yield _read(layout.tokens), write
