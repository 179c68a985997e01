"""The server that runs one process per model: started, proven, adopted, ended; with a small program in its place."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swarm.config.settings import EngineSettings, QueueSettings, Settings
from swarm.core.faults import TaskFault
from swarm.core.models.engines import engine_named
from swarm.core.models.model_server import Limits, LoadOrder, ModelDetails
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.engines.processes.model_process import running_note
from swarm.engines.processes.model_spec import FoundModel, ModelSpecMaker, markers_of, note_path
from swarm.engines.processes.process_server import ProcessServer
from swarm.engines.server_calls import ServerCalls
from swarm.proc.env_markers import find_marked
from swarm.proc.ports import free_port
from tests.helpers.blocking import wait_for
from tests.helpers.simserver import Cancel
from tests.helpers.wait import wait_until

TOY = str(Path(__file__).parents[3] / "helpers/toy_server.py")
LOG = logging.getLogger("worker-1")


class Files:
    """Any model has a file."""

    def __init__(self) -> None:
        self.digest = "d1"

    def find(self, model):
        if model.startswith("missing"):
            raise TaskFault("deterministic", "model_missing", f"there is no file of {model}")
        details = ModelDetails(name=model, capabilities=("completion",), context_length=4096)
        return FoundModel(file=f"/models/{model}.gguf", digest=self.digest, size_mib=700, details=details)

    def listed(self):
        return ()


class NoRequests:
    async def run(self, endpoint, body, **_more):
        return endpoint, body

    def close(self):
        pass


class World:
    """A root, a worker's plan, and servers for it as its lives would make them."""

    def __init__(self, root: Path) -> None:
        for name in ("workers", "logs"):
            (root / name).mkdir()
        self.root = root
        self.made: list[ProcessServer] = []
        self.port = free_port()
        self.files = Files()
        self.markers = markers_of("worker-1", root)

    def server(self, *more: str, kind: str = "llama-server", program: tuple[str, ...] = (), **entry) -> ProcessServer:
        command = program or (
            sys.executable,
            TOY,
            *more,
            *(() if kind == "llama-server" else ("--port", "{port}", "{model}")),
        )
        entry = {"stop_grace_s": 60.0, "start_timeout_s": 60.0} | entry
        settings = Settings(
            queue=QueueSettings(root=str(self.root)),
            engines={"toy": EngineSettings(kind=kind, command=command, **entry)},
        )
        plan = WorkerPlan(name="worker-1", gpus=(0,), gpu_uuids=("GPU-a",), engines=("toy",), model_port=self.port)
        engine = engine_named(settings, "toy")
        env = {"PATH": os.environ["PATH"], "LLAMA_ARG_CTX_SIZE": "1", "LLAMA_API_KEY": "theirs"}
        maker = ModelSpecMaker(engine, plan, settings, self.files, root=self.root, base_env=env)
        made = ProcessServer(maker, self.files, lambda *_: NoRequests(), log=LOG)
        self.made.append(made)
        return made

    @property
    def note(self):
        return running_note(note_path("worker-1", self.root), self.markers)

    def seen(self) -> dict:
        """What the process was started with; the key is in its environment."""
        pid = self.note.process.pid
        env = dict(pair.split("=", 1) for pair in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in pair)
        calls = ServerCalls(f"http://127.0.0.1:{self.port}", key=env.get("LLAMA_API_KEY", ""))
        return calls.get("/seen", 60).document


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    for server in made.made:
        server.release()
    for process in find_marked(**made.markers):
        os.kill(process.pid, signal.SIGKILL)


def fault_of(call) -> TaskFault:
    with pytest.raises(TaskFault) as caught:
        call()
    return caught.value


def load(server: ProcessServer, model: str = "a:1b", **more):
    options = {"num_ctx": 2048} | more.pop("options", {})
    order = LoadOrder(model=model, options=options, slots=more.pop("slots", 4), embedding=more.pop("embedding", False))
    return server.load(order, **({"timeout_s": 600.0, "cancel": None} | more))


