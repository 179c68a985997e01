"""From evidence to findings: the pure part of `swarm doctor`, and the readers of single sources."""

import os
import time

import msgspec
import pytest

from swarm.config.settings import GpuSettings, OllamaSettings, Settings
from swarm.core.doctor.diagnose import about, diagnose
from swarm.core.doctor.evidence import BoxEvidence, DiskEvidence, ProcessEvidence, Quote, ServerEvidence
from swarm.core.doctor.root_check import WRITE, Check, Support
from swarm.core.gpu_reading import GpuReading
from swarm.core.lanes import Pause, Pauses, llm_lane
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.snapshot import ClaimView, LaneView, SwarmSnapshot
from swarm.core.task import TaskClass
from swarm.core.worker import LivePlaces, ModelTally, ProcessIdentity
from swarm.queue.file_queue import FileQueue
from swarm.queue.layout import Layout
from swarm.queue.stores import registry
from swarm.supervisor.state import SupervisorStatus
from swarm.views.doctor.host_evidence import (
    able,
    boxed_kills,
    disk_evidence,
    kernel_kills,
    newer_than_now,
    open_programs,
    root_trouble,
    way_trouble,
)
from swarm.views.doctor.log_ends import LogEnd
from swarm.views.doctor.process_evidence import lock_holder, process_evidence
from tests.helpers.spoken import fault_of
from tests.support.builders import MODEL, a_row, a_snapshot, a_worker, live_waiting

replace = msgspec.structs.replace
DISK = DiskEvidence(path="/q", free_mib=50_000, total_mib=100_000, free_inodes=10**6)
HEALTHY = BoxEvidence(
    root="/q",
    root_exists=True,
    disk=DISK,
    open_files=65536,
    snapshot=SwarmSnapshot(now_iso="", mono_s=0.0, workers=(a_worker("worker-1"),)),
    plan=(WorkerPlan(name="worker-1", gpus=(0,), gpu_uuids=("GPU-0",), port=11435, url="http://127.0.0.1:11435"),),
    cards=(GpuReading(index=0, uuid="GPU-0", name="x", temperature_c=60),),
    binary="ollama",
    supervisor_phase="running",
    processes=(
        ProcessEvidence(name="supervisor", role="supervisor", alive=True, pid=10, registered_runs=True),
        ProcessEvidence(name="brain", role="brain", alive=True, pid=11, registered_runs=True, state="running"),
        ProcessEvidence(name="worker-1", role="worker", alive=True, pid=12, registered_runs=True, state="running"),
        ProcessEvidence(name="ollama-worker-1", role="server", alive=True, pid=13, state="running"),
    ),
    servers=(ServerEvidence(worker="worker-1", url="http://127.0.0.1:11435", installed=(MODEL,), port=11435),),
)


def box(**more) -> BoxEvidence:
    """The healthy box with one thing changed; a name of a process with its fields changes that process."""
    processes = list(HEALTHY.processes)
    for name in [n for n in more if isinstance(more[n], dict)]:
        at = next(i for i, p in enumerate(processes) if p.name == name.replace("_", "-"))
        processes[at] = replace(processes[at], **more.pop(name))
    return replace(HEALTHY, **{"processes": tuple(processes), **more})


def codes(evidence: BoxEvidence, settings: Settings | None = None) -> dict[str, object]:
    return {f.code: f for f in diagnose(evidence, settings or Settings())}


def quote(text: str, *, age_s: float = 1.0) -> Quote:
    return Quote(path="/q/logs/x.log", line=7, text=text, age_s=age_s)


def waiting(model: str, number: int = 3) -> LaneView:
    return LaneView(lane=llm_lane(model), task_class=TaskClass.LLM, model=model, pending=number)


def test_a_healthy_box_has_no_findings():
    assert codes(HEALTHY) == {}


def test_what_is_made_up_for_without_loss_is_no_finding_nor_is_a_trouble_of_the_disk_told_twice():
    quiet = Check(name="pidfds", verdict=Support.FALLBACK, text="not here")
    disk = Check(name=WRITE, verdict=Support.MISSING, text="nothing can be written", next="remount")
    assert codes(box(checks=(quiet, disk))) == {}


