"""A relay's own directory: notes, logs, process locks and the token of this machine's cards.

* It is no queue root: servers are known by their root, and a supervisor ends what it does not know.
* The token is made once, mode 0600. One that others could read is refused.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from swarm.errors import ConfigError, OddEntry
from swarm.filesystem.entries import read_file, status_of
from swarm.filesystem.ownership import doubts_on_the_way
from swarm.filesystem.temporary import discard, take

_FILE = "token"
_MIN_CHARS, _MAX_BYTES = 20, 4096


def default_root(env: Mapping[str, str]) -> Path:
    """``$XDG_STATE_HOME/swarm/relay``."""
    state = env.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state).absolute() / "swarm" / "relay"


def open_relay_root(root: Path) -> None:
    """Make what is missing. Raises ``ConfigError`` where others could change it, or where a queue lies; ``OSError``."""
    if (root / "pending").exists():
        raise ConfigError(f"{root} is the root of a queue: a relay keeps its files elsewhere", hint="choose another --root")
    for folder in (root, root / "workers", root / "heartbeats", root / "logs"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    doubt = next(iter(doubts_on_the_way(str(root))), None)
    if doubt is not None:
        mend = "choose a --root of your own" if doubt.foreign else f"{doubt.mend}; or choose another --root"
        raise ConfigError(f"{doubt}: whoever can change it could put another token at {root}", hint=mend)


def relay_token(root: Path, given: Path | None) -> tuple[str, Path, bool]:
    """The token, its file, and whether it was made just now. Raises ``ConfigError``, ``OSError``.

    A file that was named has to be there.
    """
    path = (root / _FILE if given is None else given).absolute()
    fresh = given is None and status_of(str(path)) is None and _make(path)
    return _read(path), path, fresh


def _make(path: Path) -> bool:
    """False: another relay was faster, and its token counts."""
    fd, beside = take(str(path.parent))
    try:
        os.write(fd, secrets.token_urlsafe(32).encode())
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        discard(beside, fd)
    return True


def _read(path: Path) -> str:
    status = status_of(str(path))
    if status is None:
        raise ConfigError(f"{path}: there is no such token file", hint="leave --token-file out: then one is made")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        mine = status.st_uid == os.geteuid()
        hint = f"chmod 600 {path}" if mine else f"it belongs to uid {status.st_uid}"
        raise ConfigError(f"{path}: others could read or change this token", hint=hint)
    try:
        token = read_file(str(path), _MAX_BYTES).decode("ascii").strip()
    except OddEntry as odd:
        raise ConfigError(f"{odd.message}, and no file with a token", hint=f"remove {path}") from odd
    except UnicodeError as error:
        raise ConfigError(f"{path}: this is no token: it holds other characters than ASCII") from error
    if len(token) < _MIN_CHARS or not token.isprintable() or " " in token:
        what = f"this is no token: one line of at least {_MIN_CHARS} characters without blanks"
        raise ConfigError(
            f"{path}: {what}", hint=f"write one into {path}, or remove it and leave --token-file out: then one is made"
        )
    return token
