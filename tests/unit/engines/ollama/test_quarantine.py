"""A quarantine that outlives the supervisor: written down when entered, obeyed at the start, ended from outside."""

from __future__ import annotations

import pytest

from swarm.config.settings import RepairSettings
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.engines.ollama import quarantine
from swarm.engines.ollama.quarantine import WorkerQuarantine
from swarm.errors import PortTaken
from swarm.proc.child import Exit
from swarm.supervisor.keeper import Keeper
from swarm.supervisor.state import ChildState
from tests.support.fakes import FakeClock

UUIDS = ("GPU-0",)
POLICY = RestartPolicy(base_s=0.0, cap_s=0.0, never_ready_limit=2)


class NeverReady:
    """A server that ends before it gets ready."""

    name, role = "ollama-worker-1", "server"
    identity = pidfd = None
    starts = 0

    def adopt(self):
        return None

    def start(self):
        self.starts += 1
        return "started"

    def ready(self):
        return False

    def overdue(self):
        return None

    def poll(self):
        return Exit(code=1)

    def worked(self):
        return False

    def clean_up(self):
        return None


@pytest.fixture
def book(tmp_path):
    return WorkerQuarantine(tmp_path, "worker-1", UUIDS, RepairSettings())


def keeper(book):
    server = NeverReady()
    return Keeper(server, POLICY, FakeClock(), book=book), server


def exhausted(book):
    kept, server = keeper(book)
    for _ in range(10):
        kept.step()
    return kept, server


def test_a_port_that_somebody_else_has_is_no_failure_and_is_told_once(book, caplog):
    class KeptOut(NeverReady):
        taken = True

        def start(self):
            if self.taken:
                raise PortTaken("port 1 is taken by pid 7 (nc)")
            return super().start()

        def poll(self):
            return None

    server = KeptOut()
    kept = Keeper(server, POLICY, FakeClock(), book=book)
    pauses = [kept.step() for _ in range(20)]
    assert (kept.state, kept.status.restarts) == (ChildState.BACKOFF, 0)
    assert "pid 7 (nc)" in kept.status.reason
    assert caplog.text.count("pid 7 (nc)") == 1
    assert min(pauses) > 0
    server.taken = False
    kept.step()
    assert kept.state is ChildState.STARTING


def test_it_is_written_down_and_the_next_supervisor_starts_nothing(book, tmp_path):
    kept, server = exhausted(book)
    assert (kept.state, server.starts) == (ChildState.QUARANTINED, 2)
    assert "2 starts never got ready" in quarantine.read(tmp_path, "worker-1").reason
    later, fresh = exhausted(book)
    assert (later.state, fresh.starts) == (ChildState.QUARANTINED, 0)
    assert "never got ready" in later.status.reason


def test_released_from_outside_it_is_tried_at_once_and_the_next_time_lasts_longer(book, tmp_path):
    exhausted(book)
    kept, server = keeper(book)
    quarantine.release(tmp_path, "worker-1")
    kept.step()
    assert server.starts == 1
    assert quarantine.read(tmp_path, "worker-1") is None


def test_a_restart_that_was_asked_for_ends_it(book, tmp_path):
    kept, server = exhausted(book)
    kept.restart(now=True)
    assert quarantine.read(tmp_path, "worker-1") is None
    kept.step()
    assert server.starts == 3


def test_where_it_cannot_be_written_down_it_holds_all_the_same(book, tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quarantine, "write_note", refuse)
    kept, server = exhausted(book)
    assert (kept.state, server.starts) == (ChildState.QUARANTINED, 2)
    assert "cannot be recorded: No space left" in caplog.text