CAUSES = {
    "disk-full": box(disk=replace(DISK, free_mib=3, refused="No space left on device")),
    "disk-low": box(disk=replace(DISK, free_mib=200)),
    "disk-read-only": box(disk=replace(DISK, read_only=True)),
    "disk-refuses": box(disk=replace(DISK, refused="Input/output error")),
    "program-open": box(open_programs=(("[scripts] x", "/bin/x can be written to by everybody", "chmod go-w /bin/x"),)),
    "root-permissions": box(root_trouble="/q belongs to user 7", snapshot=None),
    "root-unreadable": box(look_trouble="cannot look", snapshot=None),
    "open-files": box(open_files=256),
    "host-lacks": box(
        checks=(Check(name="locks", verdict=Support.MISSING, text="there are no file locks here", next="--root"),)
    ),
    "host-fallback": box(
        checks=(Check(name="inotify", verdict=Support.FALLBACK, text="no instance is left", next="sysctl"),)
    ),
    "clock": box(clock_ahead=quote("written 2027, the clock says 2026")),
    "memory-pressure": box(cgroup_kills=quote("oom_kill 2")),
    "no-plan": box(plan=(), plan_trouble="there is no GPU 9"),
    "no-nvml": box(cards=(), cards_trouble="Driver Not Loaded"),
    "no-ollama": box(binary_found=False),
    "card-lost": box(cards=(GpuReading(index=0, uuid="GPU-0", name="x", fault="GPU is lost"),)),
    "card-hot": box(cards=(GpuReading(index=0, uuid="GPU-0", name="x", temperature_c=90),)),
    "port-taken": box(servers=(replace(HEALTHY.servers[0], port_holder="pid 4711 (ollama serve)"),)),
    "supervisor-died": box(supervisor={"alive": False}),
    "no-brain": box(brain={"alive": False}),
    "server-failed": box(ollama_worker_1={"state": "backoff", "last_exit": "not ready within 120 s: connection refused"}),
    "quarantined": box(ollama_worker_1={"state": "quarantined", "reason": "3 starts never got ready"}),
    "lock-held": box(worker_1={"registered_runs": False, "lock_holder": "pid 9 (sleep)"}),
    "stopped": box(worker_1={"kernel_state": "T"}),
    "stuck-in-kernel": box(worker_1={"kernel_state": "D"}),
    "heartbeat-stale": box(worker_1={"beat_age_s": 40.0}),
    "out-of-memory": box(
        worker_1={"alive": False, "last_exit": "killed by SIGKILL"},
        kernel_kills=((12, quote("Out of memory: Killed process 12")),),
    ),
    "crashed": box(worker_1={"alive": False, "last_exit": "exit code 70", "crash": quote("KeyError: 'x'")}),
    "killed": box(worker_1={"alive": False, "last_exit": "killed by SIGKILL", "ended": quote("worker-1 ended")}),
    "exited": box(worker_1={"alive": False, "last_exit": "exit code 2"}),
    "down": box(worker_1={"alive": False, "reason": "waits for its server"}),
    "server-unreachable": box(servers=(replace(HEALTHY.servers[0], error="timed out", installed=None),)),
    "model-missing": box(snapshot=replace(HEALTHY.snapshot, lanes=(waiting("other:1b"),))),
    "not-running": box(
        snapshot=SwarmSnapshot(now_iso="", mono_s=0.0, lanes=(waiting(MODEL),)),
        supervisor_phase="",
        processes=(),
        servers=(),
    ),
    "disk-trouble": box(worker_1={"disk_trouble": quote("The disk refuses: Disk quota exceeded")}),
    "stuck": box(
        snapshot=replace(HEALTHY.snapshot, claims=(ClaimView(task_id="t", attempt=1, worker="worker-1", quiet_s=999.0),))
    ),
}


