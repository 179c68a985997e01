"""One started program: its process group, its pipes, its output, its end.

The output is read as it comes; its first part is kept, the rest counted.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

from swarm.core.faults import CancelToken, TaskFault
from swarm.proc.identity import end_of_child
from swarm.proc.process_group import KILL_WAIT_S, GroupStop

log = logging.getLogger(__name__)
_TICK_MS = 1000
_STOPPING_TICK_MS = 10
_HOST_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.ENOSPC, errno.EROFS})
"""Faults of the worker or host, never of the task."""
_CHUNK = 1 << 16
_TAIL = 2048
"""Bytes of the end that are remembered beside the head: the last words say why a program failed."""


class Capture:
    """One output stream: a non-blocking pipe end that is drained to the end, whatever is kept of it."""

    def __init__(self, fd: int, cap_bytes: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.total = 0
        self.open = True
        self._cap = cap_bytes
        self._head = bytearray()
        self._tail = b""

    def read(self, max_chunks: int = 16) -> int:
        """Read what is there, at most so many chunks; returns the number of chunks read. ``open`` turns False at the end."""
        for count in range(max_chunks):
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return count
            if not chunk:
                self.open = False
                return count
            self._keep(chunk)
        return max_chunks

    @property
    def truncated(self) -> bool:
        """Whether something was dropped."""
        return self.total > len(self._head)

    @property
    def text(self) -> str:
        """What was kept; bytes that are no UTF-8 become replacement characters."""
        return self._head.decode("utf-8", "replace")

    @property
    def last_line(self) -> str:
        """The last line that is not blank, at most 300 characters."""
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""

    def _keep(self, chunk: bytes) -> None:
        self.total += len(chunk)
        self._head += chunk[: self._cap - len(self._head)]
        self._tail = (self._tail + chunk)[-_TAIL:]


class Program:
    """A program in its own session. It is reaped only after its group has ended, so its number stays its own."""

    def __init__(self, argv: list[str], *, cwd: str, env: dict[str, str]) -> None:
        self.wake_fd = _host_call(lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        try:
            self._popen = _start(argv, cwd=cwd, env=env)
        except BaseException:
            os.close(self.wake_fd)
            raise
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.pid = self._popen.pid
        self.out_fd = self._popen.stdout.fileno()
        self.err_fd = self._popen.stderr.fileno()
        self.stopped = False
        self._lock = threading.Lock()
        self._closed = False
        self.pidfd = -1
        try:
            self.pidfd = _host_call(lambda: end_of_child(self.pid))
            # Not preexec_fn: it may deadlock in a process with threads.
            with suppress(OSError):  # a program with rights of its own (setuid, setgid) may not be limited
                resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
        except BaseException:
            self.close()
            raise

    def wake(self) -> None:
        """Interrupt the wait; from any thread, also after the end."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.wake_fd, 1)

    def reap(self) -> int:
        """The exit code; negative is a signal."""
        return self._popen.wait()

    def close(self) -> None:
        """Close everything; a program still there (an unexpected error came between) is killed first."""
        with self._lock:
            self._closed = True
        if self._popen.returncode is None:
            self._kill()
        for fd in (self.wake_fd, self.pidfd):
            if fd >= 0:
                os.close(fd)
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream is not None:
                stream.close()

    def _kill(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait(KILL_WAIT_S)
        except (PermissionError, subprocess.TimeoutExpired):
            log.warning("pid %d cannot be killed; it is left behind", self.pid)


def follow(
    program: Program,
    captures: tuple[Capture, ...],
    *,
    grace_s: float,
    cancel: CancelToken,
    progress: Callable[[int], None],
) -> bool:
    """Read output until the program's group has ended: by itself, or by a cancel. False: it cannot be killed.

    Output is read while the group is being stopped too: a program blocked on a full pipe could not obey.
    """
    poll = select.poll()
    by_fd = {capture.fd: capture for capture in captures}
    for fd in (*by_fd, program.pidfd, program.wake_fd):
        poll.register(fd, select.POLLIN)
    stop: GroupStop | None = None
    while True:
        for fd, _ in poll.poll(_TICK_MS if stop is None else _STOPPING_TICK_MS):
            if (capture := by_fd.get(fd)) is not None:
                progress(capture.read())
                if not capture.open:
                    poll.unregister(fd)
            elif fd == program.pidfd:
                poll.unregister(fd)
                stop = stop or GroupStop(program.pid, grace_s=0.0, sig=signal.SIGKILL)
            else:
                poll.unregister(fd)
        if stop is None and cancel.reason is not None:
            program.stopped = True
            stop = GroupStop(program.pid, grace_s=grace_s)
        if stop is not None and (gone := stop.step()) is not None:
            return gone


def _host_call(call: Callable[[], int]) -> int:
    """A descriptor from the kernel; running out of them is the host's fault."""
    try:
        return call()
    except OSError as error:
        raise TaskFault("infra", "no_descriptor", f"the host refuses a descriptor: {error}") from error


def _start(argv: list[str], *, cwd: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        host = isinstance(error, OSError) and error.errno in _HOST_ERRNOS
        message = f"{argv[0]} cannot be started: {error}"
        raise TaskFault("infra" if host else "deterministic", "cannot_start", message) from error
