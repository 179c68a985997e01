"""The simulated Ollama behaves as the real one is known to behave."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from swarm.core.faults import TaskFault
from swarm.core.models.model_server import Limits
from tests.helpers.blocking import BlockingClient
from tests.helpers.simserver import Cancel, SimServer
from tests.helpers.wait import runs, wait_until

MODEL = "llama3.2:3b"
LIMITS = Limits(total_s=60)


def body(text: str = "hello", model: str = MODEL, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": text, **more}


def raw(sim: SimServer, request: bytes, *, until: bytes = b"") -> bytes:
    """Send bytes, read until the server closes or ``until`` was seen."""
    with socket.create_connection(("127.0.0.1", sim.port), timeout=60) as connection:
        connection.sendall(request)
        seen = b""
        while data := connection.recv(65536):
            seen += data
            if until and until in seen:
                break
        return seen


def get(sim: SimServer, path: str, *, host: str = "127.0.0.1", method: str = "GET") -> bytes:
    return raw(sim, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def test_manners_of_http() -> None:
    with SimServer() as sim:
        assert b"Ollama is running" in get(sim, "/")
        assert get(sim, "/", method="HEAD").endswith(b"\r\n\r\n")
        unknown = get(sim, "/nothing")
        assert unknown.startswith(b"HTTP/1.1 404") and b"text/plain" in unknown
        assert get(sim, "/api/version", method="POST").startswith(b"HTTP/1.1 405")
        foreign = get(sim, "/api/version", host="evil.example:80")
        assert foreign.startswith(b"HTTP/1.1 403") and foreign.endswith(b"\r\n\r\n")
        assert get(sim, "/api/version", host="localhost:1").startswith(b"HTTP/1.1 200")
        assert raw(sim, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        twice = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
        assert raw(sim, twice, until=b'd"}HTTP/1.1 200').count(b"200 OK") == 2, "pipelined requests are answered in turn"


def test_lines_are_flushed_one_by_one_and_omit_zeros() -> None:
    with SimServer(request_s=0.4, lines=4) as sim:
        sim.client.load(MODEL, options={})
        payload = json.dumps(body()).encode()
        head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(payload)

        def answered_bit_by_bit() -> bytes:
            """An answer; none where this process has stood still and found all of it at once."""
            with socket.create_connection(("127.0.0.1", sim.port), timeout=60) as connection:
                connection.sendall(head + payload)
                seen, moments = b"", []
                while b"0\r\n\r\n" not in seen:
                    seen += connection.recv(65536)
                    moments.append(time.monotonic())
            return seen if moments[-1] - moments[0] > 0.2 else b""

        seen = wait_until(answered_bit_by_bit, what="an answer that comes line by line")
        lines = [json.loads(line) for line in seen.split(b"\r\n") if line.startswith(b"{")]
        assert len(lines) == 5
        assert all(set(line) == {"model", "created_at", "response", "done"} for line in lines[:-1])
        final = lines[-1]
        assert final["simulated"] and final["done"] and "context" in final
        assert all(final.values()) or final["response"] == "", "zero counters are left out"
        assert 0.3e9 < final["total_duration"] < 60e9, "durations are nanoseconds"


def test_models_load_one_at_a_time_and_reload_for_other_options() -> None:
    with SimServer(
        load_s=0.2, request_s=0.01, env={"OLLAMA_MAX_LOADED_MODELS": "2", "OLLAMA_CONTEXT_LENGTH": "4096"}
    ) as sim:
        started = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            names = [MODEL, "llama3.2:1b", MODEL.upper()]
            list(pool.map(lambda name: sim.client.run("/api/generate", body(model=name), limits=LIMITS), names))
        assert time.monotonic() - started >= 0.4
        assert sim.state()["loads"] == 2
        sim.client.run("/api/generate", body(options={"num_ctx": 8192}), limits=LIMITS)
        assert sim.state()["loads"] == 3
        assert {model.name: model.context_length for model in sim.client.ps()}[MODEL] == 8192
        sim.client.run("/api/generate", body(model="llama3.1:8b"), limits=LIMITS)
        assert len(sim.client.ps()) == 2, "the least recently used model had to go"


def test_a_loading_model_is_not_listed_and_hanging_up_aborts_the_load() -> None:
    with SimServer(load_s=30) as sim:
        cancel, faults = Cancel(), []

        def load() -> None:
            try:
                sim.client.load(MODEL, options={}, cancel=cancel)
            except TaskFault as fault:
                faults.append(fault)

        thread = threading.Thread(target=load)
        thread.start()
        wait_until(lambda: sim.state()["queued_loads"] == 1, what="the load to begin")
        assert sim.client.ps() == ()
        cancel.fire()
        thread.join(60)
        assert faults[0].fault == "cancelled"
        wait_until(lambda: sim.state()["queued_loads"] == 0, what="the load to be aborted")
        assert sim.state()["loads"] == 0
        sim.set(load_s=0)
        sim.client.load(MODEL, options={}, timeout_s=60)


def test_unload_is_ordered_not_done_and_keep_alive_expires() -> None:
    with SimServer(request_s=600, unload_s=0.1) as sim:
        with ThreadPoolExecutor(1) as pool:
            cancel = Cancel()
            running = pool.submit(sim.client.run, "/api/generate", body(), limits=LIMITS, cancel=cancel)
            wait_until(sim.client.ps, what="the model to be loaded")
            sim.client.unload(MODEL)
            (loaded,) = sim.client.ps()
            assert datetime.fromisoformat(loaded.expires_at) <= datetime.now(UTC), "ordered out, but still busy"
            assert sim.state()["in_flight"] == 1
            cancel.fire()
            assert isinstance(running.exception(), TaskFault)
        wait_until(lambda: not sim.client.ps(), what="the model to be gone")
        sim.set(request_s=0.01)
        sim.client.run("/api/generate", body(keep_alive=-1), limits=LIMITS)
        assert int(sim.client.ps()[0].expires_at[:4]) > 2300, "for ever is 292 years"
        sim.client.run("/api/generate", body(keep_alive="100ms"), limits=LIMITS)
        wait_until(lambda: not sim.client.ps(), what="the keep-alive to expire")
        sim.client.unload(MODEL)


def test_slots_wait_without_503_but_loads_do_not() -> None:
    env = {"OLLAMA_NUM_PARALLEL": "2", "OLLAMA_MAX_QUEUE": "1"}
    with SimServer(request_s=0.6, env=env) as sim:
        sim.client.load(MODEL, options={})

        def two_at_a_time() -> bool:
            started = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda n: sim.client.run("/api/generate", body(str(n)), limits=LIMITS), range(8)))
            took_s = time.monotonic() - started
            assert took_s >= 4 * 0.6, "no more"
            return took_s < 8 * 0.6

        wait_until(two_at_a_time, what="two at a time")
        assert sim.client.load("nomic-embed-text", options={}, embedding=True)
        slots = {runner["model"]: runner["slots"] for runner in sim.state()["runners"]}
        assert slots == {MODEL: 2, "nomic-embed-text:latest": 1}
        sim.set(load_s=20)
        with ThreadPoolExecutor(1) as pool:
            cancel = Cancel()
            first = pool.submit(sim.client.load, "llama3.1:8b", options={}, cancel=cancel)
            wait_until(lambda: sim.state()["queued_loads"] == 1, what="the first load")
            with pytest.raises(TaskFault) as caught:
                sim.client.load("qwen2.5:7b", options={})
            assert caught.value.kind == "busy"
            assert sim.client.run("/api/generate", body(), limits=LIMITS).simulated, "a loaded model is served meanwhile"
            cancel.fire()
            assert isinstance(first.exception(), TaskFault)


def test_memory_decides_where_models_go(tmp_path: Path) -> None:
    env = {"OLLAMA_CONTEXT_LENGTH": "1024", "CUDA_VISIBLE_DEVICES": "GPU-1"}
    with SimServer(vram_mib=8000, card_dir=str(tmp_path), models=("small=2000", "big=20000"), env=env) as sim:
        sim.client.load("small", options={})
        (small,) = sim.client.ps()
        entries = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
        assert [(entry["pid"], entry["used_mib"]) for entry in entries] == [(sim.runner_pids()[0], small.size_vram_mib)]
        sim.client.load("big", options={})
        (big,) = sim.client.ps()
        assert big.spilled and big.size_vram_mib == 8000
        sim.set(overflow="refuse")
        sim.client.unload("big")
        wait_until(lambda: not sim.client.ps() and not list(tmp_path.glob("*.json")), what="the card to be empty")
        with pytest.raises(TaskFault) as caught:
            sim.client.load("big", options={})
        assert caught.value.kind == "does_not_fit"
        with pytest.raises(TaskFault) as caught:
            sim.client.load("small", options={"num_ctx": 131072})
        assert (caught.value.kind, "kv cache" in str(caught.value)) == ("out_of_memory", True), "the weights alone would fit"
        sim.set(placement="none")
        sim.client.load("small", options={})
        assert sim.client.ps()[0].size_vram_mib == 0
    with SimServer(env={"CUDA_VISIBLE_DEVICES": "nonsense"}) as sim:
        sim.client.load(MODEL, options={})
        assert sim.client.ps()[0].size_vram_mib == 0, "an unknown id hides every card"


def test_the_runner_survives_a_kill_and_takes_memory_from_the_next(tmp_path: Path) -> None:
    env = {"SWARM_TEST_MARKER": "here", "OLLAMA_CONTEXT_LENGTH": "1024"}
    with SimServer(vram_mib=4000, card_dir=str(tmp_path), models=("one=3000",), env=env) as sim:
        sim.client.load("one", options={})
        (orphan,) = sim.runner_pids()
        port = sim.state()["runners"][0]["port"]
        assert b"SWARM_TEST_MARKER=here" in Path(f"/proc/{orphan}/environ").read_bytes()
        sim.kill()
        assert runs(orphan)
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
        sim.start()
        sim.client.load("one", options={})
        assert sim.client.ps()[0].spilled, "the orphan holds the memory"
        (second,) = sim.runner_pids()
        assert sim.terminate() == 0
        assert not runs(second), "SIGTERM takes the runner along"
        assert runs(orphan)
        os.kill(orphan, signal.SIGKILL)


def test_ignored_sigterm_and_death_on_request() -> None:
    with SimServer(ignore_sigterm=True, exit_after=1) as sim:
        os.kill(sim.pid, signal.SIGTERM)
        assert sim.client.run("/api/generate", body(), limits=LIMITS).simulated
        with pytest.raises(TaskFault) as caught:
            sim.client.run("/api/generate", body(), limits=LIMITS)
        assert caught.value.fault == "infra"
        assert sim.process is not None and sim.process.wait(60) == -signal.SIGKILL


def test_accepts_before_it_answers_and_refuses_a_taken_port() -> None:
    with SimServer(start_delay_s=0.5, wait=False) as sim:
        assert sim.client.version(timeout_s=60)
    with SimServer(start_delay_s=600.0, wait=False) as sim:
        socket.create_connection(("127.0.0.1", sim.port), timeout=60).close()
        with pytest.raises(TaskFault) as caught:
            sim.client.version(timeout_s=0.1)
        assert caught.value.kind == "timeout"
        env = os.environ | {"OLLAMA_HOST": f"127.0.0.1:{sim.port}"}
        second = subprocess.run(
            [sys.executable, "-m", "swarm.simulator"], check=False, env=env, capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1
        assert "address already in use" in second.stderr


def test_bad_flags_are_named() -> None:
    bad = (
        (["--load-s", "-1"], "load_s"),
        (["--faults", "boom"], "boom"),
        (["--host", "x:y"], "x:y"),
        (["--host", "a..b"], "a..b"),
    )
    for flags, word in (*bad, (["--models", "\udcff"], "is not UTF-8")):
        argv = [sys.executable, "-m", "swarm.simulator", *flags]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert word in done.stderr


def test_knobs_turn_while_it_runs_and_the_ledger_counts(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with SimServer(ledger=str(ledger)) as sim:
        sim.client.run("/api/generate", body(), limits=LIMITS, marker="task-1")
        sim.set(faults=["error_500"], fault_after=1, fault_limit=1)
        outcomes = []
        for n in range(3):
            try:
                sim.client.run("/api/generate", body(), limits=LIMITS, marker=f"task-{n + 2}")
                outcomes.append("ok")
            except TaskFault as fault:
                outcomes.append(fault.kind)
        assert outcomes == ["ok", "runner_died", "ok"]
        assert sim.state()["faults"] == {"error_500": 1}
        assert [json.loads(line)["task"] for line in ledger.read_text().splitlines()] == [f"task-{n}" for n in (1, 2, 3, 4)]
        with pytest.raises(OSError, match="400"):
            sim.set(no_such_knob=1)
        with pytest.raises(OSError, match="400"):
            sim.set(faults=["no_such_fault"])
        sim.set(fail_after=0)
        with pytest.raises(TaskFault):
            sim.client.run("/api/generate", body(), limits=LIMITS)


def test_small_answers_do_not_wait_for_delayed_acknowledgements() -> None:
    with SimServer(request_s=0.001, lines=2) as sim:
        sim.client.load(MODEL, options={})

        def took_s() -> float:
            started = time.monotonic()
            sim.client.run("/api/generate", body(), limits=LIMITS)
            return time.monotonic() - started

        wait_until(lambda: took_s() < 0.04, what="an answer before the kernel stops to hold an acknowledgement back")


def test_a_length_cut_leaves_json_that_does_not_parse() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "why": {"type": "string"}}}
    with SimServer() as sim:
        whole = sim.client.run("/api/generate", body(format=schema), limits=LIMITS).final
        assert set(json.loads(whole["response"])) == {"n", "why"}
        sim.set(faults=["length_cut"])
        cut = sim.client.run("/api/generate", body(format=schema), limits=LIMITS).final
        assert cut["done_reason"] == "length"
        with pytest.raises(json.JSONDecodeError):
            json.loads(cut["response"])
        sim.set(faults=[])
        short = sim.client.run("/api/generate", body(options={"num_predict": 3}), limits=LIMITS)
        assert (short.tokens_out, short.final["done_reason"]) == (3, "length")


def test_servers_share_a_models_directory_and_prune_it_at_start(tmp_path: Path) -> None:
    shared = tmp_path / "models"
    env = {"OLLAMA_MODELS": str(shared)}
    with SimServer(env=env | {"OLLAMA_NOPRUNE": "1"}) as one, SimServer(env=env | {"OLLAMA_NOPRUNE": "1"}) as two:
        one.client.pull("fresh:1b")
        assert "fresh:1b" in [model.name for model in two.client.tags()]
        partial = shared / "blobs" / "sha256-partial"
        partial.write_text("half a download")
        two.kill()
        two.start()
        assert partial.exists()
    with SimServer(env=env):
        assert not partial.exists()
    foreign = tmp_path / "real"
    (foreign / "blobs").mkdir(parents=True)
    precious = foreign / "blobs" / "sha256-precious"
    precious.write_text("weights")
    with SimServer(env={"OLLAMA_MODELS": str(foreign)}) as sim:
        assert precious.exists(), "a directory that is not ours is left alone"
        assert "left alone" in sim.log()
        assert sim.client.tags()


def test_a_fresh_client_per_thread_is_not_needed() -> None:
    with SimServer(request_s=0.05, env={"OLLAMA_NUM_PARALLEL": "8"}) as sim, BlockingClient(sim.url) as client:
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda n: client.run("/api/generate", body(f"q{n % 4}"), limits=LIMITS), range(40)))
        texts = {n % 4: reply.final["response"] for n, reply in enumerate(replies)}
        assert all(reply.final["response"] == texts[n % 4] for n, reply in enumerate(replies)), (
            "no answer went to another thread"
        )


def test_an_obeying_server_says_what_it_is_told_and_only_when_asked_to_obey() -> None:
    """For work whose answers must be known beforehand: a list to map over, the prompt that a task was given in the end."""
    cut, join = 'Cut it:\n[[lines]]\nfirst, "one"\n\n  second \n', 'Join:\n[[recite]]\n["a", null] '

    def said(sim: SimServer, prompt: str) -> str:
        return str(sim.client.run("/api/generate", body(prompt), limits=LIMITS).final["response"])

    with SimServer(obey=True) as sim:
        sim.client.load(MODEL, options={})
        assert json.loads(said(sim, cut)) == ['first, "one"', "second"]
        assert said(sim, join) == '["a", null]'
        assert said(sim, "hello").startswith("[simulated]")
    with SimServer() as sim:
        sim.client.load(MODEL, options={})
        assert said(sim, join).startswith("[simulated]")


def test_requests_share_a_curve_and_the_prompt_costs_what_no_slot_knows() -> None:
    """Times are the server's own, and compared with one another: how busy this machine is does not matter much."""
    env = {"OLLAMA_NUM_PARALLEL": "8"}
    with SimServer(request_s=0.0, curve=("1:60", "8:120"), env=env) as sim, ThreadPoolExecutor(8) as pool:
        sim.client.load(MODEL, options={})

        def seconds(n: int) -> float:
            reply = sim.client.run("/api/generate", body(f"q{n}", options={"num_predict": 20}), limits=LIMITS)
            return float(reply.final["eval_duration"]) / 1e9

        alone = min(seconds(0) for _ in range(3))
        together = list(pool.map(seconds, range(8)))
        assert sum(together) / 8 > 2.5 * alone, "eight share twice the rate of one"
        sim.set(curve=[], tokens_per_s=10000.0, prompt_tokens_per_s=2000.0)
        text = "The same long beginning of many prompts. " * 25
        first, *others = (
            sim.client.run("/api/generate", body(f"{text}{n} and its end"), limits=LIMITS).final["prompt_eval_duration"]
            for n in range(4)
        )
        assert first > 4 * min(others), "what a slot knows is not read again"
        assert sim.state()["prompt_tokens_reused"] >= len(text) // 4 - 1


def test_a_runner_dies_of_too_many_tokens_at_once() -> None:
    with SimServer(oom_tokens=150, request_s=30, env={"OLLAMA_NUM_PARALLEL": "4"}) as sim, ThreadPoolExecutor(4) as pool:
        sim.client.load(MODEL, options={})
        running = [pool.submit(sim.client.run, "/api/generate", body("x" * 200 + str(n)), limits=LIMITS) for n in range(4)]
        faults = [one.exception() for one in running]
        assert any(isinstance(fault, TaskFault) and fault.kind == "out_of_memory" for fault in faults)
        sim.set(request_s=0.01)
        assert sim.client.run("/api/generate", body(), limits=LIMITS).simulated, "and the next request has it loaded again"


def test_a_curve_or_drift_that_is_none_is_refused() -> None:
    with SimServer() as sim:
        for knob in ({"curve": ["1:x"]}, {"drift": ["1"]}, {"noise": -1}):
            with pytest.raises(OSError, match="400"):
                sim.set(**knob)