@pytest.mark.parametrize("code", CAUSES)
def test_each_cause_is_named_with_its_evidence_and_what_to_do(code):
    found = codes(CAUSES[code])
    assert code in found, found
    finding = found[code]
    assert finding.evidence or code == "no-plan"
    assert finding.next
    assert len(finding.what) > 20
    critical = [f.severity for f in diagnose(CAUSES[code], Settings())]
    assert critical == sorted(critical), "the worst first"


def test_who_cannot_write_a_heartbeat_is_not_said_to_be_killed_for_it():
    full = replace(DISK, free_mib=3, refused="No space left on device")
    assert list(codes(box(disk=full, worker_1={"beat_age_s": 400.0}))) == ["disk-full"]


def test_what_an_orderly_end_leaves_is_no_finding():
    ended = box(supervisor_phase="ended", supervisor={"alive": False}, brain={"alive": False}, worker_1={"alive": False})
    assert codes(ended) == {}


def test_a_worker_that_ended_with_its_drained_node_is_no_finding_and_one_that_waits_is():
    reason = {"alive": False, "reason": "its node is drained"}
    assert codes(box(worker_1={**reason, "state": "exited"})) == {}
    assert "down" in codes(box(worker_1={**reason, "state": "backoff"}))
    assert "down" in codes(box(worker_1={**reason, "state": "exited"}, supervisor_phase="draining"))


def test_a_worker_that_is_kept_no_more_is_left_out_if_its_card_was_in_another_machine(tmp_path):
    queue = FileQueue(str(tmp_path)).prepare()
    status = SupervisorStatus(
        process=ProcessIdentity(pid=1, start_ticks=1, boot_id="b"), started_at="", written_at="", phase="running"
    )
    for name, node in (("worker-1", ""), ("box2-gpu0", "box2")):
        registry.register(queue.layout, queue.storage, a_row(name, node=node))

    def names(told):
        found = process_evidence(queue.layout, ["worker-1", "box2-gpu0"], told, 0.0, trust_clock=True)
        return [one.name for one in found]

    assert names(status) == ["worker-1"]
    assert names(None) == ["worker-1", "box2-gpu0"]


def test_an_old_crash_that_was_survived_is_no_news():
    crash = quote("KeyError: 'x'", age_s=9000.0)
    assert codes(box(worker_1={"crash": crash, "restarts": 1})) == {}
    assert codes(box(worker_1={"crash": replace(crash, age_s=60.0), "restarts": 1}))["crashed"].severity == "warning"


def test_the_kernels_word_goes_before_a_guess_and_the_numbers_are_quoted():
    said = quote("Memory cgroup out of memory: Killed process 12 (python)")
    dead = {"alive": False, "last_exit": "killed by SIGKILL"}
    found = codes(box(worker_1=dead, kernel_kills=((12, said),), cgroup_kills=quote("oom_kill 1")))
    assert "killed" not in found
    assert str(said) in found["out-of-memory"].evidence
    guess = codes(box(worker_1=dead, cgroup_kills=quote("oom_kill 1")))["killed"]
    assert "memory" in guess.what
    other = codes(box(worker_1=dead, kernel_kills=((99, said),)))
    assert "out-of-memory" not in other, "another process's death proves nothing"


def test_a_load_that_fails_is_told_with_the_numbers():
    view = a_worker("worker-1")
    beat = replace(view.heartbeat, models={"big:70b": ModelTally(load_failures=3, size_mib=43_000)})
    snapshot = replace(HEALTHY.snapshot, workers=(replace(view, heartbeat=beat),), lanes=(waiting("big:70b"),))
    servers = (replace(HEALTHY.servers[0], installed=("big:70b",)),)
    found = codes(box(snapshot=snapshot, servers=servers))["load-failed"]
    assert "3x in a row" in found.what
    assert "43000 MiB" in found.evidence[0]


def test_a_model_is_not_called_missing_while_a_server_has_not_answered():
    silent = replace(HEALTHY.servers[0], installed=None)
    assert "model-missing" not in codes(box(snapshot=replace(HEALTHY.snapshot, lanes=(waiting("x:1b"),)), servers=(silent,)))


