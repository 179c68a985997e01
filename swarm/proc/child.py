"""One process we keep: started or adopted, watched through a pidfd, ended with its children, its output bounded."""

from __future__ import annotations

import logging
import os
import shutil
import signal as signals
import stat
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from swarm.core.worker import ProcessIdentity
from swarm.errors import OddEntry
from swarm.filesystem.entries import odd_words, open_file, status_of
from swarm.proc import identity as identities
from swarm.proc.env_markers import KEPT, find_marked, kill_marked
from swarm.proc.identity import end_of_child, read_stat
from swarm.proc.ports import describe
from swarm.proc.process_group import GroupStop, LoneStop, kill_group

DEFAULT_MAX_BYTES = 100 * 1024 * 1024


def rotate_if_large(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> bool:
    """Before a start: move a large log to ``<name>.1``, replacing the one there. True: it was moved."""
    if _size(path) <= max_bytes:
        return False
    os.replace(path, path.with_name(f"{path.name}.1"))
    return True


def truncate_if_large(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> bool:
    """While its writer runs: copy a large log to ``<name>.1`` and empty it. True: it was emptied.

    The writer appends (O_APPEND), so it goes on at the start; lines written between copy and truncation are lost.
    """
    if _size(path) <= max_bytes:
        return False
    backup = path.with_name(f"{path.name}.1")
    if odd_words(str(backup)):
        return False  # written to it would be followed, or block
    shutil.copyfile(path, backup)
    os.truncate(path, 0)
    return True


def _size(path: Path) -> int:
    """Of a regular file; 0 of anything else, which is none of ours."""
    status = status_of(str(path))
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0


_FAULTS = frozenset({signals.SIGSEGV, signals.SIGABRT, signals.SIGBUS, signals.SIGILL, signals.SIGFPE, signals.SIGSYS})


def signal_name(number: int) -> str:
    """``SIGKILL``; those of real time have no names."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Exit(msgspec.Struct, frozen=True):
    """How a process ended; both None for an adopted one, whose status only its parent learns."""

    code: int | None = None
    signal: int | None = None

    @property
    def broke(self) -> bool:
        """Whether it failed by itself. False: it was killed, ended normally, or its status is unknown."""
        return self.code not in (None, 0) or self.signal in _FAULTS

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        return (
            f"exit code {self.code}" if self.code is not None else "ended (started by an earlier supervisor: no exit status)"
        )


log = logging.getLogger(__name__)


def _open_log(path: Path) -> int:
    """To append to. What lies there and is no file takes nothing in: better a process without its last words than none."""
    try:
        return open_file(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OddEntry as odd:
        log.warning("%s: output to standard error is lost", odd.message)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


class Child:
    """A process in a session of its own, and a marker that all its descendants carry.

    Not reaped before its group is gone: until then its number stays reserved, so a signal to the group hits no other.
    """

    def __init__(
        self, identity: ProcessIdentity, pidfd: int, popen: subprocess.Popen[bytes] | None, markers: Mapping[str, str]
    ) -> None:
        self.identity = identity
        self.pidfd = pidfd
        self._popen = popen
        self._markers = dict(markers)
        self._exit: Exit | None = None
        self._stop: GroupStop | LoneStop | None = None

    @classmethod
    def spawn(cls, argv: Sequence[str], *, env: Mapping[str, str], markers: Mapping[str, str], log_path: Path) -> Child:
        """Start ``argv`` with ``env`` plus ``markers``; stdin is null, stdout and stderr are appended to ``log_path``.

        Raises ``OSError`` (``FileNotFoundError``: no such program).
        """
        output = _open_log(log_path)
        try:
            popen = subprocess.Popen(
                list(argv),
                env={**env, **KEPT, **markers},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
        # Unreaped, so both hold even if it has ended already.
        identity = identities.of_pid(popen.pid)
        assert identity is not None
        return cls(identity, end_of_child(popen.pid), popen, markers)

    @classmethod
    def adopt(cls, identity: ProcessIdentity, *, markers: Mapping[str, str]) -> Child | None:
        """Take over a running process that somebody else started; None if it has ended. A stopped one goes on."""
        pidfd = identities.open_pidfd(identity)
        if pidfd is None:
            return None
        child = cls(identity, pidfd, None, markers)
        if child.poll() is None:
            child.signal(signals.SIGCONT)
            return child
        child.close()
        return None

    @property
    def adopted(self) -> bool:
        """Whether another process started it."""
        return self._popen is None

    def poll(self) -> Exit | None:
        """How it ended, or None while it runs. Does not reap."""
        if self._exit is None:
            self._exit = self._look()
        return self._exit

    def _look(self) -> Exit | None:
        if self._popen is None:
            return None if identities.is_same(self.identity) else Exit()
        info = os.waitid(os.P_PID, self.identity.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # its number stays its own
        if info is None:
            return None
        return Exit(code=info.si_status) if info.si_code == os.CLD_EXITED else Exit(signal=info.si_status)

    def signal(self, sig: int) -> bool:
        """Signal the process itself, not its group. False: it has ended."""
        return identities.signal(self.identity, sig)

    def begin_stop(self, *, grace_s: float, sig: int = signals.SIGTERM) -> None:
        """Ask the whole group to end; ``stop_step`` sees it through. Calling it again may only shorten the grace."""
        if self.adopted and self.poll() is not None:
            return  # its number is free again: only markers can tell what it left behind
        stat = read_stat(self.identity.pid)
        if stat is not None and stat.group == self.identity.pid:
            self._stop = GroupStop(self.identity.pid, grace_s=grace_s, sig=sig)
        else:
            self._stop = LoneStop(self.identity, grace_s=grace_s, sig=sig)

    def stop_step(self) -> bool | None:
        """One step towards the end. True: proven ended, marked descendants too. False: something cannot be killed."""
        if self._stop is not None and not (self.adopted and self.poll() is not None):
            gone = self._stop.step()
            if gone is not True:
                return gone
        return not self.clean_up()

    def clean_up(self) -> list[ProcessIdentity]:
        """After the end of the process: kill what it left behind, reap it, close. Returns what would not die."""
        if not self.adopted:
            kill_group(self.identity.pid, 0.0)
        left = kill_marked(0.0, **self._markers) if self._markers else []
        if self._popen is not None and self.poll() is not None:
            self._popen.wait()
        if self.poll() is not None:
            self.close()
        return left

    def marked(self) -> list[ProcessIdentity]:
        """All living processes with this child's marker."""
        return find_marked(**self._markers) if self._markers else []

    def close(self) -> None:
        """Release it, running or not; harmless when repeated."""
        if self._popen is not None and self._popen.returncode is None:
            # Popen complains of a child that outlives it; here that is the point: the next supervisor adopts it.
            self._popen.returncode = 0
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class KeptProcess(ABC):
    """A process that is kept running: found or started, watched, ended. No method waits for long; not thread-safe."""

    def __init__(self, name: str, role: str, markers: Mapping[str, str], remains_grace_s: float = 0.0) -> None:
        """``remains_grace_s``: what an earlier life left is asked to end so long before it is killed."""
        self.name = name
        self.role = role
        self._markers = dict(markers)
        self._remains_grace_s = remains_grace_s
        self._child: Child | None = None

    @abstractmethod
    def adopt(self) -> str | None:
        """Take over one that runs already and fits; a line for the log, None: there is none. Raises ``SwarmError``."""

    @abstractmethod
    def start(self) -> str:
        """Adopt a running one or start a new one; returns a line for the log. Raises ``SwarmError``."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it is ready for work."""

    @abstractmethod
    def worked(self) -> bool:
        """Whether it has begun its work in this life; still known when it has ended, until ``clean_up``."""

    @abstractmethod
    def drain(self) -> None:
        """Ask it to finish its work and end."""

    @abstractmethod
    def stop(self) -> None:
        """Begin to end it, by force after a grace; ``stop_step`` sees it through."""

    def overdue(self) -> str | None:
        """Why its start must be given up, or None."""
        return None

    @property
    def identity(self) -> ProcessIdentity | None:
        """The living process, None while there is none."""
        return self._child.identity if self._child is not None else None

    @property
    def pidfd(self) -> int | None:
        """Readable once the process has ended."""
        return self._child.pidfd if self._child is not None and self._child.pidfd >= 0 else None

    def poll(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._child.poll() if self._child is not None else None

    def stop_step(self) -> bool | None:
        """True: proven ended with all it started. False: something cannot be killed. None: call again."""
        gone = self._child.stop_step() if self._child is not None else not self._end_remains()
        if gone:
            self._forget()
        return gone

    def clean_up(self) -> str | None:
        """After its end: kill what it left running. Returns a complaint if something cannot be killed."""
        left = self._child.clean_up() if self._child is not None else []
        self._forget()
        return f"cannot kill {', '.join(describe(i.pid) for i in left)}" if left else None

    def leftovers(self) -> tuple[str, ...]:
        """Living processes that carry this one's marker, in words."""
        return tuple(describe(i.pid) for i in find_marked(**self._markers))

    def close(self) -> None:
        """Release it without stopping it: the next supervisor adopts it."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _end_remains(self) -> list[ProcessIdentity]:
        return kill_marked(self._remains_grace_s, **self._markers)

    def _forget(self) -> None:
        self._child = None
