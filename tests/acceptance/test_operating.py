"""A GPU box in the hands of an operator: launch script, restarts, stale leftovers, processes alone, units, the incident."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from swarm.config.settings import QueueSettings, Settings
from swarm.core.task import TaskState
from swarm.core.worker import ProcessIdentity, WorkerRow
from swarm.engines.ollama.server import ServerNote
from swarm.proc import identity
from swarm.proc.ports import free_port
from swarm.queue.stores import registry
from swarm.runtime.open import swarm_lives
from swarm.supervisor.state import SupervisorStatus
from tests.helpers.cli import user
from tests.helpers.wait import wait_until

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "scripts" / "launch"


def launch(someone, *words, cwd=None, **env):
    done = subprocess.run(
        [str(LAUNCH), *words], cwd=cwd or someone.folder, env=someone.env | env, text=True, capture_output=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def innocent():
    """Somebody else's process."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    assert process.poll() is None, "an innocent process was harmed"
    process.kill()
    process.wait()


def leave_behind(root, process: ProcessIdentity) -> None:
    """What a machine that went down hard leaves: rows, notes and plans that speak of ``process``."""
    workers = root / "workers"
    for folder in (root, workers, root / "heartbeats"):
        folder.mkdir(mode=0o700, exist_ok=True)
    for name, role in (
        ("supervisor", "supervisor"),
        ("brain", "brain"),
        ("worker-1", "worker"),
        ("serve-worker-1", "server"),
    ):
        row = WorkerRow(name=name, role=role, process=process, started_at="2026-01-01T00:00:00.000+00:00", epoch=7)
        (workers / f"{name}.json").write_bytes(msgspec.json.encode(row))
        (workers / f"{name}.lock").touch()
    note = ServerNote(worker="worker-1", process=process, url="http://127.0.0.1:1", port=1, fingerprint="x", simulated=True)
    (workers / "worker-1.server.json").write_bytes(msgspec.json.encode(note))
    status = SupervisorStatus(process=process, started_at="x", written_at="x", phase="running")
    (workers / "supervisor.status.json").write_bytes(msgspec.json.encode(status))
    (workers / "supervisor.plan.json").write_text('[{"na')  # torn by the power cut
    (workers / "supervisor.requests").mkdir()
    (workers / "supervisor.requests" / "brain").write_text('{"name":"brain","now":true}')


def test_after_a_reboot_all_starts_restarts_and_ends_and_nobody_is_harmed(tmp_path, innocent):
    mine = identity.of_pid(innocent.pid)
    rebooted = msgspec.structs.replace(mine, boot_id="11111111-2222-3333-4444-555555555555")
    recycled = msgspec.structs.replace(mine, start_ticks=mine.start_ticks - 1)
    with user(tmp_path) as someone:
        for stale in (rebooted, recycled, mine):
            shutil.rmtree(someone.root, ignore_errors=True)
            leave_behind(someone.root, stale)
            for words in (("down", "--now"), ("restart", "worker-1")):
                assert someone.run(*words).returncode == 3, words
        someone.env["SWARM_ROOT"] = "queue"
        assert launch(someone, "start", "--simulate", "2")[0] == 0
        again = launch(someone, "start", "--simulate", "2")
        assert again[0] == 0
        assert "up already" in again[1]
        assert registry.read_row(someone.queue.layout, "worker-1").epoch == 8, "lives are counted on over a reboot"
        assert "asked" not in someone.log("supervisor"), "a wish made to an earlier supervisor is forgotten"
        ports = [w["port"] for w in someone.json("workers")["workers"]]
        someone.ok("submit", "--prompt", "x", "--model", "llama3.2:3b", "--wait")
        check_restarts(someone)
        code, out, err = launch(someone, "stop")
        assert code == 0, (out, err)
        assert launch(someone, "stop")[0] == 0, "stopping twice is no error"
        waiting = someone.json("submit", "--prompt", "x", "--model", "llama3.2:3b")
        task = next(someone.queue.list(TaskState.PENDING)).task_id
        for about in (task, "worker-1"):
            reasons = someone.json("explain", about)["reasons"]
            assert reasons[0]["next_step"] == "swarm up", (about, waiting)
        assert not someone.ours()
        for port in ports:
            with socket.create_server(("127.0.0.1", port)):
                pass
        assert not (someone.root / ".sim").exists(), "no memory is accounted to anybody"


def check_restarts(someone):
    before = {name: registry.read_row(someone.queue.layout, name).process.pid for name in ("worker-1", "worker-2", "brain")}
    code, out, err = launch(someone, "restart", "worker-1", "ollama-worker-2", "brain")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["worker-1", "ollama-worker-2", "brain"]
    after = {name: registry.read_row(someone.queue.layout, name).process.pid for name in before}
    assert after["worker-2"] == before["worker-2"], "only its server was restarted"
    assert after["worker-1"] != before["worker-1"]
    assert after["brain"] != before["brain"]
    children = {
        c["name"]: c for c in json.loads((someone.root / "workers" / "supervisor.status.json").read_text())["children"]
    }
    assert children["worker-1"]["restarts"] == 1
    unknown = someone.run("restart", "wrker-1")
    assert unknown.returncode == 2
    assert "did you mean worker-1?" in unknown.stderr
    for words in (("frobnicate",), ()):
        assert "restart NAME" in "".join(launch(someone, *words)[1:])
    assert launch(someone, "frobnicate")[0] == 2
    assert launch(someone, "status", SWARM_ENV_FILE="/nowhere")[0] == 2


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_launch_reads_its_environment_file_from_any_directory(tmp_path, quote):
    with user(tmp_path) as someone:
        leave_behind(someone.root, ProcessIdentity(1, 1, "b"))
        file = tmp_path / "swarm.env"
        file.write_text(f"# a comment\nSWARM_ROOT={quote}{someone.root}{quote}\nSWARM_LLM__SLOTS=3\n")
        code, out, _ = launch(someone, "status", cwd="/", SWARM_ENV_FILE=str(file))
        assert code == 3
        assert f"swarm at {someone.root}: not running" in out


