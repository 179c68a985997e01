"""One model server process of ours: start, readiness, adoption, orphans, end. The servers are simulated ones."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from swarm.config.settings import OllamaSettings, Settings, SimSettings
from swarm.core.placement.worker_plan import plan_workers
from swarm.engines.ollama.server import ServerProcess, find_binary
from swarm.engines.ollama.server_spec import ServerSpec, server_spec
from swarm.errors import ConfigError, ModelServerError
from swarm.proc.env_markers import find_marked
from swarm.proc.identity import is_same, of_pid
from swarm.proc.ports import free_port, is_free
from tests.helpers.wait import wait_until

HOLDER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def spec(root: Path) -> ServerSpec:
    sim = SimSettings(start_delay_s=0.0, load_s=0.0, models=("llama3.2:1b",))
    ollama = OllamaSettings(base_port=free_port(), stop_grace_s=60.0, start_timeout_s=60.0)
    settings = Settings(sim=sim, ollama=ollama)
    (plan,) = plan_workers(settings, (), simulate=1)
    return server_spec(plan, settings, root=root, base_env=os.environ)


@pytest.fixture
def serve() -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def serve_(spec: ServerSpec, **env: str) -> ServerProcess:
        servers.append(ServerProcess(msgspec.structs.replace(spec, env={**spec.env, **env})))
        return servers[-1]

    yield serve_
    for server in servers:
        end(server)


def end(server: ServerProcess) -> None:
    server.stop()
    assert wait_until(lambda: server.stop_step() is not None, what="the server is gone")


def started(server: ServerProcess) -> ServerProcess:
    server.start()
    wait_until(server.ready, what="the server is ready")
    return server


def load(spec: ServerSpec) -> None:
    """Make the server start a runner."""
    connection = http.client.HTTPConnection(spec.host, spec.port, timeout=60)
    connection.request("POST", "/api/generate", body='{"model": "llama3.2:1b", "stream": false}')
    assert connection.getresponse().status == 200
    connection.close()


def family(spec: ServerSpec) -> list[int]:
    return [identity.pid for identity in find_marked(**spec.markers)]


def test_starts_gets_ready_and_ends_without_a_trace(spec, serve, root):
    server = serve(spec)
    assert "started as pid" in server.start()
    wait_until(server.ready)
    load(spec)
    assert len(family(spec)) == 2
    end(server)
    assert family(spec) == []
    assert is_free(spec.host, spec.port)
    assert not Path(spec.note_path).exists()
    assert (root / "logs" / "ollama-worker-1.log").stat().st_mode & 0o777 == 0o600


def test_it_is_pinned_and_marked(spec, serve):
    server = started(serve(spec))
    assert server.identity is not None
    env = Path(f"/proc/{server.identity.pid}/environ").read_bytes().split(b"\0")
    for line in (b"CUDA_VISIBLE_DEVICES=SIM-GPU-0", b"OLLAMA_VULKAN=0", b"OLLAMA_NOPRUNE=1", b"SWARM_SERVER=worker-1"):
        assert line in env
    assert os.getsid(server.identity.pid) == server.identity.pid


def test_listening_is_not_ready(spec, serve):
    server = serve(spec, SWARM_SIM_NEVER_READY="1")
    server = ServerProcess(msgspec.structs.replace(server.spec, start_timeout_s=0.3))
    try:
        server.start()
        wait_until(lambda: not is_free(spec.host, spec.port), what="it listens")
        assert not server.ready()
        reason = wait_until(server.overdue, what="it is overdue")
        assert "not ready within 0.3 s" in reason
        assert spec.log_path in reason
    finally:
        end(server)


def test_a_wedged_scheduler_is_not_ready(spec, serve):
    server = serve(spec, SWARM_SIM_PS_HANG="1")
    server.start()
    wait_until(lambda: not is_free(spec.host, spec.port))
    with pytest.raises(AssertionError):
        wait_until(server.ready, timeout_s=0.5)


def test_a_server_that_ignores_sigterm_is_killed(spec, serve):
    server = started(serve(spec, SWARM_SIM_IGNORE_SIGTERM="1"))
    server = started(ServerProcess(msgspec.structs.replace(server.spec, stop_grace_s=0.2)))
    load(spec)
    end(server)
    assert family(spec) == []


def test_a_later_supervisor_adopts_the_right_server(spec, serve):
    first = started(serve(spec))
    identity = first.identity
    first.close()
    second = serve(spec)
    assert "adopted" in second.start()
    assert second.identity == identity
    wait_until(second.ready)
    end(second)
    assert family(spec) == []


@pytest.mark.parametrize("server_died", [False, True])
def test_a_server_of_another_configuration_and_orphan_runners_are_replaced(spec, serve, server_died):
    first = started(serve(spec))
    load(spec)
    old = find_marked(**spec.markers)
    identity = first.identity
    assert identity is not None
    first.close()
    if server_died:
        os.kill(identity.pid, signal.SIGKILL)
        wait_until(lambda: len(family(spec)) == 1, what="only the orphan runner is left")
    second = serve(msgspec.structs.replace(spec, fingerprint="another"))
    assert "left over from an earlier start" in second.start()
    wait_until(second.ready)
    assert not any(is_same(identity) for identity in old)
    assert len(family(spec)) == 1


def test_a_killed_server_leaves_no_runner_behind(spec, serve):
    server = started(serve(spec))
    load(spec)
    assert server.identity is not None
    os.kill(server.identity.pid, signal.SIGKILL)
    assert str(wait_until(server.poll)) == "killed by SIGKILL"
    assert server.clean_up() is None
    assert family(spec) == []
    assert "started" in server.start()
    wait_until(server.ready)


def test_a_taken_port_names_its_holder_and_leaves_it_alone(spec, serve):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(spec.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ModelServerError, match=f"port {spec.port} is taken by pid {holder.pid}") as caught:
            serve(spec).start()
        assert "base_port" in (caught.value.hint or "")
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("start_ticks_too", [False, True])
def test_a_note_that_names_an_innocent_process_is_not_believed(spec, serve, start_ticks_too):
    first = started(serve(spec))
    note = Path(spec.note_path).read_bytes()
    end(first)
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        stale = msgspec.json.decode(note)
        stale["process"]["pid"] = innocent.pid
        if start_ticks_too:
            identity = of_pid(innocent.pid)
            assert identity is not None
            stale["process"]["start_ticks"] = identity.start_ticks
        Path(spec.note_path).write_bytes(msgspec.json.encode(stale))
        assert "started as pid" in serve(spec).start()
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.communicate()


@pytest.mark.parametrize(
    ("binary", "why"),
    [
        ("no-such-ollama", "is not on the PATH"),
        ("/no/such/ollama", "does not exist"),
        ("./folder", "is a directory"),
        ("./file", "may not be executed"),
    ],
)
def test_a_missing_binary_is_a_wrong_configuration_and_says_how_to_get_it(spec, serve, binary, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch(mode=0o600)
    missing = msgspec.structs.replace(spec, argv=(binary, "serve"))
    with pytest.raises(ConfigError, match=f"binary = '{binary}' {why}") as caught:
        serve(missing).start()
    assert caught.value.exit_code == 2
    for word in ("ollama.com/download", "[ollama] binary", "ollama_url", "--simulate"):
        assert word in (caught.value.hint or "")
    with pytest.raises(ConfigError):
        find_binary(missing)
    assert family(spec) == []
