"""What a host forbids is said at once, with what to do: threads, signals, waking, a /proc of our own."""

import errno
import os
import threading

import pytest

from swarm.core.doctor.root_check import Support, first_missing
from swarm.errors import EngineError
from swarm.proc import host_probe as hostprobe
from swarm.proc import identity
from swarm.proc.host_probe import host_checks
from swarm.proc.identity import command_line, current
from swarm.proc.process_group import group_members
from swarm.runtime.bootstrap import check_host


def refuse(*_, **__):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def no_thread(_self):
    raise RuntimeError("can't start new thread")


def test_this_host_lacks_nothing_indispensable():
    assert first_missing(check_host()) is None


@pytest.mark.parametrize(
    ("holder", "call", "instead", "words"),
    [
        (threading.Thread, "start", no_thread, "no thread can be started"),
        (os, "kill", refuse, "no process can be signalled (Operation not permitted)"),
        (os, "eventfd", refuse, "could not be woken"),
        (os, "readlink", refuse, "does not show this process"),
        (os, "readlink", lambda _path: "4711", "another PID namespace"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(monkeypatch, holder, call, instead, words):
    monkeypatch.setattr(holder, call, instead)
    with pytest.raises(EngineError) as told:
        check_host()
    assert words in told.value.message
    assert told.value.hint


def test_without_pidfds_it_goes_on(monkeypatch):
    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert {c.name for c in host_checks() if c.verdict is Support.FALLBACK} == {"pidfds"}


def test_a_proc_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(hostprobe, "PROC", str(tmp_path))
    missing = first_missing(host_checks())
    assert missing is not None
    assert "mount -t proc" in missing.next


def test_processes_that_are_hidden_count_as_none(monkeypatch):
    """With hidepid=1 those of other users are listed, and may not be looked at."""
    real = open

    def hiding(path, *args, **more):
        if str(path).startswith("/proc/1/"):
            refuse()
        return real(path, *args, **more)

    monkeypatch.setattr("builtins.open", hiding)
    assert identity.read_stat(1) is None
    assert current() in group_members(os.getpgrp())
    assert command_line(current())


def test_a_boot_that_is_hidden_is_unknown(monkeypatch):
    identity.boot_id.cache_clear()
    monkeypatch.setattr("builtins.open", refuse)
    try:
        assert identity.boot_id() == "unknown"
    finally:
        identity.boot_id.cache_clear()