def test_what_a_dead_worker_said_last_is_kept_and_shown(tmp_path):
    """Its last line before SIGKILL, the traceback of a fatal signal, and an end that its log never heard of."""
    with user(tmp_path) as someone:
        someone.ok("up", "--simulate", "1", "--detach")
        pid = registry.read_row(someone.queue.layout, "worker-1").process.pid
        wait_until(lambda: "Queue empty" in someone.log("worker-1"), what="the worker at work")
        os.kill(pid, signal.SIGSEGV)
        wait_until(lambda: "killed by SIGSEGV" in someone.log("supervisor"), what="its death noticed")
        told = someone.ok("logs", "worker-1")
        assert "Queue empty" in told
        assert "Fatal Python error: Segmentation fault" in told
        assert told.index("starting main loop") < told.index("Fatal Python error"), "at the time of its death"
        assert "[worker-1.err]" in told
        records = someone.json("logs", "worker-1")["lines"]
        assert any(r["source"] == "worker-1.err" and r["level"] == "ERROR" for r in records)


def test_processes_alone_make_a_swarm(tmp_path):
    """Brain, one server, its worker, each in the foreground: they work; a supervisor that comes later takes over."""
    with user(tmp_path) as someone:
        config = tmp_path / "swarm.toml"
        config.write_text('[[workers]]\nname = "cpu-only"\n')
        refused = someone.run("serve", "cpu-only", "--simulate", "1", "--config", str(config))
        assert refused.returncode == 2
        assert "no server of its own" in refused.stderr
        with alone(someone, ("serve", "worker-1"), ("worker", "worker-1"), ("brain",)) as processes:
            wait_until(lambda: swarm_lives(Settings(queue=QueueSettings(root=str(someone.root)))), what="the worker lives")
            assert someone.ok("submit", "--prompt", "x", "--model", "llama3.2:3b", "--wait").startswith("[simulated]")
            second = someone.run("serve", "worker-1", "--simulate", "1")
            assert second.returncode == 2
            assert "serve-worker-1 is running already" in second.stderr
            not_here = someone.run("restart", "worker-1")
            assert not_here.returncode == 3
            assert "was started alone" in not_here.stderr
            for process in reversed(processes):
                process.send_signal(signal.SIGTERM)
            assert [process.wait(60) for process in processes] == [0, 0, 0]
        assert not (someone.root / ".sim").exists()
        assert not someone.ours()


@contextmanager
def alone(someone, *commands):
    """Processes of ours without a supervisor; gone at the end, however that comes."""
    simulate = {"serve": ("--simulate", "1"), "worker": ("--simulate", "1")}
    processes = [someone.start(*words, *simulate.get(words[0], ())) for words in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NOT VERIFIED: systemd-analyze is not installed here")
def test_the_systemd_units_are_valid(tmp_path):
    install = REPOSITORY / "scripts" / "systemd" / "install"
    me = subprocess.run(["id", "-un"], text=True, capture_output=True, check=True).stdout.strip()
    units, state = tmp_path / "units", tmp_path / "state"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = [str(install), "--user", me, "--state", str(state), "--into", str(units)]
    done = subprocess.run(words, text=True, capture_output=True, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    texts = [path.read_text() for path in units.iterdir()]
    assert not any(re.search(r"@[A-Z_]+@", text) for text in texts)
    assert all(f" HOME={state} " in text and f"\nReadWritePaths={state}\n" in text for text in texts), "models can be stored"
    alone = ("swarm-brain.service", "swarm-http.service", "swarm-worker@worker-1.service", "swarm-server@worker-1.service")
    names = ("swarm.service", *alone)
    verify = ["systemd-analyze", "verify", "--man=no", *names]
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    checked = subprocess.run(verify, text=True, capture_output=True, check=False, env=env)
    assert (checked.returncode, checked.stderr) == (0, "")
    nobody = subprocess.run([str(install), "--user", "no-such-user"], text=True, capture_output=True, check=False)
    assert nobody.returncode == 2
    assert "useradd" in nobody.stderr


def test_the_incident_is_told_by_the_logs():
    command = [sys.executable, str(REPOSITORY / "scripts" / "incident"), "--case", "death", "--tasks", "6"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "death: as it should be" in done.stdout


def test_without_a_program_to_serve_models_nothing_starts_and_the_configuration_is_to_blame(tmp_path):
    with user(tmp_path) as someone:
        config = tmp_path / "swarm.toml"
        config.write_text(f'[ollama]\nbinary = "no-such-ollama"\n[[workers]]\nname = "w"\nport = {free_port()}\n')
        prompts = str(someone.prompts(1))
        run = ("run", prompts, "-o", str(tmp_path / "out.jsonl"), "--model", "m")
        for words in (("up",), ("up", "--detach"), run, ("serve", "w"), ("worker", "w")):
            refused = someone.run(*words, "--config", str(config))
            assert refused.returncode == 2, (words, refused.stderr)
            assert "binary = 'no-such-ollama' is not on the PATH" in refused.stderr, words
        assert "install Ollama" in someone.run("doctor", "--config", str(config)).stdout