def test_a_load_starts_a_process_and_an_unload_ends_it(world):
    server = world.server("--load-s", "0.3")
    assert server.ps() == ()
    assert load(server).total_s >= 0.3
    (held,) = server.ps()
    assert (held.name, held.context_length, held.slots, held.size_mib, held.spilled) == ("a:1b", 2048, 4, 700, "")
    process = world.note.process
    load(server)
    assert world.note.process == process, "what runs already is not started again"
    server.unload("b:1b")
    assert server.ps(), "another model's unload changes nothing"
    server.unload("a:1b")
    assert server.ps() == ()
    assert world.note is None
    assert not find_marked(**world.markers)
    assert not note_path("worker-1", world.root).exists()


def test_what_the_process_is_started_with(world):
    server = world.server()
    load(server, options={"num_gpu": 20, "num_thread": 3, "use_mmap": False})
    seen = world.seen()
    words = " ".join(seen["argv"])
    for part in ("-m /models/a:1b.gguf", "-a a:1b", "-np 4", "-kvu", "-c 8192", "-ngl 20", "-t 3", f"--port {world.port}"):
        assert part in words
    env = seen["env"]
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert len(env["LLAMA_API_KEY"]) > 30
    assert (env["LLAMA_ARG_LOAD_MODE"], env["LLAMA_ARG_MMAP"]) == ("none", "0")
    assert "LLAMA_ARG_CTX_SIZE" not in env, "a variable of the caller's shell must not change our server"
    assert env["LLAMA_API_KEY"] not in words
    assert env["LLAMA_API_KEY"] not in note_path("worker-1", world.root).read_text()
    server.close()


def test_a_command_of_another_engine_is_filled_in(world):
    server = world.server("{file}", "{gpu}", "{slots}", "{context}", kind="openai", env={"A": "b"})
    load(server)
    seen = world.seen()
    assert seen["argv"] == ["/models/a:1b.gguf", "0", "4", "8192", "--port", str(world.port), "a:1b"]
    assert (seen["env"]["A"], seen["env"].get("LLAMA_API_KEY")) == ("b", None)
    server.close()


def test_another_model_or_other_slots_replace_the_process(world):
    server = world.server()
    load(server)
    first = world.note.process
    load(server, slots=8)
    second = world.note.process
    assert second != first
    assert server.ps()[0].slots == 8
    load(server, "b:1b")
    assert server.ps()[0].name == "b:1b"
    assert [one.pid for one in find_marked(**world.markers)] == [world.note.process.pid]
    server.close()


@pytest.mark.parametrize(
    ("said", "fault", "kind"),
    [
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "infra", "out_of_memory"),
        ("error: invalid argument: -kvu", "deterministic", "engine_too_old"),
        ("gguf_init_from_file_impl: invalid magic characters: '<htm', expected 'GGUF'", "deterministic", "bad_model_file"),
        ("llama_model_load: error loading model: unknown model architecture: 'x'", "deterministic", "model_incompatible"),
        ("main: couldn't bind HTTP server socket, hostname: 127.0.0.1", "infra", "port_taken"),
        ("CUDA error: invalid argument", "infra", "load_failed"),
        ("something went wrong", "infra", "load_failed"),
    ],
)
def test_a_server_that_dies_at_its_load(world, said, fault, kind):
    (world.root / "logs/models-worker-1.log").write_text("cudaMalloc failed: out of memory\n")  # of an earlier start
    server = world.server("--say", said, "--exit", "1")
    found = fault_of(lambda: load(server))
    assert (found.fault, found.kind) == (fault, kind), found.message
    assert said[:30] in found.message
    if kind == "engine_too_old":
        assert "does not know a flag" in found.message
    assert server.ps() == ()
    assert world.note is None


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "out_of_memory"),
        ("ValueError: Free memory on device (3.2/4.0 GiB) is less than desired GPU memory utilization", "load_failed"),
    ],
)
def test_the_cause_of_an_end_is_found_before_long_traces(world, cause, kind):
    trace = [f'  File "/usr/lib/python3/dist-packages/vllm/v1/engine/core_{n}.py", line {n}, in run' for n in range(120)]
    said = [f"(EngineCore pid=7) {cause}", *trace, "RuntimeError: Engine core initialization failed. See root cause above."]
    found = fault_of(lambda: load(world.server("--say", "\n".join(said), "--exit", "1", kind="openai")))
    assert found.kind == kind
    assert cause in found.message


