"""The repair ladder against a simulated server: each rung with its log line, its limit, and what it does to processes."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from swarm.config.settings import RepairSettings
from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits, LoadOrder
from swarm.engines.ollama import quarantine
from swarm.engines.ollama import repair_actions as hands_module
from swarm.engines.ollama.repair_actions import RepairActions
from swarm.engines.ollama.repairing_server import RepairingServer
from swarm.engines.ollama.server import ServerNote
from swarm.filesystem.temporary import write_note
from swarm.proc import identity
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER
from tests.helpers.blocking import AsyncServer, wait_for
from tests.helpers.simserver import SimServer
from tests.helpers.wait import wait_until

MODEL = "llama3.2:1b"
SOON = Limits(total_s=60.0, first_token_s=60.0, token_gap_s=0.25)
PATIENT = Limits(total_s=60.0, first_token_s=60.0, token_gap_s=60.0)
UUIDS = ("SIM-GPU-0",)


class Ladder:
    """One server under repair, with the note its supervisor would have written."""

    def __init__(self, tmp_path, limits=None, *, supervised=True, **knobs):
        self.workers = tmp_path / "workers"
        self.workers.mkdir(exist_ok=True)
        self.sim = SimServer(env={SERVER_MARKER: "worker-1", ROOT_MARKER: str(tmp_path)}, load_s=0.0, **knobs)
        self.limits = limits or RepairSettings()
        self.hands = RepairActions(
            "worker-1", root=tmp_path, gpu_uuids=UUIDS, limits=self.limits, supervised=lambda: supervised
        )

    def start(self):
        self.sim.start()
        me = identity.of_pid(self.sim.pid)
        note = ServerNote(worker="worker-1", process=me, url=self.sim.url, port=self.sim.port, fingerprint="-")
        write_note(self.workers / "worker-1.server.json", note)
        return self

    def __enter__(self):
        self.start()
        self.server = RepairingServer(
            AsyncServer(self.sim.client), self.hands, self.limits, log=logging.getLogger("worker-1")
        )
        return self

    def __exit__(self, *_):
        self.sim.stop()

    def ask(self, endpoint="/api/chat", limits=PATIENT, task=None):
        """A request whose fault, if there is one, is known to be the server's."""
        body = {"model": MODEL, "input": "hello"}
        if endpoint == "/api/chat":
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
        began_s = time.monotonic()
        try:
            return wait_for(self.server.run(endpoint, body, limits=limits, progress=None, marker=task))
        except TaskFault as fault:
            self.server.broke(fault, task, began_s)
            raise

    def fault(self, endpoint="/api/chat", limits=SOON, task=None):
        with pytest.raises(TaskFault) as caught:
            self.ask(endpoint, limits, task)
        return caught.value.kind


class Loads:
    """A server on whose card every load ends as told."""

    def __init__(self, fault):
        self.fault = fault

    def load(self, order, **_how):
        raise self.fault


def load_on(one, *fault):
    server = RepairingServer(Loads(TaskFault(*fault)), one.hands, one.limits, log=logging.getLogger("worker-1"))

    def load():
        with pytest.raises(TaskFault) as caught:
            server.load(LoadOrder(model=MODEL, slots=1), timeout_s=1.0, cancel=None)
        return caught.value.kind

    return load


class Talk:
    """A server whose requests take 10 s by a clock of its own, and the runners that a repair killed."""

    def __init__(self):
        self.now_s = 0.0
        self.kills = 0
        self.server = RepairingServer(
            self, self, RepairSettings(), log=logging.getLogger("worker-1"), now_s=lambda: self.now_s
        )

    async def run(self, endpoint, body, *, limits, progress, marker, on_piece):
        for _ in range(10):
            self.now_s += 1.0
            if limits(self.now_s):
                progress(1)
        if not marker.startswith("good"):
            raise TaskFault("transient", "timeout", "no complete answer within 10 s")

    def ask(self, task, *, talks=lambda _now_s: False):
        began_s = self.now_s
        try:
            wait_for(self.server.run("/api/chat", {}, limits=talks, progress=None, marker=task))
        except TaskFault as fault:
            self.server.broke(fault, task, began_s)

    def kill_runners(self):
        self.kills += 1
        return ("runner",)

    def quarantined(self):
        return ""

    def on_trial(self):
        return False

    def recovered(self):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch, caplog):
    monkeypatch.setattr(hands_module, "TERM_WAIT_S", 0.3)
    monkeypatch.setattr(quarantine, "RECHECK_S", 0.0)
    caplog.set_level(logging.INFO)