def test_a_card_is_hot_from_the_configured_temperature():
    hot = CAUSES["card-hot"]
    assert "card-hot" not in codes(hot, Settings(gpu=GpuSettings(warn_c=91.0)))
    found = codes(box(cards=HEALTHY.cards), Settings(gpu=GpuSettings(warn_c=60.0)))["card-hot"]
    assert "from 60 °C" in found.evidence[0]


def test_one_worker_is_shown_its_own_findings_and_those_of_the_box():
    other = ProcessEvidence(name="worker-2", role="worker", alive=True, pid=20, registered_runs=True, kernel_state="T")
    evidence = replace(box(open_files=1, cards=CAUSES["card-hot"].cards), processes=(*HEALTHY.processes, other))
    found = diagnose(evidence, Settings())
    assert {f.code for f in about(found, "worker-1")} == {"open-files", "card-hot"}
    assert {f.code for f in about(found, "worker-2")} == {"open-files", "stopped"}


# -- readers


def test_the_last_traceback_is_quoted_by_its_exception_and_its_line(tmp_path):
    path = tmp_path / "w.log"
    head = "[2026-02-07T21:05:50.123+01:00] [w] ERROR "
    old = [f"{head}first", f"{head}| Traceback (most recent call last):", f"{head}| ValueError: old"]
    new = [
        f"{head}x",
        f"{head}| Traceback (most recent call last):",
        f'{head}|   File "a.py", line 1',
        f"{head}| KeyError: 'x'",
    ]
    path.write_text("\n".join([*old, *new, f"{head}goodbye"]) + "\n")
    tail = LogEnd(str(path), time.time())
    crash = tail.crash()
    assert (crash.text, crash.line) == ("KeyError: 'x'", 7)
    assert crash.age_s > 0
    assert tail.last().text.endswith("goodbye")
    assert tail.last().line == 8
    assert LogEnd(str(tmp_path / "none.log"), 0.0).last() is None


def test_standard_error_of_a_process_is_read_too_and_only_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("swarm.views.doctor.log_ends.TAIL_BYTES", 200)
    path = tmp_path / "w.err"
    path.write_text("noise\n" * 1000 + 'Traceback (most recent call last):\n  File "a.py"\nswarm.errors.QueueError: no\n')
    crash = LogEnd(str(path), time.time()).crash()
    assert (crash.text, crash.line) == ("swarm.errors.QueueError: no", 1003)


def test_a_complaint_stands_until_it_is_over(tmp_path):
    path = tmp_path / "w.log"
    path.write_text("The disk refuses: full\n")
    assert LogEnd(str(path), 0.0).standing("The disk refuses", "The disk works again") is not None
    path.write_text("The disk refuses: full\nThe disk works again\n")
    assert LogEnd(str(path), 0.0).standing("The disk refuses", "The disk works again") is None


def test_the_kernels_log_names_who_was_killed_for_memory(tmp_path):
    log = tmp_path / "kmsg"
    log.write_text(
        "6,1,2,-;something else\n"
        "3,812,1307704,-;Out of memory: Killed process 4711 (ollama) total-vm:9kB, anon-rss:8kB\n"
        "6,9,9,-;sent SIGKILL: Killed process 5 (x) by hand\n"
    )
    ((pid, said),) = kernel_kills(str(log))
    assert pid == 4711
    assert said.line == 2
    assert said.text.startswith("Out of memory: Killed process 4711 (ollama)")
    assert kernel_kills(str(tmp_path / "none")) == ()


@pytest.mark.parametrize(
    ("line", "place"), [("0::/a/b\n", "a/b/memory.events"), ("4:memory:/a\n", "memory/a/memory.oom_control")]
)
def test_the_control_groups_counter_in_both_versions(tmp_path, line, place):
    (tmp_path / "own").write_text(line)
    counter = tmp_path / place
    counter.parent.mkdir(parents=True)
    counter.write_text("low 0\noom 1\noom_kill 2\n")
    found = boxed_kills(str(tmp_path), str(tmp_path / "own"))
    assert (found.path, found.line, found.text) == (str(counter), 3, "oom_kill 2")
    counter.write_text("oom_kill 0\n")
    assert boxed_kills(str(tmp_path), str(tmp_path / "own")) is None


