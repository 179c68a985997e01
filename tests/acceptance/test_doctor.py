"""Faults planted on purpose; `swarm doctor` names each on the first try. The table is docs/troubleshooting.md."""

import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from swarm.config.load import load
from swarm.config.settings import QueueSettings, Settings
from swarm.core.doctor.diagnose import about, diagnose
from swarm.engines.ollama.quarantine import Quarantine, quarantine_path
from swarm.filesystem.temporary import write_note
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER, find_marked
from swarm.proc.ports import free_port
from swarm.queue.coordination import ProcessLock
from swarm.queue.stores import registry
from swarm.runtime.logging import FileHandler
from swarm.runtime.loop import EXIT_CRASHED, run_loop
from swarm.views.doctor.gather import gather
from tests.helpers.cli import user
from tests.helpers.queues import llm
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"


def findings(someone, worker=None, *, config=None, simulate=None):
    """What doctor finds, by code; in this process, since starting fifteen takes longer than all else."""
    settings = load(config, someone.env, someone.root).settings
    found = diagnose(gather(settings, simulate=simulate), settings)
    found = found if worker is None else about(found, worker)
    assert all(f.evidence or f.code == "no-plan" for f in found), found
    assert all(f.next for f in found)
    return {f.code: msgspec.to_builtins(f) for f in found}


def until(someone, code, worker=None):
    """The finding of that code, as soon as it is there; with all others of that moment."""

    def look():
        found = findings(someone, worker)
        return found if code in found else None

    return wait_until(look, timeout_s=60, what=f"{code} is found")


