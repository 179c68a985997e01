"""A worker's Unix socket in the queue root, for its owner alone.

* Addresses of such sockets are short, roots are not: it is bound through its directory's descriptor.
* A socket that an earlier life left is replaced; whoever makes this holds the worker's process lock.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

BACKLOG = 256
"""Connections that wait to be accepted; a client is refused beyond that."""


class LiveSocket:
    """Listening from the start. Raises ``OSError``."""

    def __init__(self, path: str) -> None:
        folder, self._name = os.path.split(path)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        self._folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind(folder)
        except OSError:
            self.listening.close()
            os.close(self._folder_fd)
            raise

    def _bind(self, folder: str) -> None:
        status = os.fstat(self._folder_fd)
        if status.st_uid != os.geteuid():
            raise PermissionError(1, f"{folder} belongs to user {status.st_uid}")
        if status.st_mode & 0o077:
            os.chmod(folder, 0o700)
        with suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder_fd)
        own = f"/proc/self/fd/{self._folder_fd}/{self._name}"
        self.listening.bind(own)
        os.chmod(own, stat.S_IRUSR | stat.S_IWUSR)
        self._made = self._identity()
        self.listening.listen(BACKLOG)
        self.listening.setblocking(False)

    def _identity(self) -> tuple[int, int]:
        status = os.stat(self._name, dir_fd=self._folder_fd, follow_symlinks=False)
        return status.st_dev, status.st_ino

    def close(self) -> None:
        """Stop listening, and remove the file if it is still this socket's."""
        self.listening.close()
        with suppress(OSError):
            if self._identity() == self._made:
                os.unlink(self._name, dir_fd=self._folder_fd)
        os.close(self._folder_fd)
