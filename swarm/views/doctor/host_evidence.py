"""What the machine says: file system, owner and modes, clock, kernel and control group."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from swarm.config.settings import Settings, script_entry
from swarm.core.doctor.evidence import DiskEvidence, Quote
from swarm.core.doctor.root_check import Check, judge
from swarm.filesystem.durable import CannotFlush, place_of, sync_fd
from swarm.filesystem.ownership import doubts_on_the_way, opened
from swarm.proc.host_probe import host_checks
from swarm.queue.layout import Layout
from swarm.queue.root import probe

KERNEL_LOG = "/dev/kmsg"
CGROUP_ROOT = "/sys/fs/cgroup"
CLOCK_SLACK_S = 5.0
_KILLED = re.compile(r"[Kk]illed process (\d+) ")
_MIB = 1 << 20


def disk_evidence(root: Path) -> DiskEvidence:
    """The file system of the root, or of the directory it would be made in; a nameless test file is written there."""
    path = root
    while not path.is_dir() and path != path.parent:
        path = path.parent
    try:
        room = os.statvfs(path)
    except OSError as error:
        return DiskEvidence(path=str(path), refused=error.strerror or str(error))
    return DiskEvidence(
        path=str(path),
        free_mib=room.f_bavail * room.f_frsize // _MIB,
        total_mib=room.f_blocks * room.f_frsize // _MIB,
        free_inodes=room.f_favail if room.f_files else None,
        read_only=bool(room.f_flag & os.ST_RDONLY),
        refused=_test_write(path),
    )


def _test_write(path: Path) -> str:
    try:
        fd = os.open(path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):  # a file system without nameless files
            return "" if os.access(path, os.W_OK) else "Permission denied"
        return error.strerror or str(error)
    try:
        os.write(fd, b"x" * 4096)
        with suppress(CannotFlush):  # a finding of its own
            sync_fd(fd)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(fd)
    return ""


def able(root: Path, tried: str, *, full: bool) -> tuple[Check, ...]:
    """What this host and the file system of the root can do. ``tried``: the root, or the nearest directory above it.

    A directory is made there and removed again.
    """
    staging = Layout(str(root)).staging
    folder = staging if os.path.isdir(staging) else tried
    found = probe(folder, whole=True, name="" if folder != tried else ".swarm-try-")
    return (*host_checks(), *judge(found, place=lambda: place_of(tried), full=full))


def way_trouble(root: Path) -> tuple[str, str]:
    """How others could put another tree in the place of the root, and the command that ends that; two empty words: not."""
    doubt = next(iter(doubts_on_the_way(str(root))), None)
    if doubt is None:
        return "", ""
    return f"{doubt}: whoever can change it can replace it by another queue", "" if doubt.foreign else doubt.mend


def root_trouble(root: Path) -> str:
    """Why the root cannot be used; empty when it can, or is not there yet."""
    for path in (root, *(root / name for name in ("pending", "processing", "completed", "workers", "heartbeats", "logs"))):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{path}: {error.strerror}"
        if path == root and path.is_symlink():
            status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return f"{path} is no directory"
        if status.st_uid != os.geteuid():
            return f"{path} belongs to user {status.st_uid}, and this is user {os.geteuid()}"
        if status.st_mode & 0o022:
            return f"{path} has mode {status.st_mode & 0o777:o}: others could put tasks there"
    return ""


def open_programs(settings: Settings, *, serves: bool) -> Iterator[tuple[str, str, str]]:
    """Programs named by the configuration, and files in their argv, that somebody else may write, or a directory above.

    An owner of their own is no finding: whoever named the program has chosen them.
    """
    named = [("[ollama] binary", shutil.which(settings.ollama.binary))] if serves else []
    for name, engine in settings.engines.items():
        named += [(f"[engines.{name}] command", shutil.which(word)) for word in engine.command[:1]]
        named += [(f"[engines.{name}] command", word) for word in engine.command[1:] if word.startswith("/")]
    for name, entry in settings.scripts.items():
        named += [(f"[scripts] {name}", word) for word in script_entry(entry).command if word.startswith("/")]
    for where, path in named:
        try:
            with opened(path or "") as (_, doubts):
                yield from ((where, str(doubt), doubt.mend) for doubt in doubts if not doubt.foreign)
        except (OSError, ValueError):
            continue  # no file, or one that cannot be read


def newer_than_now(layout: Layout, now_s: float) -> Quote | None:
    """The file of rows, heartbeats and logs that was written furthest in the future, if any was."""
    ahead: tuple[float, str] | None = None
    for folder in (layout.workers, layout.heartbeats, layout.logs):
        for path, written_s in _times(folder):
            if written_s > now_s + CLOCK_SLACK_S and (ahead is None or written_s > ahead[0]):
                ahead = (written_s, path)
    if ahead is None:
        return None
    text = f"written {_iso(ahead[0])}, the clock says {_iso(now_s)}: {ahead[0] - now_s:.0f} s behind"
    return Quote(path=ahead[1], line=0, text=text)


def _times(folder: str) -> Iterator[tuple[str, float]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    yield entry.path, entry.stat(follow_symlinks=False).st_mtime
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="seconds")


def kernel_kills(path: str = KERNEL_LOG) -> tuple[tuple[int, Quote], ...]:
    """Processes that the kernel killed for want of memory, as far as its log is readable: number and its words."""
    found = []
    for number, line in enumerate(_kernel_lines(path), 1):
        hit = _KILLED.search(line) if "ut of memory" in line or "oom" in line.lower() else None
        if hit:
            found.append((int(hit[1]), Quote(path=path, line=number, text=line.partition(";")[2] or line)))
    return tuple(found[-50:])


def _kernel_lines(path: str) -> Iterator[str]:
    """Records of ``/dev/kmsg``, one a read; or the lines of a file in its place."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # not readable for this user (dmesg_restrict), or hidden in a container
    try:
        while True:
            try:
                record = os.read(fd, 1 << 16)
            except BrokenPipeError:
                continue  # overwritten while we read: the next read goes on with what is there
            except OSError:
                return  # all of it is read
            if not record:
                return
            yield from record.decode("utf-8", "replace").splitlines()
    finally:
        os.close(fd)


def boxed_kills(cgroup_root: str = CGROUP_ROOT, own: str = "/proc/self/cgroup") -> Quote | None:
    """The counter of out-of-memory kills of our control group (either version), if it is not 0."""
    try:
        groups = Path(own).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:
            candidates = [f"{cgroup_root}{path}/memory.events", f"{cgroup_root}/memory.events"]
        elif "memory" in controllers.split(","):
            candidates = [f"{cgroup_root}/memory{path}/memory.oom_control", f"{cgroup_root}/memory/memory.oom_control"]
        else:
            continue
        found = next((q for c in candidates if (q := _counter(c)) is not None), None)
        if found is not None:
            return found
    return None


def _counter(path: str) -> Quote | None:
    try:
        lines = Path(path.replace("//", "/")).read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for number, line in enumerate(lines, 1):
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdecimal() and int(value):
            return Quote(path=path, line=number, text=line)
    return None
