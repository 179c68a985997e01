"""What a root's file system lacks: said with its name and what is lost, refused only where nothing else can be done."""

import ctypes
import errno
import fcntl
import os
import resource
import stat

import pytest

from swarm.core.doctor.root_check import RootProbe, Support, first_missing, judge
from swarm.core.notification import Note
from swarm.errors import QueueError
from swarm.filesystem import temporary
from swarm.filesystem.durable import libc, place_of
from swarm.queue.file_queue import FileQueue
from swarm.queue.root import probe
from swarm.queue.stores.notifications import remove_note, write_note
from tests.helpers.oddhost import NO_SUCH_CALL, lacks
from tests.helpers.queues import assert_one_state_each, exchange_some, llm

SOUND = dict.fromkeys(
    ("write", "lock", "rename", "rename_new", "link", "nameless", "flush_file", "flush_folder", "flush_all", "notice"), 0
)


def verdicts(full=True, **found):
    checks = judge(RootProbe(**{**SOUND, "name_bytes": 255, **found}), place=lambda: "vboxsf at /mnt", full=full)
    return {c.name: c for c in checks if c.verdict is not Support.WORKS}


@pytest.mark.parametrize(
    ("found", "name", "verdict"),
    [
        ({}, None, None),
        ({"lock": errno.ENOLCK}, "locks", Support.MISSING),
        ({"excludes": False}, "locks", Support.MISSING),
        ({"lock": errno.EIO}, "locks", Support.UNKNOWN),
        ({"rename": errno.EPERM}, "rename", Support.MISSING),
        ({"rename_new": errno.EINVAL}, "rename without overwriting", Support.FALLBACK),
        ({"link": errno.EPERM}, None, None),
        ({"rename_new": errno.EINVAL, "link": errno.EPERM}, "rename without overwriting", Support.MISSING),
        ({"overwrites": True}, "rename without overwriting", Support.MISSING),
        ({"nameless": errno.EOPNOTSUPP}, "files without a name", Support.FALLBACK),
        ({"flush_folder": errno.EINVAL}, "flush", Support.FALLBACK),
        ({"flush_file": errno.ENOSYS}, "flush", Support.FALLBACK),
        ({"flush_folder": errno.ENOSPC}, None, None),
        ({"flush_all": errno.EPERM}, "flush of all at once", Support.FALLBACK),
        ({"notice": errno.EMFILE}, "inotify", Support.FALLBACK),
        ({"name_bytes": 143}, "names", Support.FALLBACK),
        ({"name_bytes": 64}, "names", Support.MISSING),
        ({"folds_case": True}, "case of names", Support.FALLBACK),
        ({"write": errno.EROFS}, "write", Support.MISSING),
        ({"write": errno.ENOSPC}, "write", Support.UNKNOWN),
        ({"free_kib": 1 << 20, "free_inodes": None}, None, None),
        ({"free_kib": 16, "free_inodes": 1000}, "room", Support.MISSING),
        ({"free_kib": 1 << 20, "free_inodes": 3}, "room", Support.MISSING),
    ],
)
def test_each_lack_has_its_verdict(found, name, verdict):
    said = verdicts(**found)
    assert {n: c.verdict for n, c in said.items()} == ({name: verdict} if name else {})
    if verdict is Support.MISSING:
        assert "vboxsf at /mnt" in said[name].text
        assert "--root" in said[name].next


def test_full_is_refused_only_where_nothing_can_be_flushed_and_fast_never():
    nothing = {"flush_folder": errno.EINVAL, "flush_all": errno.ENOSYS}
    refused = verdicts(**nothing)["flush"]
    assert refused.verdict is Support.MISSING
    assert "vboxsf at /mnt cannot flush directories" in refused.text
    assert 'durability = "fast"' in refused.next
    assert all(c.verdict is Support.FALLBACK for c in verdicts(full=False, **nothing).values())


def test_the_limits_of_inotify_are_told_apart():
    assert "max_user_instances" in verdicts(notice=errno.EMFILE)["inotify"].next
    assert "max_user_watches" in verdicts(notice=errno.ENOSPC)["inotify"].next


