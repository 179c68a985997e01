import logging

import pytest

from swarm.core.faults import TaskFault
from swarm.engines.ollama import parallel
from swarm.engines.ollama.parallel import ParallelSlots, note_path, wanted_parallel
from swarm.worker.attempt import Cancel

log = logging.getLogger("test")


class Kept:
    """A server that somebody keeps; a restart takes some looks until it is back."""

    def __init__(self, tmp_path, *, slots=4, kept=True, listens=True, comes_back=True):
        self.path = note_path(tmp_path, "worker-1")
        self.pid, self.slots, self.kept, self.listens, self.comes_back = 100, slots, kept, listens, comes_back
        self.asked = self.withdrawn = 0
        self.looks = 0

    def running(self):
        if self.asked and not self.withdrawn and self.listens and self.comes_back:
            self.looks += 1
            if self.looks == 2:
                self.pid, self.slots = 0, 0
            if self.looks == 4:
                self.pid, self.slots = 101, wanted_parallel(self.path, has_card=True)
        return self.pid, self.slots

    def request(self):
        self.asked += self.kept
        return self.kept

    def parallel(self):
        def withdraw():
            self.withdrawn += 1

        return ParallelSlots(
            self.path,
            running=self.running,
            ready=lambda: self.looks >= 5,
            request_restart=self.request,
            restart_taken=lambda: self.listens,
            withdraw=withdraw,
            start_timeout_s=60.0 if self.comes_back else 0.2,
            log=log,
        )

    def ensure(self, slots, cancel=None):
        self.parallel().ensure("a:latest", slots, timeout_s=60, cancel=cancel)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(parallel, "POLL_S", 0.001)
    monkeypatch.setattr(parallel, "TAKEN_S", 0.05)


def test_a_server_is_started_again_for_what_a_load_wants(tmp_path):
    kept = Kept(tmp_path)
    kept.ensure(16)
    assert (kept.asked, kept.pid, kept.parallel().slots, kept.withdrawn) == (1, 101, 16, 0)


@pytest.mark.parametrize("slots", [4, 0])
def test_nothing_is_done_where_nothing_else_is_wanted(tmp_path, slots):
    kept = Kept(tmp_path)
    kept.ensure(slots)
    assert kept.asked == 0
    assert not kept.path.exists()


def test_one_whose_slots_nobody_knows_is_left_alone(tmp_path):
    kept = Kept(tmp_path, slots=0)
    kept.ensure(16)
    assert kept.asked == 0


def test_where_nobody_would_start_it_again_it_stays(tmp_path, caplog):
    kept = Kept(tmp_path, kept=False)
    kept.ensure(16)
    assert kept.parallel().slots == 4
    assert "nobody would start it again" in caplog.text


def test_a_supervisor_that_does_not_listen_costs_a_moment_only(tmp_path, caplog):
    kept = Kept(tmp_path, listens=False)
    kept.ensure(16)
    assert (kept.withdrawn, kept.parallel().slots) == (1, 4)
    assert "does not listen" in caplog.text


def test_one_that_does_not_come_back_is_the_server_s_fault(tmp_path):
    with pytest.raises(TaskFault, match="not back") as caught:
        Kept(tmp_path, comes_back=False).ensure(16)
    assert (caught.value.fault, caught.value.kind) == ("infra", "server_down")


def test_a_cancelled_load_waits_no_longer(tmp_path):
    cancel = Cancel()
    cancel.cancel("stopping")
    with pytest.raises(TaskFault) as caught:
        Kept(tmp_path, comes_back=False).ensure(16, cancel)
    assert caught.value.fault == "cancelled"


@pytest.mark.parametrize(
    ("content", "slots"), [('{"slots": 12}', 12), ("{", 4), ('{"slots": 0}', 4), ('{"slots": 99999}', 4)]
)
def test_what_a_server_starts_with(tmp_path, content, slots):
    path = note_path(tmp_path, "worker-1")
    assert (wanted_parallel(path, has_card=True), wanted_parallel(path, has_card=False)) == (4, 1)
    path.write_text(content)
    assert wanted_parallel(path, has_card=True) == slots
