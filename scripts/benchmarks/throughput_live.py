"""Whole swarms on simulated servers, and plain loops of threads beside them: what throughput is made of outside the card.

Every figure is read from the servers themselves (``/sim/state``) or from the operating system; nothing is assumed.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from benchmarks.throughput_curves import MOST

from swarm.proc.ports import free_port
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry
from swarm.simulator.pace import curve_of

HOME = Path(__file__).resolve().parents[2]
MODEL, EMBEDDER = "llama3.2:3b", "nomic-embed-text:latest"
CONTEXT = {"OLLAMA_CONTEXT_LENGTH": "1024"}
"""So that the context of all slots fits on the simulated card."""


def asked(url: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = 600.0) -> Any:
    """One request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        return _answer(connection.getresponse())


def _answer(reply: http.client.HTTPResponse) -> Any:
    text = reply.read()
    if reply.status != 200:
        raise RuntimeError(f"HTTP {reply.status}: {text[:300]!r}")
    return json.loads(text)


def plain(url: str, path: str, bodies: Sequence[dict[str, Any]], slots: int) -> tuple[float, list[Any]]:
    """A loop of threads, each with a connection of its own: seconds, and the answers in order."""
    answers: list[Any] = [None] * len(bodies)
    numbers = iter(range(len(bodies)))
    lock = threading.Lock()

    def work() -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        with contextlib.closing(connection):
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                connection.request("POST", path, json.dumps(bodies[number]))
                answers[number] = _answer(connection.getresponse())

    start_s = time.monotonic()
    with ThreadPoolExecutor(slots) as pool:
        for done in [pool.submit(work) for _ in range(slots)]:
            done.result()
    return time.monotonic() - start_s, answers


@contextlib.contextmanager
def simulated_server(engine: str, *flags: str, env: dict[str, str] | None = None, **knobs: object) -> Iterator[str]:
    """One simulated server of its own; yields its URL."""
    port = free_port("127.0.0.1")
    address = ["--host", f"127.0.0.1:{port}"] if engine == "ollama" else ["--host", "127.0.0.1", "--port", str(port)]
    settings = {f"SWARM_SIM_{name.upper()}": str(value) for name, value in knobs.items()}
    command = [sys.executable, "-m", "swarm.simulator", "--engine", engine, *flags, *address]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "OLLAMA_", "CUDA_"))}
    process = subprocess.Popen(command, env={**inherited, **settings, **(env or {})}, cwd=HOME, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _up(url, "/" if engine == "ollama" else "/health"), "the simulated server")
        yield url
    finally:
        process.terminate()
        process.wait()


def _up(url: str, path: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


@contextlib.contextmanager
def swarm(toml: str, *, simulate: int = 0, **more: str) -> Iterator[FileQueue]:
    """A detached swarm on a temporary root with this configuration and environment; yields its queue."""
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as folder:
        (Path(folder) / "swarm.toml").write_text(toml)
        env = {k: v for k, v in os.environ.items() if not k.startswith("SWARM_")}
        env |= {"SWARM_ROOT": f"{folder}/queue", "SWARM_CONFIG": f"{folder}/swarm.toml"}
        env |= {"SWARM_OLLAMA__BASE_PORT": str(free_port("127.0.0.1")), "PYTHONPATH": str(HOME), **more}
        command = [sys.executable, "-m", "swarm"]
        cards = ["--simulate", str(simulate)] if simulate else []
        try:
            subprocess.run([*command, "up", *cards, "--detach"], env=env, check=True, cwd=folder, stdout=2)
            yield FileQueue(f"{folder}/queue")
        finally:
            subprocess.run([*command, "down", "--now"], env=env, check=False, cwd=folder, stdout=subprocess.DEVNULL)


def until(condition: Callable[[], Any], what: str, timeout_s: float = 120.0) -> Any:
    """Its first true value. Raises ``SystemExit`` after the limit."""
    deadline_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.05)
    return answer


def enqueue(queue: FileQueue, documents: Sequence[dict[str, Any]]) -> list[str]:
    """All of them in one go; their ids."""
    ids = [queue.new_id() for _ in documents]
    for _ in queue.enqueue_many({**document, "task_id": one} for document, one in zip(documents, ids, strict=True)):
        pass
    return ids


def chat_task(text: str) -> dict[str, Any]:
    """A task with one question."""
    return {"task_class": "llm", "model": MODEL, "request": {"messages": [{"role": "user", "content": text}]}}


