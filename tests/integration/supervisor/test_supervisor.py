"""The supervisor with real processes: start order, restarts, quarantine, adoption, and an end that leaves nothing."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from swarm.config.settings import (
    OllamaSettings,
    QueueSettings,
    RepairSettings,
    Settings,
    SupervisorSettings,
    WorkerSpec,
)
from swarm.core.policy.restart_backoff import RestartPolicy
from swarm.core.worker import WorkerRow
from swarm.engines.ollama import quarantine
from swarm.engines.ollama.quarantine import WorkerQuarantine
from swarm.engines.ollama.readiness import ReadinessProbe
from swarm.engines.ollama.server_spec import server_spec
from swarm.errors import ConfigError, EngineError, LockHeld, StorageFault
from swarm.gpu.nvml import NvmlReader
from swarm.proc import identity as identities
from swarm.proc.env_markers import find_marked, find_marked_values
from swarm.proc.ports import free_port, is_free
from swarm.queue.coordination import ProcessLock, is_held
from swarm.queue.file_queue import FileQueue
from swarm.queue.layout import Layout
from swarm.queue.stores.registry import read_row
from swarm.runtime.bootstrap import RunOptions
from swarm.supervisor import restarts
from swarm.supervisor.down import starter_of, stop_swarm
from swarm.supervisor.keeper import IDLE_S
from swarm.supervisor.main import plan_swarm
from swarm.supervisor.serve import ServerHost, run_server
from swarm.supervisor.state import ChildState, SupervisorStatus, load_plan, load_status, save_status
from swarm.worker.main import own_plan
from tests.helpers.wait import wait_until


def ours(root: Path) -> list[int]:
    return [i.pid for i in find_marked(SWARM_ROOT=str(root))]


def told(root: Path) -> dict[str, ChildState]:
    """What the status file says of each process."""
    status = load_status(root / "workers")
    return {} if status is None else {c.name: c.state for c in status.children}


def test_up_and_down_leave_nothing(swarm, root):
    one = swarm(simulate=2).up()
    pids = one.running()
    assert len(pids) == 5
    assert set(pids) == set(ours(root))
    names = ["brain", "ollama-worker-1", "ollama-worker-2", "worker-1", "worker-2"]
    wait_until(lambda: told(root) == dict.fromkeys(names, ChildState.RUNNING), what="the status file says so too")
    assert load_plan(root / "workers") == one.plans
    one.supervisor.request_drain()
    one.join()
    assert one.supervisor.leftovers == ()
    assert ours(root) == []
    assert all(is_free("127.0.0.1", p.port) for p in one.plans)
    assert load_plan(root / "workers") is None
    status = load_status(root / "workers")
    assert status is not None
    assert (status.phase, {c.state for c in status.children}) == ("ended", {ChildState.EXITED})
    assert [line.split()[0] for line in one.lines("ends")][-1] == "brain"
    assert one.lines("ends")[:2] in (["worker-1 1", "worker-2 1"], ["worker-2 1", "worker-1 1"])


def test_the_ray_driver_is_kept_and_ends_after_the_workers_and_before_the_brain(swarm):
    one = swarm(ray="auto").up()
    driver = one.running("brain", "ray", "w1", "w2")[1]
    os.kill(driver, signal.SIGKILL)
    wait_until(lambda: one.child("ray").restarts == 1, what="its end is seen")
    assert one.running("ray")[0] != driver
    one.supervisor.request_drain()
    one.join()
    assert [line.split()[0] for line in one.lines("ends")][-2:] == ["ray", "brain"]


def test_a_worker_starts_once_its_server_is_ready_others_at_once(swarm, monkeypatch):
    with monkeypatch.context() as slow:
        slow.setattr("swarm.engines.ollama.server.ServerProcess.ready", lambda _server: False)
        one = swarm(simulate=1).up()
        one.running("brain")
        assert one.child("worker-1").state is ChildState.BACKOFF
        assert "waits for its server" in one.child("worker-1").reason
    one.running()


def test_a_killed_worker_is_back_at_once_with_its_status(swarm, monkeypatch):
    one = swarm().up()
    one.running()
    old = one.running("w1")[0]
    monkeypatch.setattr("swarm.supervisor.keeper.IDLE_S", 300.0)
    turns = one.turns
    wait_until(lambda: one.turns > turns, what="a turn: the next is minutes away, unless the death itself causes it")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: one.child("w1").restarts == 1 and one.child("w1").pid not in (None, old))
    assert one.child("w1").last_exit == "killed by SIGKILL"
    one.running()


def test_a_crashing_worker_is_restarted_ever_more_slowly(swarm):
    one = swarm(mode="crash").up()
    wait_until(lambda: one.child("w1").restarts >= 4)
    assert one.child("w1").last_exit == "exit code 3"
    assert one.child("brain").restarts == 0


def test_what_a_killed_worker_left_running_is_killed(swarm, root):
    one = swarm(mode="orphan").up()
    one.running()
    wait_until(lambda: len(find_marked(SWARM_ROOT=str(root), SWARM_PROCESS="w1")) == 2)
    before = set(find_marked(SWARM_ROOT=str(root), SWARM_PROCESS="w1"))
    os.kill(one.running("w1")[0], signal.SIGKILL)
    wait_until(lambda: not any(identities.is_same(i) for i in before), what="worker and orphan are gone", timeout_s=60)


def test_a_killed_server_is_back_and_its_worker_goes_on(swarm):
    one = swarm(simulate=1).up()
    _, server, worker = one.running()
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: one.child("ollama-worker-1").restarts == 1)
    assert one.running()[2] == worker


def test_a_server_that_never_gets_ready_is_quarantined_while_the_rest_runs(swarm, root):
    one = swarm(simulate=1, start_timeout_s=0.2, env={"SWARM_SIM_NEVER_READY": "1"}).up()
    wait_until(lambda: one.child("ollama-worker-1").state is ChildState.QUARANTINED)
    reason = one.child("ollama-worker-1").reason
    assert "3 starts never got ready" in reason
    assert "ollama-worker-1.log" in reason
    one.running("brain")
    wait_until(lambda: "quarantined" in one.child("worker-1").reason)
    assert wait_until(lambda: one.lines("lives")) == [f"brain {one.child('brain').pid}"]
    wait_until(lambda: (s := load_status(root / "workers")) and s.child("ollama-worker-1").state is ChildState.QUARANTINED)


@pytest.mark.parametrize("workers", [(), (WorkerSpec(name="w1", gpus=(0,)),)])
@pytest.mark.parametrize("start", [plan_swarm, lambda options: own_plan(options, "w1")])
def test_a_start_without_cards_says_what_the_driver_said(root, monkeypatch, start, workers):
    monkeypatch.setattr(NvmlReader, "read", lambda reader: setattr(reader, "unavailable", "Version Mismatch") or ())
    with pytest.raises(ConfigError, match="Version Mismatch"):
        start(RunOptions(settings=Settings(queue=QueueSettings(root=str(root)), workers=workers)))


def test_a_lost_card_gets_no_server(swarm):
    one = swarm(simulate=1)
    plans = tuple(msgspec.structs.replace(p, fault="card 0: GPU is lost") for p in one.plans)
    lost = swarm(simulate=1, plans=plans).up()
    wait_until(lambda: "card 0: GPU is lost" in lost.child("worker-1").reason)
    assert lost.child("ollama-worker-1").state is ChildState.QUARANTINED


def test_drain_waits_for_the_work_and_a_second_wish_does_not(swarm):
    one = swarm(mode="busy").up()
    one.running()
    one.supervisor.request_drain()
    wait_until(lambda: one.child("w1").state is ChildState.STOPPING)
    assert one.child("w1").reason == "finishing its work"
    assert one.child("brain").state is ChildState.RUNNING
    one.supervisor.request_stop()
    one.join(60)
    ends = [line.split() for line in one.lines("ends")[:2]]
    assert sorted(name for name, _ in ends) == ["w1", "w2"]
    assert all(int(asked) >= 2 for _, asked in ends)


def test_a_finished_drain_needs_no_force(swarm, root):
    one = swarm(mode="busy").up()
    one.running()
    one.supervisor.request_drain()
    wait_until(lambda: one.child("w1").state is ChildState.STOPPING)
    (root / "done").touch()
    one.join(60)
    assert sorted(one.lines("ends")[:2]) == ["w1 1", "w2 1"]


def test_a_drain_without_end_is_cut_off(swarm):
    one = swarm(mode="busy", drain_s=0.3).up()
    one.running()
    one.supervisor.request_drain()
    one.join(60)


def test_stop_at_once_while_things_start(swarm, root):
    one = swarm(simulate=2).up()
    one.supervisor.request_stop()
    one.join(60)
    assert ours(root) == []


def test_a_second_supervisor_is_refused(swarm):
    one = swarm().up()
    one.running()
    with pytest.raises(LockHeld):
        swarm().up()


def test_the_next_supervisor_adopts_what_runs(swarm, root):
    one = swarm(simulate=2).up()
    before = one.running()
    one.die()
    two = swarm(simulate=2, ollama=one.settings.ollama).up()
    assert two.running() == before
    wait_until(lambda: len(one.lines("lives")) == 3, what="those are all there are")
    os.kill(two.child("worker-1").pid, signal.SIGKILL)
    wait_until(lambda: two.child("worker-1").restarts == 1)
    two.running()
    two.supervisor.request_drain()
    two.join()
    assert ours(root) == []


def test_what_runs_is_adopted_though_its_card_is_quarantined(swarm, root):
    one = swarm(simulate=1).up()
    before = one.running()
    one.die()
    quarantine.put(root / "workers", "worker-1", one.plans[0].gpu_uuids, "its server hangs", RepairSettings())
    two = swarm(simulate=1, ollama=one.settings.ollama).up()
    assert two.running() == before
    os.kill(two.child("worker-1").pid, signal.SIGKILL)
    wait_until(lambda: two.child("worker-1").restarts == 1, what="it is watched")


def test_an_end_before_the_first_turn_is_that_of_what_an_earlier_supervisor_left_too(swarm, root):
    one = swarm(simulate=1).up()
    one.running()
    one.die()
    two = swarm(simulate=1, ollama=one.settings.ollama)
    two.supervisor.request_drain()
    two.up().join(60)
    assert ours(root) == []
    assert two.supervisor.leftovers == ()
    assert one.lines("ends")[0] == "worker-1 1", "it was asked first, and once"


def test_what_may_be_neither_adopted_nor_replaced_yet_is_ended_with_the_rest(swarm, root):
    one = swarm(simulate=1).up()
    one.running()
    one.die()
    plans = tuple(msgspec.structs.replace(p, fault="card 0: GPU is lost", gpu_uuids=("GPU-x",)) for p in one.plans)
    two = swarm(simulate=1, plans=plans, ollama=one.settings.ollama).up()
    wait_until(lambda: "card 0: GPU is lost" in two.child("worker-1").reason)
    assert len(ours(root)) == 3
    two.supervisor.request_drain()
    two.join(60)
    assert ours(root) == []
    assert two.supervisor.leftovers == ()


def test_another_plan_replaces_what_no_longer_fits(swarm, root):
    one = swarm(simulate=3).up()
    before = one.running()
    one.die()
    two = swarm(simulate=2).up()
    two.running()
    assert set(find_marked_values("SWARM_PROCESS", SWARM_ROOT=str(root)).values()) == {"brain", "worker-1", "worker-2"}
    assert set(find_marked_values("SWARM_SERVER", SWARM_ROOT=str(root)).values()) == {"worker-1", "worker-2"}
    assert set(before) & set(two.running()) == {before[0]}


def test_a_stale_row_with_a_recycled_number_harms_nobody(swarm, root):
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        identity = identities.of_pid(innocent.pid)
        assert identity is not None
        row = WorkerRow(name="w1", process=msgspec.structs.replace(identity, start_ticks=1), started_at="x", epoch=1)
        (root / "workers" / "w1.json").write_bytes(msgspec.json.encode(row))
        one = swarm().up()
        one.running()
        one.supervisor.request_drain()
        one.join()
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.communicate()


@pytest.mark.parametrize("stale_row", [False, True])
def test_a_life_lock_held_by_an_unknown_process_is_respected(swarm, root, stale_row):
    if stale_row:
        dead = msgspec.structs.replace(identities.current(), start_ticks=1)
        row = WorkerRow(name="w1", process=dead, started_at="x", epoch=1)
        (root / "workers" / "w1.json").write_bytes(msgspec.json.encode(row))
    lock = ProcessLock(Layout(str(root)), "w1")
    lock.acquire()
    one = swarm().up()
    wait_until(lambda: "has not registered" in (one.child("w1").last_exit or ""))
    one.running("brain", "w2")
    assert not [line for line in one.lines("lives") if line.startswith("w1 ")]
    lock.release()
    one.running("w1")


def test_it_ends_by_itself_when_its_parent_is_gone(swarm, root):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    one = swarm(parent=identities.of_pid(parent.pid)).up()
    one.running()
    parent.kill()
    parent.communicate()
    one.join(60)
    assert ours(root) == []


def test_an_idle_supervisor_hardly_wakes(swarm):
    one = swarm().up()
    one.running()
    turns, began_s = one.turns, time.monotonic()
    threading.Event().wait(1.2)
    assert one.turns - turns <= 3 + (time.monotonic() - began_s) / IDLE_S


def test_a_full_disk_does_not_stop_it(swarm, root):
    one = swarm().up()
    one.running()
    wait_until(lambda: set(told(root).values()) == {ChildState.RUNNING}, what="nothing more is to be said")
    status = root / "workers" / "supervisor.status.json"
    status.unlink()
    status.mkdir()
    old = one.child("w1").pid
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: one.child("w1").restarts == 1)
    one.running()
    status.rmdir()
    wait_until(lambda: status.is_file() and json.loads(status.read_bytes())["phase"] == "running")


def refuse(path: object = "", *_: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_notes_that_cannot_be_removed_do_not_stop_it(swarm, root, monkeypatch, caplog):
    one = swarm(simulate=1).up()
    server = one.running("ollama-worker-1", "worker-1")[0]
    with monkeypatch.context() as read_only:
        read_only.setattr("swarm.engines.ollama.server.remove_note", refuse)
        read_only.setattr("swarm.supervisor.restarts.remove_note", refuse)
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: one.child("ollama-worker-1").restarts == 1)
        one.running()
        restarts.request_restart(root, "worker-1")
        turns = one.turns
        wait_until(lambda: one.supervisor.wake() or one.turns > turns + 3, what="turns that meet the wish")
    assert caplog.text.count("requests to restart: Read-only file system") == 1
    wait_until(lambda: restarts.is_taken(root, "worker-1"), what="the wish is heard")


def test_a_process_that_cannot_be_started_for_a_sick_disk_is_tried_again(swarm, monkeypatch):
    with monkeypatch.context() as read_only:
        read_only.setattr("swarm.supervisor.local_process.rotate_if_large", refuse)
        one = swarm().up()
        wait_until(lambda: "could not start: Read-only file system: " in (one.child("w1").last_exit or ""))
    one.running()


def test_a_life_lock_that_cannot_be_looked_at_hinders_its_process_alone(swarm, monkeypatch, caplog):
    one = swarm()

    def broken(layout: Layout, name: str) -> bool:
        if name == "w1":
            raise StorageFault("cannot look at a process lock: Input/output error")
        return is_held(layout, name)

    with monkeypatch.context() as sick:
        sick.setattr("swarm.supervisor.local_process.is_held", broken)
        one.up()
        one.running("brain", "w2")
        wait_until(lambda: "w1: cannot look at a process lock: Input/output error" in caplog.text, what="it is said")
    one.running("w1")


@pytest.mark.parametrize(("call", "adopted"), [("current", False), ("is_same", True)])
def test_a_host_that_shows_no_processes_now_does_not_stop_it(swarm, root, monkeypatch, call, adopted):
    """As where no descriptor is left."""
    one = swarm().up()
    one.running()
    old = one.child("w1").pid
    if adopted:
        one.die()
        one = swarm().up()
        one.running()
    with monkeypatch.context() as full:
        full.setattr(f"swarm.proc.identity.{call}", refuse)
        os.kill(old, signal.SIGKILL)
        turns = one.turns
        wait_until(lambda: one.supervisor.wake() or one.turns > turns + 3, what="turns in which nothing can be seen")
        wait_until(lambda: adopted or one.child("w1").restarts == 1, what="what can be seen is acted on")
    wait_until(lambda: one.child("w1").pid not in (None, old), what="it sees again")
    one.running()
    wait_until(lambda: told(root)["w1"] is ChildState.RUNNING, what="the status file says so")


def test_a_server_for_which_there_is_no_thread_now_is_started_again(swarm, root, monkeypatch):
    refusals = [RuntimeError("can't start new thread")]
    start = ReadinessProbe.start

    def sometimes(probe: ReadinessProbe) -> None:
        if refusals:
            raise refusals.pop()
        start(probe)

    monkeypatch.setattr(ReadinessProbe, "start", sometimes)
    one = swarm(simulate=1).up()
    one.running()
    assert "can't start new thread" in (one.child("ollama-worker-1").last_exit or "")
    assert one.child("ollama-worker-1").restarts == 1
    assert one.child("ollama-worker-1").pid in [i.pid for i in find_marked(SWARM_SERVER="worker-1", SWARM_ROOT=str(root))]


@pytest.fixture
def hosted(root):
    settings = Settings(
        queue=QueueSettings(root=str(root)),
        ollama=OllamaSettings(base_port=free_port(), stop_grace_s=2.0),
        supervisor=SupervisorSettings(restart_cap_s=7.0),
    )
    return RunOptions(settings=settings, simulate=1)


def test_the_host_of_a_server_keeps_it_while_nobody_can_say_whether_a_supervisor_lives(root, hosted, caplog):
    FileQueue(str(root)).prepare()
    plan = own_plan(hosted, "worker-1")
    spec = server_spec(plan, hosted.settings, root=root, base_env=os.environ)
    book = WorkerQuarantine(root / "workers", plan.name, plan.gpu_uuids, hosted.settings.repair)
    host = ServerHost(
        root,
        spec,
        None,
        book,
        policy=RestartPolicy(),
        supervised=refuse,
        root_trouble=lambda: "",
        log=logging.getLogger("host"),
    )
    try:
        wait_until(lambda: host.step() and find_marked(**spec.markers), what="its server runs")
        assert not host.finished
        assert caplog.text.count("the supervisor's process lock: Read-only file system") == 1
    finally:
        host.wish.ask()
        wait_until(lambda: host.finished or host.step() < 0, what="its end")
        host.close()
    assert find_marked(**spec.markers) == []


def test_the_host_of_a_server_restarts_it_as_configured(hosted, monkeypatch):
    policies = []

    def caught(*_, policy: RestartPolicy, **__):
        policies.append(policy)
        raise InterruptedError

    monkeypatch.setattr("swarm.supervisor.serve.ServerHost", caught)
    with pytest.raises(InterruptedError):
        run_server(hosted, "worker-1")
    assert policies[0].cap_s == 7.0


LINGERS = """
import signal, sys, time
from swarm.runtime.bootstrap import living, own_row
from swarm.queue.file_queue import FileQueue
signal.signal(signal.SIGTERM, lambda *_: wishes.append(1))
wishes = []
with living(FileQueue(sys.argv[1]), own_row("supervisor", "supervisor")):
    while not wishes:
        time.sleep(0.01)