def test_a_server_that_is_never_ready_is_ended(world):
    for start_timeout_s in (1.0, 4.0, 16.0, 64.0):  # its program may need the first ones to begin to answer
        server = world.server("--load-s", "600", start_timeout_s=start_timeout_s)
        found = fault_of(lambda: load(server))  # noqa: B023
        assert (found.fault, found.kind) == ("infra", "load_timeout")
        assert not find_marked(**world.markers)
        if "Loading model" in found.message:
            return
    raise AssertionError(found.message)


def test_a_load_is_cancelled(world):
    server = world.server("--load-s", "600")
    cancel, caught = Cancel(), []
    thread = threading.Thread(target=lambda: caught.append(fault_of(lambda: load(server, cancel=cancel))))
    thread.start()
    wait_until(lambda: world.note is not None, what="the process to start")
    assert server.ps() == (), "a model that is loading is not listed, and nobody waits"
    cancel.fire("stopping")
    thread.join(60)
    assert (caught[0].fault, caught[0].kind) == ("cancelled", "stopping")
    assert not find_marked(**world.markers)


def test_a_process_that_ignores_the_signal_is_killed(world):
    server = world.server("--deaf", stop_grace_s=0.3)
    load(server)
    began = time.monotonic()
    server.unload("a:1b")
    assert 0.3 <= time.monotonic() - began < 60
    assert not find_marked(**world.markers)


def test_missing_programs_files_and_taken_ports(world):
    found = fault_of(lambda: load(world.server(program=("/no/such/llama-server",))))
    assert (found.fault, found.kind) == ("deterministic", "engine_missing")
    assert "[engines.toy]" in found.message
    assert fault_of(lambda: load(world.server(), "missing:1b")).kind == "model_missing"
    with socket.create_server(("127.0.0.1", world.port)):
        found = fault_of(lambda: load(world.server()))
        assert (found.fault, found.kind) == ("infra", "port_taken")
        assert f"pid {os.getpid()}" in found.message


def test_a_dead_server_holds_nothing_and_the_next_request_starts_it_again(world, caplog):
    server = world.server("--say", "it was me")
    load(server)
    first = world.note.process
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: server.ps() == (), what="its end to be seen")
    server.ps()
    assert len([r for r in caplog.records if "it was me" in r.getMessage()]) == 1, "its last words are said once"
    endpoint, body = wait_for(server.run("/api/chat", {"model": "a:1b"}, limits=Limits(total_s=60.0)))
    assert (endpoint, body["model"]) == ("/api/chat", "a:1b")
    assert world.note.process != first
    assert server.ps()[0].name == "a:1b"
    server.close()
    assert fault_of(lambda: wait_for(server.run("/api/chat", {"model": "a:1b"}, limits=None))).kind == "not_loaded"


def test_however_many_wait_for_a_start_it_takes_one_thread_and_a_close_ends_it(world, caplog):
    server = world.server("--load-s", "0.5")
    load(server)
    asked = {"limits": Limits(total_s=30.0)}

    def killed():
        os.kill(world.note.process.pid, signal.SIGKILL)
        wait_until(lambda: server.ps() == (), what="its end to be seen")

    async def hundred():
        order = []
        waiting = [asyncio.create_task(server.run("/api/chat", {"model": "a:1b"}, **asked)) for _ in range(100)]
        for task in waiting:
            task.add_done_callback(lambda _task: order.append("answer"))
        await asyncio.sleep(0)
        await asyncio.to_thread(order.append, "thread")
        await asyncio.gather(*waiting)
        return order

    killed()
    assert wait_for(hundred())[0] == "thread", "other work on threads goes on meanwhile"
    assert len([r for r in caplog.records if "started again" in r.getMessage()]) == 1
    server.close()

    slow = world.server("--load-s", "600", start_timeout_s=600.0)
    starting = threading.Thread(target=lambda: fault_of(lambda: load(slow, timeout_s=600.0)))
    starting.start()
    wait_until(lambda: world.note is not None, what="its process")
    slow.close()
    starting.join(60)
    assert not starting.is_alive()


