"""A model server that means harm: no command shows, and no log or document holds, what a terminal would obey."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import User, user
from tests.helpers.hostile import EVIL, MODEL, OBEYED, Hostile
from tests.helpers.wait import wait_until

SETTINGS = {"SWARM_RETRY__MAX_ATTEMPTS": "1", "SWARM_RETRY__INFRA_LIMIT": "2", "SWARM_RETRY__BACKOFF_BASE_S": "0.05"}
MODES = ("text", "negative", "keys", "error", "status", "shape0", "teapot", "elsewhere")
SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\]|\\[\\"n])*",?)*\})? ([-+0-9.eE]+|NaN|[+-]Inf)')
OURS = re.compile(r"\r?\x1b\[(?:[0-9;]*m|\?25[lh]|2K|1A)")
"""Colours, and the cursor of a progress bar."""


def harmless(text: str, what: str) -> None:
    found = OBEYED.search(text)
    assert found is None, f"{what}: {text[max(0, found.start() - 80) : found.end() + 40]!a}"
    assert not re.search(r"^\[2026-01-01T00:00:00", text, re.MULTILINE), f"{what}: a forged line"


def strict(text: str) -> object:
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def on_terminal(someone: User, *words: str) -> str:
    """The same with standard output a terminal; progress, on standard error, moves the cursor of its own right."""
    master, slave = pty.openpty()
    env = {**someone.env, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    argv = [sys.executable, "-m", "swarm", *words]
    with subprocess.Popen(
        argv, cwd=someone.folder, env=env, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                more = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            shown += more
        process.wait(60)
    os.close(master)
    return OURS.sub("", shown.decode()).replace("\r\n", "\n")


def test_nothing_of_it_reaches_terminal_log_metric_or_document(tmp_path):
    with Hostile() as server:
        config = tmp_path / "swarm.toml"
        config.write_text(f'[[workers]]\nname = "worker-1"\nollama_url = "{server.url}"\n')
        config.chmod(0o600)
        with user(tmp_path, SWARM_CONFIG=str(config), **SETTINGS) as someone:
            someone.ok("up", "--detach")
            tasks = submit(someone)
            wait_until(lambda: ended(someone, tasks), what="all of it to end")
            check_commands(someone, tasks)
            check_terminal(someone, tasks)
            check_files(someone)
            check_answer(someone)
        assert not any(path == "/stolen" for path, _ in server.requests)


def submit(someone: User) -> dict[str, str]:
    tasks = {}
    for mode in MODES:
        request = {"prompt": f"mode={mode}"}
        kind = {"task_class": "llm", "model": MODEL, "endpoint": "/api/generate"}
        tasks[mode] = someone.queue.enqueue({**kind, "request": request, "name": f"[bold]{mode}"})
    return tasks


def ended(someone: User, tasks: dict[str, str]) -> bool:
    stats = someone.queue.stats()
    return stats.completed + stats.failed >= len(tasks)


def commands(tasks: dict[str, str]) -> list[tuple[str, ...]]:
    shows = [("queue", "show", tasks[mode]) for mode in ("text", "keys", "error")]
    explains = [("explain", subject) for subject in (tasks["status"], "worker-1", MODEL)]
    looks = [("models",), ("status",), ("workers",), ("gpus",), ("doctor",), ("queue", "stats"), ("batches",)]
    lists = [("queue", "list", state) for state in ("failed", "completed")]
    return [*looks, *lists, *shows, *explains, ("logs", "-n", "1000"), ("logs", "--task", tasks["error"])]


def check_commands(someone: User, tasks: dict[str, str]) -> None:
    for words in commands(tasks):
        plain = someone.look(*words)
        harmless(plain.stdout + plain.stderr, " ".join(words))
        assert "Traceback" not in plain.stderr
        document = someone.look(*words, "--json")
        harmless(document.stdout, f"{' '.join(words)} --json")
        strict(document.stdout)
    strict(someone.run("top", "--json").stdout)
    metrics = someone.look("metrics").stdout
    harmless(metrics, "metrics")
    for line in metrics.splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


def check_terminal(someone: User, tasks: dict[str, str]) -> None:
    for words in (("models",), ("status",), ("queue", "list", "failed"), ("queue", "show", tasks["text"]), ("doctor",)):
        shown = on_terminal(someone, *words)
        harmless(shown, f"{' '.join(words)} on a terminal")
        assert shown.strip()
    unwrapped = on_terminal(someone, "queue", "show", tasks["error"]).replace("\n", "")
    assert "[bold red]markup[/bold red][link=" in unwrapped, "no markup is read"
    assert "[bold]error" in unwrapped


def check_files(someone: User) -> None:
    for path in (someone.root / "logs").iterdir():
        harmless(path.read_text(), path.name)
    for folder in ("completed", "failed", "workers", "heartbeats"):
        for path in (someone.root / folder).rglob("*.json"):
            strict(path.read_text())
    for path in (someone.root / "failed").rglob("*.json"):
        harmless(path.read_text(), str(path))


def check_answer(someone: User) -> None:
    """The text of an answer is data: exact in files and pipes, harmless on a terminal."""
    exact = f"good {EVIL}"
    ask = ("submit", "--prompt", "mode=text", "--model", MODEL, "--wait")
    piped = subprocess.run(
        [sys.executable, "-m", "swarm", *ask], cwd=someone.folder, env=someone.env, capture_output=True, check=True
    )
    assert piped.stdout.decode().rstrip("\n") == exact
    shown = on_terminal(someone, *ask)
    assert OBEYED.search(shown) is None, "its line breaks are its own, and all that is left"
    assert "[bold red]markup[/bold red]" in shown.replace("\n", "")
    assert "\\x1b[31m" in shown
    (someone.folder / "in.jsonl").write_text('{"prompt": "mode=text"}\n{"prompt": "mode=keys"}\n')
    for name in ("out.jsonl", "out.csv"):
        done = someone.run("run", "in.jsonl", "-o", name, "--model", MODEL)
        assert done.returncode == 0, done
        harmless(done.stdout + done.stderr, "run")
    rows = [strict(line) for line in (someone.folder / "out.jsonl").read_text().rstrip("\n").split("\n")]
    assert rows[0]["response"] == exact
    assert rows[0]["usage"]["completion_tokens"] == 0
    shown = on_terminal(someone, "run", "in.jsonl", "-o", "-", "--model", MODEL, "--quiet")
    harmless(shown, "results on a terminal")
    assert next(strict(line)["response"] for line in shown.splitlines() if line.startswith("{")) == exact
    assert rows_of(someone.folder / "out.csv")[0]["response"] == exact


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