def test_a_server_that_hangs_climbs_rung_by_rung_to_quarantine(tmp_path, caplog):
    with Ladder(tmp_path, faults=["hang_mid"]) as one:
        assert one.fault() == "token_gap_timeout"
        assert "Repair 1 of 4, request cut" in caplog.text
        (runner,) = one.sim.runner_pids()
        assert one.fault() == "token_gap_timeout"
        assert "Repair 2 of 4, runner killed" in caplog.text
        wait_until(lambda: identity.of_pid(runner) is None, what="the runner gone")
        assert one.sim.process.poll() is None, "the server itself is left alone"
        one.fault()
        assert "Repair 3 of 4, server stopped for a restart" in caplog.text
        one.sim.process.wait(60)
        one.start()
        one.fault()
        assert "Repair 4 of 4, quarantined" in caplog.text
        assert one.fault() == "quarantined"
        assert quarantine.read(one.workers, "worker-1", UUIDS).times == 1
        quarantine.release(one.workers, "worker-1")
        one.sim.set(faults=[])
        assert one.ask().final["done"]


def test_one_success_is_the_ground_again(tmp_path, caplog):
    with Ladder(tmp_path, faults=["hang_mid"], fault_limit=1) as one:
        one.fault()
        one.ask()
        assert "Server repaired" in caplog.text
        one.sim.set(faults=["hang_mid"], fault_limit=-1)
        one.fault()
        assert "Repair 2" not in caplog.text


def test_rungs_can_be_left_out_and_repeated(tmp_path, caplog):
    limits = RepairSettings(cut_requests=2, kill_runners=0, restart_servers=0)
    with Ladder(tmp_path, limits, faults=["hang_mid"]) as one:
        for _ in range(3):
            one.fault()
    assert caplog.text.count("Repair 1 of 4") == 2
    assert "Repair 2" not in caplog.text
    assert "Repair 4 of 4" in caplog.text


@pytest.mark.parametrize("endpoint", ["/api/chat", "/api/embed"])
def test_requests_that_time_out_in_silence_climb_too(tmp_path, caplog, endpoint):
    short = Limits(total_s=0.2, first_token_s=0.2, token_gap_s=0.2)
    with Ladder(tmp_path, RepairSettings(timeouts=2, restart_servers=0), faults=["hang_first"]) as one:
        assert one.fault(endpoint, short, "t1") == "timeout"
        assert "Repair" not in caplog.text
        assert one.fault(endpoint, short, "t2") == "timeout"
        assert "Repair 2 of 4, runner killed: 2 requests in a row timed out in silence" in caplog.text
        assert one.fault(endpoint, short, "t1") == "timeout"
        assert one.fault(endpoint, short, "t2") == "timeout"
        assert "Repair 4 of 4, quarantined" in caplog.text


def test_a_trial_that_times_out_in_silence_doubles_the_quarantine(tmp_path):
    limits = RepairSettings(timeouts=1, quarantine_s=0.05)
    with Ladder(tmp_path, limits, faults=["hang_first"]) as one:
        one.hands.quarantine("it hung too often")
        wait_until(one.hands.on_trial, what="the trial due")
        one.fault("/api/embed", Limits(total_s=0.2))
        assert quarantine.read(one.workers, "worker-1", UUIDS).times == 2