def adopted(url: str, *, slots: int | str, more: str = "") -> str:
    """The configuration of one worker on a running Ollama."""
    llm = f"[llm]\nslots = {json.dumps(slots)}\nslots_max = 256\n{more}"
    return f'{llm}\n[worker]\nmax_tasks_per_worker = 256\n[[workers]]\nname = "one"\nollama_url = "{url}"\n'


def served(url: str, before: dict[str, Any], number: int, timeout_s: float) -> tuple[float, dict[str, Any]]:
    """Wait until a server has answered so many more requests: seconds since the first token, and its state."""
    started_s = 0.0
    deadline_s = time.monotonic() + timeout_s
    while True:
        state = asked(url, "/sim/state")
        if not started_s and state["requests"] > before["requests"]:
            started_s = time.monotonic()
        if state["served"] - before["served"] >= number:
            return time.monotonic() - started_s, state
        if time.monotonic() > deadline_s:
            done = state["served"] - before["served"]
            raise SystemExit(f"only {done} of {number} requests were answered within {timeout_s:.0f} s")
        time.sleep(0.1)


def curve_live(points: Sequence[str], requests: int) -> dict[str, Any]:
    """One worker with ``auto`` on a server that follows a curve: its tokens/s over the curve's top."""
    curve = curve_of(tuple(points))
    assert curve is not None
    with (
        simulated_server("ollama", env=CONTEXT | {"OLLAMA_NUM_PARALLEL": "64"}, curve=",".join(points), load_s=0.5) as url,
        swarm(adopted(url, slots="auto")) as queue,
    ):
        before = asked(url, "/sim/state")
        enqueue(queue, [chat_task(f"question {n}") for n in range(requests)])
        if until(lambda: _tunes(queue, url, before), "the first answers") == "no":
            return {"open": "the worker tells nothing of slots that it has chosen"}
        seconds, state = served(url, before, requests, 300.0)
        tokens = state["tokens_generated"] - before["tokens_generated"]
        beat = registry.read_heartbeat(queue.layout, "one")
        tuned = {model: f"{one.in_flight} ({one.why})" for model, one in (beat.tuned if beat else {}).items()}
    top = max(curve.rate(n) for n in range(1, 65))
    return {
        "tokens_per_s": round(tokens / seconds, 1),
        "top": round(top, 1),
        "share": round(tokens / seconds / top, 3),
        **tuned,
    }


def _tunes(queue: FileQueue, url: str, before: dict[str, Any]) -> str:
    """Whether the worker publishes the slots that it has chosen, yes or no; empty while it may still do so."""
    beat = registry.read_heartbeat(queue.layout, "one")
    if beat is not None and beat.tuned:
        return "yes"
    return "no" if asked(url, "/sim/state")["served"] - before["served"] > 30 else ""


def many_in_flight(requests: int, slots: int = MOST) -> dict[str, Any]:
    """One worker with 256 in flight against a server that takes a fixed time: rate, memory, processor time, threads."""
    with (
        simulated_server(
            "ollama", env=CONTEXT | {"OLLAMA_NUM_PARALLEL": str(slots)}, request_s=0.2, lines=1, load_s=0.2
        ) as url,
        swarm(adopted(url, slots=slots)) as queue,
    ):
        before = asked(url, "/sim/state")
        row = until(lambda: registry.read_row(queue.layout, "one"), "the worker")
        worker = psutil.Process(row.process.pid)
        peak = threading.Event()
        seen: dict[str, float] = {"threads": 0, "rss_mib": 0, "in_flight": 0}
        enqueue(queue, [chat_task(f"question {n}") for n in range(requests)])
        watcher = threading.Thread(target=_watch, args=(url, worker, seen, peak))
        watcher.start()
        try:
            start = worker.cpu_times()
            seconds, _ = served(url, before, requests, 300.0)
            end = worker.cpu_times()
        finally:
            peak.set()
            watcher.join()
    cpu_ms = 1000 * (end.user + end.system - start.user - start.system) / requests
    most = {name: round(value) for name, value in seen.items()}
    return {"requests_per_s": round(requests / seconds), "worker_cpu_ms_per_request": round(cpu_ms, 2), "most": most}


