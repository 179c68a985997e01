"""Waits for deaths and for rings at once: the kernel tells of an ended process within a millisecond."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping, Sequence

from swarm.core.worker import ProcessIdentity
from swarm.proc.identity import open_pidfd


class DeathWatch:
    """Pidfds of the watched processes plus the bell's descriptors in one ``poll``. Used by one thread.

    ``bell_fds`` are only watched, never read: ``drain`` must empty them. ``urgent_fd`` (the bell's self-wake) also
    ends a wait that does not listen to rings, so that a signal is acted on at once.
    """

    def __init__(
        self,
        *,
        bell_fds: Sequence[int] = (),
        urgent_fd: int | None = None,
        drain: Callable[[], None] | None = None,
    ) -> None:
        self._bell_fds = tuple(bell_fds)
        self._urgent_fds = () if urgent_fd is None else (urgent_fd,)
        self._drain = drain
        self._watched: dict[str, tuple[ProcessIdentity, int]] = {}
        self._news = False

    def watch(self, processes: Mapping[str, ProcessIdentity]) -> None:
        """Watch exactly these from now on. One that has ended already makes the next ``wait`` return at once, once."""
        for name, (identity, pidfd) in list(self._watched.items()):
            if processes.get(name) != identity:
                del self._watched[name]
                if pidfd >= 0:
                    os.close(pidfd)
        for name, identity in processes.items():
            if name not in self._watched:
                opened = open_pidfd(identity)
                self._news = self._news or opened is None
                # Kept with no descriptor, so that a dead process still listed is no news in every turn.
                self._watched[name] = (identity, -1 if opened is None else opened)

    def wait(self, timeout_s: float, *, bell: bool = True) -> bool:
        """Wait for a death or an urgent wake, and unless ``bell`` is False for a ring; False after ``timeout_s``.

        A death is reported once.
        """
        if self._news:
            self._news = False
            return True
        poll = select.poll()
        pidfds = {pidfd: name for name, (_, pidfd) in self._watched.items() if pidfd >= 0}
        for fd in (*pidfds, *self._urgent_fds, *(self._bell_fds if bell else ())):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(max(0.0, timeout_s) * 1000)]
        for fd in ready:
            if fd in pidfds:
                name = pidfds[fd]
                self._watched[name] = (self._watched[name][0], -1)
                os.close(fd)
        if self._drain is not None and any(fd not in pidfds for fd in ready):
            self._drain()
        return bool(ready)

    def close(self) -> None:
        """Give all pidfds back."""
        self.watch({})