def test_files_of_the_future_and_foreign_roots(tmp_path):
    layout = Layout(str(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("")
    now_s = time.time()
    assert newer_than_now(layout, now_s) is None
    os.utime(tmp_path / "logs" / "a.log", (now_s + 3600, now_s + 3600))
    assert "3600 s behind" in newer_than_now(layout, now_s).text
    assert root_trouble(tmp_path / "new") == ""
    assert way_trouble(tmp_path / "new") == ("", "")
    tmp_path.chmod(0o777)
    trouble, mend = way_trouble(tmp_path / "new")
    assert f"{tmp_path} can be written to by everybody" in trouble
    assert mend == f"chmod go-w {tmp_path}"
    tmp_path.chmod(0o700)
    assert {c.verdict for c in able(tmp_path / "new", str(tmp_path), full=True)} <= {Support.WORKS, Support.FALLBACK}
    assert not [name for name in os.listdir(tmp_path) if "try" in name]
    (tmp_path / "file").write_text("")
    assert "is no directory" in root_trouble(tmp_path / "file")
    assert disk_evidence(tmp_path / "new" / "deeper").path == str(tmp_path)
    assert disk_evidence(tmp_path).refused == ""
    assert lock_holder(str(tmp_path / "none.lock"), besides=None) == "somebody"


def test_programs_that_others_could_replace(tmp_path, monkeypatch):
    program, script = tmp_path / "bin" / "tool", tmp_path / "open" / "script.py"
    for path in (program, script):
        path.parent.mkdir()
        path.touch(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    settings = Settings(ollama=OllamaSettings(binary="tool"), scripts={"x": (str(program), str(script), "/none", "-v")})
    assert list(open_programs(settings, serves=True)) == []
    script.parent.chmod(0o777)
    ((where, how, mend),) = open_programs(settings, serves=True)
    assert (where, how) == ("[scripts] x", f"{script.parent} can be written to by everybody")
    assert mend == f"chmod go-w {script.parent}"
    program.chmod(0o777)
    assert [where for where, *_ in open_programs(settings, serves=True)][:2] == ["[ollama] binary", "[scripts] x"]
    assert len(list(open_programs(settings, serves=False))) == 2


@pytest.mark.parametrize(
    "pause", [Pause("all"), Pause("model", "m:1"), Pause("batch", "b-1"), Pause("worker", "worker-1")], ids=lambda p: p.kind
)
def test_what_is_paused_is_found_with_the_command_that_ends_it(pause):
    found = codes(box(snapshot=replace(HEALTHY.snapshot, pauses=Pauses((pause,)))))["paused"]
    assert found.severity == "warning"
    assert found.next == pause.way_out
    assert fault_of(found.next) is None


def test_clients_that_wait_for_long_are_a_finding_with_what_each_side_says():
    worker = a_worker("worker-1", holding=MODEL, live=LivePlaces(limit=1, in_flight=1))
    picture = a_snapshot(workers=[worker], live=[live_waiting(4, MODEL, in_flight=1, oldest_s=16.0)])
    (found,) = (f for f in diagnose(box(snapshot=picture), Settings()) if f.code == "live-waits")
    assert (found.severity, found.subject, found.next) == ("warning", MODEL, f"swarm explain {MODEL}")
    assert found.what == f"live requests (4) wait for {MODEL}, the oldest for 16s; at 30s they are refused"
    assert found.evidence == (
        f"live/demand.json: 4 wait for {MODEL}, 1 are at workers",
        "heartbeats/worker-1.json: 1 live requests, at most 1",
    )
    patient = a_snapshot(workers=[worker], live=[live_waiting(4, MODEL, in_flight=1, oldest_s=15.0)])
    assert not [f for f in diagnose(box(snapshot=patient), Settings()) if f.code == "live-waits"]