def test_a_start_that_nobody_waits_for_any_more_is_stopped_and_made_anew_for_the_next_request(world, monkeypatch):
    server = world.server()
    load(server)
    first = world.note.process
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: server.ps() == (), what="its end to be seen")
    monkeypatch.setattr(ServerCalls, "trouble", lambda *_: "not yet")

    def ask():
        return server.run("/api/chat", {"model": "a:1b"}, limits=Limits(total_s=600.0))

    async def ask_and_hang_up():
        waiting = [asyncio.create_task(ask()) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: world.note is not None, what="the next process")
        for one in waiting:
            assert world.note is not None, "one still waits"
            one.cancel()
            await asyncio.gather(one, return_exceptions=True)

    wait_for(ask_and_hang_up())
    server.unload("b:1b", timeout_s=60.0)
    assert not find_marked(**world.markers)
    monkeypatch.undo()
    wait_for(ask())
    assert server.ps()[0].name == "a:1b"
    server.close()


def test_a_load_behind_another_start_hears_its_cancel_and_its_limit(world):
    server = world.server("--load-s", "600", start_timeout_s=60.0)
    first, second = Cancel(), Cancel()
    caught = []
    starting = threading.Thread(target=lambda: caught.append(fault_of(lambda: load(server, cancel=first))))
    starting.start()
    wait_until(lambda: world.note is not None, what="the process to start")
    behind = threading.Thread(target=lambda: caught.append(fault_of(lambda: load(server, "b:1b", cancel=second))))
    behind.start()
    assert fault_of(lambda: load(server, "b:1b", timeout_s=0.2)).kind == "timeout"
    second.fire("cancelled")
    behind.join(60)
    assert [one.kind for one in caught] == ["cancelled"]
    first.fire("stopping")
    starting.join(60)
    assert not find_marked(**world.markers)


OWNER = """
import logging, os, sys
from pathlib import Path
from tests.integration.engines.processes.test_process_server import World, load
world = World.__new__(World)
world.root, world.port, world.made = Path(sys.argv[1]), int(sys.argv[2]), []
from tests.integration.engines.processes.test_process_server import Files
world.files = Files()
load(world.server())
print("ready", flush=True)
sys.stdin.read()
"""


def killed_owner(world: World) -> None:
    """A worker's life that loads and is then killed with SIGKILL."""
    argv = [sys.executable, "-c", OWNER, str(world.root), str(world.port)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[4]) as owner:
        assert owner.stdout.readline() == b"ready\n"
        owner.kill()


def test_the_next_life_adopts_what_a_killed_one_left(world):
    killed_owner(world)
    left = world.note.process
    server = world.server()
    assert "adopted" in server.adopt()
    assert server.ps()[0].name == "a:1b"
    load(server)
    assert world.note.process == left, "the same load is done already"
    assert world.server().adopt(), "seen by others as well"
    server.unload("a:1b")
    assert not find_marked(**world.markers)
    assert server.adopt() is None


@pytest.mark.parametrize("change", ["file", "command", "note"])
def test_what_is_not_wanted_any_more_is_ended(world, change):
    killed_owner(world)
    if change == "file":
        world.files.digest = "d2"
    if change == "note":
        note_path("worker-1", world.root).unlink()
    server = world.server(*(["--other"] if change == "command" else []))
    assert "ended" in server.adopt()
    assert server.ps() == ()
    assert not find_marked(**world.markers)


def test_what_merely_has_the_number_is_left_alone(world):
    killed_owner(world)
    path = note_path("worker-1", world.root)
    own = world.note.process
    with subprocess.Popen(["sleep", "600"]) as bystander:
        path.write_text(path.read_text().replace(f'"pid":{own.pid}', f'"pid":{bystander.pid}'))
        server = world.server()
        assert "ended" in server.adopt(), "ours is found by its marker"
        assert bystander.poll() is None
        bystander.kill()
