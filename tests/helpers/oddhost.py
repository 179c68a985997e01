"""A host, or a file system, that lacks a call: it answers with an errno, within the block or the test."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any

from swarm.filesystem import durable as disk
from swarm.queue import storage


class _Libc:
    """libc without some of its calls."""

    def __init__(self, real: Any, refused: dict[str, int]) -> None:
        self._real = real
        self._refused = refused

    def __getattr__(self, name: str) -> Any:
        if name not in self._refused:
            return getattr(self._real, name)

        def refuse(*_: object) -> int:
            ctypes.set_errno(self._refused[name])
            return -1

        return refuse


def lacks(monkeypatch: Any, **refused: int) -> list[str]:
    """From now on these calls answer with these errnos; returns the calls that were refused, as they come.

    ``fsync`` (any descriptor), ``fsync_folder`` (directories only), ``link``, ``renameat2``, ``syncfs``, ``flock``.
    """
    heard: list[str] = []

    def refusing(name: str, real: Callable[..., Any], applies: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if not applies(*args):
                return real(*args, **more)
            heard.append(name)
            raise OSError(refused[name], os.strerror(refused[name]))

        return call

    if "fsync" in refused:
        monkeypatch.setattr(os, "fsync", refusing("fsync", os.fsync))
    if "fsync_folder" in refused:
        monkeypatch.setattr(os, "fsync", refusing("fsync_folder", os.fsync, lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode)))
    if "flock" in refused:
        monkeypatch.setattr(fcntl, "flock", refusing("flock", fcntl.flock))
    if "link" in refused:
        monkeypatch.setattr(os, "link", refusing("link", os.link))
    by_libc = {name: code for name, code in refused.items() if name in ("renameat2", "syncfs")}
    for module in (storage, disk):
        monkeypatch.setattr(module, "libc", _Libc(module.libc, by_libc))
    return heard


NO_SUCH_CALL = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