def scrape(port):
    """The brain's metrics: values summed over labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = Counter()
    for family in families:
        for sample in family.samples:
            found[sample.name] += sample.value
    return found


def pid_of(someone, name):
    return registry.read_row(someone.queue.layout, name).process.pid


@contextmanager
def stopped(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_faults_of_a_running_swarm(tmp_path, monkeypatch):
    port = free_port()
    env = {"SWARM_SIM__VRAM_MIB": "6000", "SWARM_BRAIN__STUCK_AFTER_S": "1", "SWARM_SIM__REQUEST_S": "9000"}
    env |= {"SWARM_METRICS__PORT": str(port), "SWARM_WORKER__HEARTBEAT_S": "0.5"}
    env["SWARM_GPU__CHECK_S"] = "3600"  # what happens to the cards is for the doctor alone
    with user(tmp_path, **env) as someone:
        someone.ok("up", "--simulate", "2", "--detach")
        wait_until(lambda: findings(someone) == {}, what="all is well")
        queue, root = someone.queue, someone.root

        # a worker is stopped
        with stopped(pid_of(someone, "worker-1")):
            found = until(someone, "stopped", "worker-1")
        assert found["stopped"]["subject"] == "worker-1"
        assert f"kill -CONT {pid_of(someone, 'worker-1')}" in found["stopped"]["next"]

        # a worker is killed, and started again
        before = pid_of(someone, "worker-1")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: pid_of(someone, "worker-1") != before, what="it is started again")
        found = until(someone, "killed", "worker-1")
        assert "killed by SIGKILL" in found["killed"]["what"]
        assert any("supervisor.log:" in line for line in found["killed"]["evidence"])
        assert "killed" not in findings(someone, "worker-2")

        told = someone.run("doctor")
        assert told.returncode == 1
        assert "WARNING [killed] worker-1 was started again: killed by SIGKILL" in told.stdout
        assert someone.run("doctor", "worker-7").returncode == 2

        # a card is hot, another one is lost
        (root / ".sim" / "SIM-GPU-0" / "state.json").write_text('{"temperature_c": 93}')
        (root / ".sim" / "SIM-GPU-1" / "state.json").write_text('{"fault": "GPU is lost"}')
        found = findings(someone)
        assert "93 °C" in found["card-hot"]["what"]
        assert found["card-hot"]["concerns"] == "worker-1"
        assert "GPU is lost" in found["card-lost"]["what"]
        for card in (0, 1):
            (root / ".sim" / f"SIM-GPU-{card}" / "state.json").unlink()

        # a task waits for a model that nobody has, another for one that fits on no card
        queue.enqueue(llm(model="nosuch:1b"))
        queue.enqueue(llm(model="qwen2.5:32b"))
        assert "nosuch:1b" in until(someone, "model-missing")["model-missing"]["what"]
        wait_until(lambda: "qwen2.5:32b does" in until(someone, "fits-nowhere")["fits-nowhere"]["what"], what="the big one")
        found = until(someone, "fits-nowhere")["fits-nowhere"]
        assert "does not fit: needs" in found["what"]
        tried = [someone.log(f"worker-{n}").count("Loading model qwen2.5:32b") for n in (1, 2)]
        assert tried == [0, 0], "its file alone tells, so no card is asked"
        assert any("loads of" in line for line in found["evidence"])
        someone.ok("queue", "cancel", *(task.task_id for task in queue.list("pending")))

        # a task hangs: who looks for the first time sees it too, and it can be given back
        task = queue.enqueue(llm())
        assert until(someone, "stuck")["stuck"]["subject"] == task
        assert someone.json("queue", "stats")["stuck"] == 1
        wait_until(lambda: scrape(port)["swarm_stuck_tasks"] == 1, what="the metric tells it")
        (cleared,) = someone.json("queue", "clear-stuck")["cleared"]
        assert (cleared["task_id"], cleared["outcome"]) == (task, "given back")
        document = queue.read(task)
        assert document["state"] in ("pending", "processing")
        assert document["attempts"][0]["outcome"] == "forgiven"
        wait_until(lambda: task in {t.task_id for t in queue.list("processing")}, timeout_s=60, what="it is tried again")
        wait_until(lambda: scrape(port)["swarm_task_run_seconds_count"] >= 1, what="the attempt is counted")
        assert scrape(port)["swarm_task_wait_seconds_count"] >= 1
        someone.ok("queue", "cancel", task)

        # a model server hangs
        servers = [i.pid for i in find_marked(**{SERVER_MARKER: "worker-2", ROOT_MARKER: str(root)})]
        monkeypatch.setattr("swarm.views.doctor.gather.ASK_S", 0.5)
        with stopped(*servers):
            found = until(someone, "server-unreachable", "worker-2")
        monkeypatch.undo()
        assert found["server-unreachable"]["subject"] == "ollama-worker-2"

        # the clock was ahead
        ahead = time.time() + 7200
        os.utime(root / "logs" / "brain.err", (ahead, ahead))
        assert "clock" in findings(someone)
        os.utime(root / "logs" / "brain.err")

        # the supervisor is killed, then the brain, whom nobody starts again
        os.kill(pid_of(someone, "supervisor"), signal.SIGKILL)
        found = until(someone, "supervisor-died")
        assert found["supervisor-died"]["severity"] == "critical"
        os.kill(pid_of(someone, "brain"), signal.SIGKILL)
        os.kill(pid_of(someone, "worker-2"), signal.SIGKILL)
        found = until(someone, "no-brain")
        assert "swarm up" in found["no-brain"]["next"]
        wait_until(lambda: any(f["subject"] == "worker-2" for f in findings(someone).values()), what="its death is found")

        # heartbeats can no longer be written: the last worker says so, and lives on
        beats = root / "heartbeats"
        beats.rename(root / "elsewhere")
        beats.write_text("")
        wait_until(lambda: "Heartbeats cannot be written" in someone.log("worker-1"), what="it says so")
        assert "heartbeats is no directory" in findings(someone)["root-permissions"]["what"]
        beats.unlink()
        (root / "elsewhere").rename(beats)
        wait_until(lambda: "Heartbeats are written again" in someone.log("worker-1"), what="they are written again")

        # the last worker crashes
        os.kill(pid_of(someone, "worker-1"), signal.SIGKILL)
        crash_in(root / "logs" / "worker-1.log", "worker-1")
        found = until(someone, "crashed", "worker-1")["crashed"]
        assert "out of luck" in found["what"]
        assert any("worker-1.log:" in line for line in found["evidence"])


def crash_in(path, name):
    """What a process of ours leaves in its log whose loop meets what nobody foresaw."""

    class Unlucky:
        title = f"Worker {name}"
        finished = False

        def step(self):
            raise RuntimeError("out of luck")

        def abandon(self):
            pass

    handler = FileHandler(name, path, max_bytes=1 << 20, keep=1)
    log = logging.getLogger(f"test.{name}")
    log.addHandler(handler)
    assert run_loop(Unlucky(), wait=time.sleep, log=log) == EXIT_CRASHED
    log.removeHandler(handler)
    handler.close()


def config(tmp_path, text):
    path = tmp_path / "swarm.toml"
    path.write_text(text)
    return path


def test_faults_before_the_first_start(tmp_path):
    """No swarm runs: what would keep one from starting is found all the same."""
    with user(tmp_path) as someone:
        assert findings(someone, simulate=2) == {}

        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            text = f'[ollama]\nbinary = "no-such-ollama"\n[[workers]]\nname = "w"\nport = {port}\n'
            found = findings(someone, config=config(tmp_path, text))
        assert f"pid {os.getpid()}" in found["port-taken"]["what"]
        assert "no-such-ollama" in found["no-ollama"]["what"]

        text = '[[workers]]\nname = "w"\ngpus = [99]\n'
        assert "there is no GPU 99" in findings(someone, config=config(tmp_path, text))["no-plan"]["what"]

        text = '[[workers]]\nname = "w"\nollama_url = "http://127.0.0.1:9"\n'
        bare = config(tmp_path, text)
        queue = someone.queue.prepare()
        queue.enqueue(llm())
        assert "1 tasks wait" in findings(someone, config=bare)["not-running"]["what"]

        someone.root.chmod(0o777)
        assert "mode 777" in findings(someone, config=bare)["root-permissions"]["what"]
        someone.root.chmod(0o700)

        lock = ProcessLock(queue.layout, "w")
        lock.acquire()
        found = findings(someone, config=bare)["lock-held"]
        assert f"pid {os.getpid()}" in found["what"]
        lock.release()

        note = Quarantine(worker="w", gpu_uuids=(), reason="3 starts never got ready", since=0.0, until=1e12)
        write_note(quarantine_path(someone.root / "workers", "w"), note)
        assert "3 starts never got ready" in findings(someone, "w", config=bare)["quarantined"]["what"]


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_too_few_open_files(tmp_path):
    with user(tmp_path) as someone:
        done = subprocess.run(
            [sys.executable, "-m", "swarm", "doctor", "--simulate", "1"],
            check=False,
            cwd=tmp_path,
            env=someone.env,
            capture_output=True,
            text=True,
            preexec_fn=few_files,
        )
    assert done.returncode == 1
    assert "[open-files] a process may open only 256 files" in done.stdout


def in_a_small_file_system(tmp_path, options, after=""):
    """Doctor's findings on a root in a file system of its own, in a namespace of its own: no rights are needed."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespaces")
    place = tmp_path / "small"
    place.mkdir()
    script = (
        f"mount -t tmpfs {options} none {place} && {after or 'true'}; {sys.executable} -m swarm doctor --simulate 1 --json"
    )
    with user(tmp_path) as someone:
        env = {**someone.env, "SWARM_ROOT": str(place)}
        command = ["unshare", "-rm", "sh", "-c", script]
        done = subprocess.run(command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1, (done.stdout, done.stderr)
    return {f["code"]: f for f in json.loads(done.stdout)["findings"]}


def test_a_full_disk(tmp_path):
    fill = f"head -c 2000000 /dev/zero > {tmp_path}/small/fill 2>/dev/null"
    found = in_a_small_file_system(tmp_path, "-o size=1m", fill)
    assert any("0 of 1 MiB free" in line for line in found["disk-full"]["evidence"])


def test_a_read_only_disk(tmp_path):
    assert "read-only" in in_a_small_file_system(tmp_path, "-o ro,size=100m")["disk-read-only"]["what"]


def test_a_root_of_another_user_is_named_and_nothing_breaks():
    """Looked at by somebody who may not even list it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        os.mkdir(f"{place}/queue", 0o700)
        settings = Settings(queue=QueueSettings(root=f"{place}/queue"))
        diagnose(gather(settings, simulate=1), settings)  # loads what the other user could not
        os.seteuid(65534)
        try:
            found = diagnose(gather(settings, simulate=1), settings)
        finally:
            os.seteuid(0)
    assert "root-permissions" in {f.code for f in found}
