"""A real server: swarm with ``slots = "auto"`` beside a plain loop of threads at each fixed number, interleaved.

The plain loops see the server in the same state: for llama-server one is started for each number, and one for swarm.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.throughput_live import asked, enqueue, plain, swarm, until

from swarm.proc.ports import free_port
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry

SLOTS = (1, 2, 4, 8, 16)
TOKENS = 64
CONTEXT = 1024


def beside_plain(url: str | None, binary: str | None, model: str, requests: int, repeats: int) -> dict[str, Any]:
    """Requests/s of each, the ratio of swarm's to the best plain loop's, and what swarm adds to a request."""
    prompts = [f"Write a line about the number {n}." for n in range(requests)]
    rates: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        if binary is not None:
            queue = stack.enter_context(swarm(_llama_toml(binary, model)))
        else:
            assert url is not None
            queue = stack.enter_context(swarm(_ollama_toml(url)))
        _ours(queue, model, prompts)  # loads the model, and lets the tuner see it
        for _ in range(repeats):
            for slots in SLOTS:
                with _server(url, binary, model, slots) as at:
                    path, bodies = _bodies(binary is not None, model, prompts)
                    seconds, _ = plain(at, path, bodies, slots)
                rates.setdefault(f"plain, {slots} threads", []).append(requests / seconds)
            rates.setdefault("swarm, auto", []).append(requests / _ours(queue, model, prompts))
        beat = next((beat for name in queue.worker_names() if (beat := registry.read_heartbeat(queue.layout, name))), None)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = medians.pop("swarm, auto")
    best = max(medians, key=lambda name: medians[name])
    return {
        "requests_per_s": {name: round(rate, 3) for name, rate in {**medians, "swarm, auto": ours}.items()},
        "best_plain": best,
        "ratio": round(ours / medians[best], 3),
        "swarm_adds_ms_per_request": round(1000 * (1 / ours - 1 / medians[best]), 2),
        "slots": {name: tuned.why for name, tuned in beat.tuned.items()} if beat is not None else {},
    }


def _llama_toml(binary: str, model: str) -> str:
    port = free_port("127.0.0.1")  # without cards a worker has a server only if it is given a port
    return (
        f'[llm]\nengine = "llama-server"\nslots = "auto"\n[engines.llama-server]\ncommand = ["{binary}"]\n'
        f'[models."bench:latest"]\nfile = "{Path(model).resolve()}"\n'
        f'[models."bench:latest".options]\nnum_ctx = {CONTEXT}\n[[workers]]\nname = "one"\nport = {port}\n'
    )


def _ollama_toml(url: str) -> str:
    return f'[llm]\nslots = "auto"\n[[workers]]\nname = "one"\nollama_url = "{url}"\n'


def _bodies(llama: bool, model: str, prompts: list[str]) -> tuple[str, list[dict[str, Any]]]:  # noqa: FBT001
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    if llama:
        return "/v1/chat/completions", [{"messages": one, "max_tokens": TOKENS, "temperature": 0} for one in messages]
    options = {"num_predict": TOKENS, "temperature": 0}
    return "/api/chat", [{"model": model, "messages": one, "stream": False, "options": options} for one in messages]


@contextlib.contextmanager
def _server(url: str | None, binary: str | None, model: str, slots: int) -> Iterator[str]:
    """The running one, or a llama-server for so many slots."""
    if binary is None:
        assert url is not None
        yield url
        return
    port = free_port("127.0.0.1")
    flags = ["-m", model, "-np", str(slots), "-c", str(CONTEXT * slots), "-kvu", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([binary, *flags, "--no-webui"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _healthy(f"http://127.0.0.1:{port}"), "llama-server", 300.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError, RuntimeError):
        return bool(asked(url, "/health"))
    return False


def _ours(queue: FileQueue, model: str, prompts: list[str]) -> float:
    """Seconds of a batch, from its submission to its last answer."""
    name = "bench:latest" if os.path.exists(model) else model
    options = {"num_predict": TOKENS, "temperature": 0}
    start_s = time.monotonic()
    ids = enqueue(
        queue,
        [
            {
                "task_class": "llm",
                "model": name,
                "request": {"messages": [{"role": "user", "content": prompt}], "options": options},
            }
            for prompt in prompts
        ],
    )
    watch = BatchWatch(queue.layout, ids)
    until(lambda: watch.look().left == 0, "the batch", 3600.0)
    return time.monotonic() - start_s