def _watch(url: str, worker: psutil.Process, seen: dict[str, float], stop: threading.Event) -> None:
    while not stop.wait(0.2):
        with contextlib.suppress(OSError, RuntimeError, psutil.Error):
            now = {"threads": worker.num_threads(), "rss_mib": worker.memory_info().rss / 2**20}
            now["in_flight"] = asked(url, "/sim/state")["in_flight"]
            seen |= {name: max(value, seen[name]) for name, value in now.items()}


EMBED_REQUEST_S = 0.02
"""What an embedding request costs a server, however many short texts it carries."""


def embeddings(number: int) -> dict[str, Any]:
    """Short texts, one in a hundred of them too long: packed, and (a tenth of them) each as a request of its own."""
    texts = [f"text {n}" if n % 100 else "word " * 3000 for n in range(number)]
    packed = _embedded([_embedding_task(text) for text in texts])
    # Requests that differ in an option never share one.
    single = _embedded(
        [_embedding_task(text, options={"seed": n}) for n, text in enumerate(texts[: max(100, number // 10)])]
    )
    return {
        "packed": packed,
        "one_by_one": single,
        "times": round(packed["texts_per_s"] / single["texts_per_s"], 1),
        "failed_expected": number // 100,
    }


def _embedded(tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """These tasks through one worker: texts a second, texts of a request, how many failed."""
    with (
        simulated_server("ollama", env=CONTEXT, load_s=0.2, request_s=EMBED_REQUEST_S) as url,
        swarm(adopted(url, slots="auto")) as queue,
    ):
        before = asked(url, "/sim/state")
        ids = enqueue(queue, tasks)
        start_s = time.monotonic()
        watch = BatchWatch(queue.layout, ids)
        until(lambda: watch.look().left == 0, "the embeddings", 900.0)
        seconds = time.monotonic() - start_s
        requests = asked(url, "/sim/state")["requests"] - before["requests"]
        failed = queue.stats().failed
    return {
        "texts_per_s": round(len(tasks) / seconds),
        "texts_per_request": round(len(tasks) / max(requests, 1), 1),
        "failed": failed,
    }


def _embedding_task(text: str, **more: Any) -> dict[str, Any]:
    return {"task_class": "llm", "model": EMBEDDER, "endpoint": "/api/embed", "request": {"input": text, **more}}


def prefix_groups(groups: int, each: int, prefix_tokens: int = 1500) -> dict[str, Any]:
    """Shuffled prompts of groups that begin alike: tokens evaluated over the least possible, with order and without."""

    def opening(group: int) -> str:
        rng = random.Random(group)
        return "".join(rng.choice("abcdefghij klmno pqrst") for _ in range(prefix_tokens * 4))

    prompts = [
        f"{opening(group)}{n * 7919 % 1000:03d} is the number. What follows?" for group in range(groups) for n in range(each)
    ]
    random.Random(1).shuffle(prompts)
    tail = sum(len(prompt) // 4 for prompt in prompts) - len(prompts) * prefix_tokens
    least = groups * prefix_tokens + tail
    found: dict[str, Any] = {"least_prompt_tokens": least}
    for slots, ordered in itertools.product((1, 4), ("true", "false")):
        env = {"OLLAMA_NUM_PARALLEL": str(slots), "OLLAMA_CONTEXT_LENGTH": "4096"}
        with (
            simulated_server("ollama", env=env, load_s=0.2, request_s=0.01) as url,
            swarm(adopted(url, slots=slots, more=f"prefix_order = {ordered}\n")) as queue,
        ):
            before = asked(url, "/sim/state")
            _run_prompts(queue, prompts)
            _, state = served(url, before, len(prompts), 300.0)
        evaluated = state["prompt_tokens_evaluated"] - before["prompt_tokens_evaluated"]
        name = f"{slots} slots, {'with' if ordered == 'true' else 'without'} order"
        found[name] = {"evaluated": evaluated, "over_the_least": round(evaluated / least, 3)}
    return found


def _run_prompts(queue: FileQueue, prompts: Sequence[str]) -> None:
    """As a batch, for order is a matter of batches."""
    root = Path(queue.layout.root)
    with open(root.parent / "prompts.jsonl", "w") as file:
        file.writelines(json.dumps({"prompt": prompt, "model": MODEL}) + "\n" for prompt in prompts)
    command = [sys.executable, "-m", "swarm", "submit", str(root.parent / "prompts.jsonl"), "--root", str(root)]
    env = {**os.environ, "SWARM_CONFIG": str(root.parent / "swarm.toml")}  # the order is made at the submission
    subprocess.run(command, check=True, stdout=2, cwd=HOME, env=env)