def test_a_hang_in_the_middle_counts_although_the_time_limit_ends_first():
    one = Talk()
    for task in ("t1", "t2", "t3"):
        began_s = one.now_s
        one.ask(task, talks=lambda now_s, began_s=began_s: now_s < began_s + 4)
    assert one.kills == 1


def test_what_is_slow_but_talks_does_not_hang():
    one = Talk()
    for n in range(9):
        one.ask(f"t{n}", talks=lambda now_s: now_s % 3 == 0)
    assert one.kills == 0


def test_timeouts_between_answers_are_no_hang():
    one = Talk()
    for n in range(9):
        one.ask("good" if n % 3 == 2 else f"t{n}")
    assert one.kills == 0


def test_one_task_whose_time_is_too_short_is_no_hang():
    one = Talk()
    for _ in range(9):
        one.ask("t1")
    assert one.kills == 0
    one.ask("t2")
    assert one.kills == 1


@pytest.mark.parametrize("kind", ["runner_died", "load_timeout", "timeout"])
def test_a_card_on_which_every_load_dies_or_hangs_is_repaired_and_then_quarantined(tmp_path, caplog, kind):
    with Ladder(tmp_path, RepairSettings(crashes=2), supervised=False) as one:
        load = load_on(one, "infra", kind, "no load ends well here")
        assert [load() for _ in range(2)] == [kind] * 2
        assert "Repair 3 of 4" in caplog.text
        assert [load() for _ in range(2)] == [kind] * 2
        assert "Repair 4 of 4, quarantined: no load ends well here" in caplog.text
        assert load() == "quarantined"


@pytest.mark.parametrize("kind", ["load_failed", "out_of_memory", "does_not_fit", "model_incompatible", "aborted"])
def test_a_load_that_fails_for_want_of_room_or_by_its_model_is_no_reason_to_repair(tmp_path, caplog, kind):
    with Ladder(tmp_path, RepairSettings(crashes=1)) as one:
        load = load_on(one, "infra", kind, "not the card's fault")
        assert [load() for _ in range(3)] == [kind] * 3
        assert "Repair" not in caplog.text


def test_one_load_that_dies_on_trial_doubles_the_quarantine(tmp_path):
    with Ladder(tmp_path, RepairSettings(quarantine_s=0.05)) as one:
        one.hands.quarantine("the card was lost")
        wait_until(one.hands.on_trial, what="the trial due")
        load_on(one, "infra", "load_timeout", "timed out waiting for llama runner to start")()
        assert quarantine.read(one.workers, "worker-1", UUIDS).times == 2


def test_a_wedged_scheduler_is_repaired_although_no_request_hangs(tmp_path, caplog):
    with Ladder(tmp_path, RepairSettings(wedged_after_s=0.3, kill_runners=0), ps_hang=True) as one:

        def silent():
            with pytest.raises(TaskFault):
                one.server.ps(0.1)
            return "Repair 3 of 4" in caplog.text

        wait_until(silent, what="the repair")
        one.sim.process.wait(60)


def test_a_server_that_ignores_sigterm_is_killed(tmp_path):
    with Ladder(tmp_path, ignore_sigterm=True) as one:
        assert "swarm.simulator" in one.hands.restart_server()
        assert one.sim.process.wait(60) == -9


def test_without_anybody_to_start_it_again_a_server_is_left_running(tmp_path):
    with Ladder(tmp_path, supervised=False) as one:
        assert one.hands.restart_server() is None
        assert one.sim.process.poll() is None


def test_an_adopted_server_is_never_touched(tmp_path):
    with Ladder(tmp_path) as one:
        (one.workers / "worker-1.server.json").unlink()
        assert one.hands.kill_runners() == ()
        assert one.hands.restart_server() is None
        assert one.ask().final["done"]