time.sleep(0.4)
"""


def test_down_returns_only_when_the_supervisor_itself_has_gone(root):
    """It lets go of its lock before Python has ended; who looks for processes then must find none."""
    queue = FileQueue(str(root)).prepare()
    settings = Settings(queue=QueueSettings(root=str(root)))
    process = subprocess.Popen([sys.executable, "-c", LINGERS, str(root)])
    try:
        wait_until(lambda: is_held(queue.layout, "supervisor") and read_row(queue.layout, "supervisor"), what="it is up")
        lines = stop_swarm(settings, now=False)
        assert lines == (f"supervisor ended (pid {process.pid})",)
        assert process.poll() == 0
    finally:
        process.kill()
        process.wait()


def test_what_a_loop_starts_again_is_seen_before_it_has_registered():
    lives = 'sleep 600; while :; do "$@"; done'
    loop = subprocess.Popen(["sh", "-c", lives, "loop", "sleep", "601"], start_new_session=True)

    def child(seconds):
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):  # one that was killed, not reaped yet
            return next((c.pid for c in psutil.Process(loop.pid).children() if c.cmdline() == ["sleep", seconds]), None)

    try:
        os.kill(wait_until(lambda: child("600"), what="another program of the same parent"), signal.SIGKILL)
        first = wait_until(lambda: child("601"), what="the first life")
        starter = starter_of(first)
        assert not starter.starts_again()
        os.kill(first, signal.SIGKILL)
        wait_until(starter.starts_again, what="the next life")
        loop.kill()
        loop.wait()
        assert not starter.starts_again(), "nobody is left to do it"
    finally:
        os.killpg(loop.pid, signal.SIGKILL)
        loop.wait()


def test_down_fails_when_something_was_left_running(root):
    queue = FileQueue(str(root)).prepare()
    process = subprocess.Popen([sys.executable, "-c", LINGERS, str(root)])
    try:
        row = wait_until(
            lambda: is_held(queue.layout, "supervisor") and read_row(queue.layout, "supervisor"), what="it is up"
        )
        status = SupervisorStatus(
            process=row.process, started_at="x", written_at="x", phase="ended", leftovers=("pid 4711 (ollama runner)",)
        )
        save_status(root / "workers", status)
        with pytest.raises(EngineError, match="left running: pid 4711"):
            stop_swarm(Settings(queue=QueueSettings(root=str(root))), now=False)
    finally:
        process.kill()
        process.wait()