def test_this_file_system_is_sound_and_nothing_stays(tmp_path):
    found = probe(str(tmp_path), whole=True)
    assert first_missing(judge(found, place=lambda: "", full=True)) is None
    assert (found.lock, found.excludes, found.rename, found.overwrites, found.folds_case) == (0, True, 0, False, False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", NO_SUCH_CALL)
@pytest.mark.parametrize("call", ["flock", "link", "renameat2", "fsync", "syncfs"])
def test_what_is_lacking_is_found_and_nothing_stays(tmp_path, monkeypatch, call, code):
    lacks(monkeypatch, **{call: code})
    found = probe(str(tmp_path), whole=True)
    field = {"flock": "lock", "renameat2": "rename_new", "fsync": "flush_folder", "syncfs": "flush_all"}.get(call, call)
    assert getattr(found, field) == code
    assert found.reason(code) == os.strerror(code)
    assert os.listdir(tmp_path) == []


def test_locks_that_exclude_nobody_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert not probe(str(tmp_path), whole=False).excludes


def test_no_descriptor_left_for_inotify_is_found(tmp_path, monkeypatch):
    def refuse(_flags):
        ctypes.set_errno(errno.EMFILE)
        return -1

    monkeypatch.setattr(libc, "inotify_init1", refuse)
    assert probe(str(tmp_path), whole=True).notice == errno.EMFILE


def test_out_of_descriptors_is_no_verdict(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        found = probe(str(tmp_path), whole=True)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert first_missing(judge(found, place=lambda: "", full=True)) is None


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EPERM])
def test_a_root_without_locks_is_refused_at_once_and_leaves_nothing(tmp_path, monkeypatch, code):
    lacks(monkeypatch, flock=code)
    with pytest.raises(QueueError, match="file locks do not work here") as told:
        FileQueue(str(tmp_path / "q"), "full").prepare()
    assert place_of(str(tmp_path)) in told.value.message
    assert os.listdir(tmp_path) == []


def test_a_root_that_cannot_be_flushed_at_all_is_refused_in_full_and_works_in_fast(tmp_path, monkeypatch):
    lacks(monkeypatch, fsync_folder=errno.EINVAL, syncfs=errno.ENOSYS)
    with pytest.raises(QueueError, match="cannot flush directories") as told:
        FileQueue(str(tmp_path / "full"), "full").prepare()
    assert 'durability = "fast"' in (told.value.hint or "")
    use(FileQueue(str(tmp_path / "fast"), "fast").prepare())


LACKING = [
    {"fsync_folder": errno.EINVAL},
    {"fsync": errno.ENOSYS},
    {"renameat2": errno.EPERM},
    {"renameat2": errno.EINVAL, "fsync_folder": errno.EINVAL},
    {"link": errno.EPERM},
    {"syncfs": errno.EPERM},
]


def use(queue):
    """One task, a bulk, one that waits, an end each."""
    ids = [queue.enqueue(llm()), queue.enqueue(llm(not_before="2099-01-01T00:00:00Z"))]
    bulk = [llm(task_id=queue.new_id()) for _ in range(5)]
    assert list(queue.enqueue_many(bulk)) == [5]
    ids += [task["task_id"] for task in bulk]
    worker = queue.worker_view("worker-1")
    taken = exchange_some(worker, [], 3).claims
    exchange_some(worker, [], 0)
    assert len(taken) == 3
    states = assert_one_state_each(queue, ids)
    assert sum(states.values()) == 7


@pytest.mark.parametrize("durability", ["full", "fast"])
@pytest.mark.parametrize("lacking", LACKING, ids="+".join)
def test_a_queue_works_where_something_else_does_instead(tmp_path, monkeypatch, lacking, durability):
    lacks(monkeypatch, **lacking)
    queue = FileQueue(str(tmp_path / "q"), durability).prepare()
    assert any(check.verdict is Support.FALLBACK for check in queue.self_test()) or "link" in lacking
    use(queue)


def test_locks_are_taken_as_a_network_file_system_wants_them(tmp_path, monkeypatch):
    """There an exclusive lock needs a file that is open for writing, and a directory has none at all."""
    real = fcntl.flock

    def strict(fd, kind):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if kind & fcntl.LOCK_EX and not writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(fd, kind)

    monkeypatch.setattr(fcntl, "flock", strict)
    queue = FileQueue(str(tmp_path / "q"), "full").prepare()
    use(queue)
    note = Note(subject="batch", id="b1", targets=("script:x",))
    write_note(queue.layout, queue.storage, note)
    remove_note(queue.layout, queue.storage, note)
    with queue.batches().alone("b1"):
        pass
    fd, path = temporary.take(queue.layout.control)
    assert not temporary.is_left(path)
    os.close(fd)
    assert temporary.remove_left(path)


def test_the_place_of_a_path_is_a_mount_above_it(tmp_path):
    kind, _, point = place_of(str(tmp_path / "not" / "there")).partition(" at ")
    assert kind
    assert str(tmp_path).startswith(point)
    assert place_of("/proc/self").startswith("proc at /proc")