def test_a_request_under_way_when_the_card_was_lost_does_not_end_its_quarantine(tmp_path):
    with Ladder(tmp_path, request_s=0.5) as one:
        asked = threading.Thread(target=one.ask)
        asked.start()
        wait_until(lambda: one.sim.state()["in_flight"], what="the request under way")
        one.hands.quarantine("the card was lost")
        asked.join()
        assert quarantine.read(one.workers, "worker-1", UUIDS).reason == "the card was lost"
        assert one.fault() == "quarantined"


def test_a_trial_that_goes_well_does_not_end_a_quarantine_renewed_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "RECHECK_S", 60.0)
    limits = RepairSettings(quarantine_s=0.05)
    with Ladder(tmp_path, limits) as one:
        one.hands.quarantine("it hung too often")
        wait_until(one.hands.on_trial, what="the trial due")
        quarantine.put(one.workers, "worker-1", UUIDS, "never got ready", RepairSettings())
        one.hands.recovered()
        assert quarantine.read(one.workers, "worker-1", UUIDS).reason == "never got ready"


def test_an_answer_counts_although_the_note_of_a_quarantine_cannot_be_removed(tmp_path, monkeypatch, caplog):
    def refuse(_path):
        raise OSError(30, "Read-only file system")

    with Ladder(tmp_path, RepairSettings(quarantine_s=0.05)) as one:
        one.hands.quarantine("it hung too often")
        wait_until(one.hands.on_trial, what="the trial due")
        with monkeypatch.context() as disk:
            disk.setattr(quarantine, "remove_note", refuse)
            assert one.ask().final["done"]
        assert "the note cannot be removed: Read-only file system" in caplog.text
        one.ask()
        assert quarantine.read(one.workers, "worker-1", UUIDS) is None


def test_a_quarantine_outlives_the_worker_and_its_trial_decides(tmp_path, monkeypatch):
    real, passed_s = time.time, [0.0]
    monkeypatch.setattr(quarantine.time, "time", lambda: real() + passed_s[0])
    limits = RepairSettings(cut_requests=0, kill_runners=0, restart_servers=0, quarantine_s=600.0)
    with Ladder(tmp_path, limits, faults=["hang_mid"]) as one:
        one.fault()
        assert one.fault() == "quarantined"
        one.server = RepairingServer(AsyncServer(one.sim.client), one.hands, limits, log=logging.getLogger("next-life"))
        assert one.fault() == "quarantined"
        passed_s[0] += limits.quarantine_s
        assert not one.hands.quarantined(), "the trial is due"
        one.fault()
        assert quarantine.read(one.workers, "worker-1", UUIDS).times == 2, "a failed trial doubles it"
        passed_s[0] += limits.quarantine_s
        assert one.hands.quarantined()
        passed_s[0] += limits.quarantine_s
        assert not one.hands.quarantined(), "the second trial is due"
        one.sim.set(faults=[])
        one.ask()
        assert quarantine.read(one.workers, "worker-1", UUIDS) is None


def test_a_quarantine_that_stands_is_not_doubled_by_further_news_of_the_same_trouble(tmp_path):
    notes = [quarantine.put(tmp_path, "worker-1", UUIDS, "the card was lost", RepairSettings()) for _ in range(6)]
    assert {note.times for note in notes} == {1}
    assert notes[-1].left_s <= RepairSettings().quarantine_s


def test_a_quarantine_written_while_the_clock_was_ahead_is_due_for_its_trial(tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(quarantine.time, "time", lambda: now + 10 * 365 * 86400)
    ahead = quarantine.put(tmp_path, "worker-1", UUIDS, "the card was lost", RepairSettings())
    assert ahead.left_s == RepairSettings().quarantine_s
    monkeypatch.setattr(quarantine.time, "time", lambda: now)
    assert ahead.left_s == 0


def test_a_worker_moved_to_another_card_starts_afresh(tmp_path):
    workers = tmp_path / "workers"
    workers.mkdir()
    quarantine.put(workers, "worker-1", UUIDS, "test", RepairSettings())
    other = RepairActions("worker-1", root=tmp_path, gpu_uuids=("SIM-GPU-5",), limits=RepairSettings())
    assert other.quarantined() == ""
