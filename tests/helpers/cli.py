"""Running swarm as a user does: real commands, real processes, everything reaped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.errors import InputError
from swarm.proc import identity
from swarm.proc.env_markers import ROOT_MARKER, find_marked, kill_marked
from swarm.proc.ports import free_port
from swarm.queue.coordination import is_held
from swarm.queue.file_queue import FileQueue
from swarm.queue.stores import registry
from tests.helpers.wait import wait_until

LOOKS = {
    *(("models",), ("batches",), ("feeds",), ("explain",), ("logs",)),
    *(("queue", verb) for verb in ("stats", "show", "list", "active")),
    *(("batch", "show"), ("notify", "list"), ("config", "show")),
}
"""Commands that only read, and no cards: a test may give its commands a library of cards of their own."""
ROLES = ("supervisor", "server", "http", "ray", "brain", "worker")
QUICK = {"SWARM_SIM__LOAD_S": "0.2", "SWARM_SIM__TOKENS_PER_S": "2000", "SWARM_SIM__START_DELAY_S": "0"}


def in_process(*words: str) -> tuple[int, str]:
    """A command in the test's own process: its exit code, and all that it says, problems of its input included."""
    done = CliRunner().invoke(app, words)
    problem = done.exception
    told = "\n".join((problem.message, *problem.problems)) if isinstance(problem, InputError) else ""
    return done.exit_code, done.output + told


class User:
    """Somebody at a shell in a folder of their own, with a queue root there."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.root = folder / "queue"
        self._started: list[subprocess.Popen[str]] = []
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SWARM_", "OLLAMA_"))}
        # Each has ports of its own: from the usual one on, the servers of two tests that run at once would meet.
        self.env = {**kept, **QUICK, "SWARM_OLLAMA__BASE_PORT": str(free_port()), **env}

    @property
    def queue(self) -> FileQueue:
        return FileQueue(str(self.root), "fast")

    def start(self, *words: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, "-m", "swarm", *words],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(started)
        return started

    def run(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as late:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"swarm {' '.join(words)}: not within {timeout_s} s\n{out}\n{err}") from late
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ok(self, *words: str, timeout_s: float = 120.0) -> str:
        done = self.run(*words, timeout_s=timeout_s)
        told = f"swarm {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, told.encode("utf-8", "backslashreplace").decode()
        return done.stdout

    def look(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command that only reads, run in this process: the same answer in a tenth of the time."""
        with chdir(self.folder):
            done = CliRunner().invoke(app, list(words), env=self.env, catch_exceptions=False)
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    def json(self, *words: str) -> dict:
        if words[:2] not in LOOKS and words[:1] not in LOOKS:
            return json.loads(self.ok(*words, "--json"))
        done = self.look(*words, "--json")
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def log(self, name: str) -> str:
        path = self.root / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def ours(self) -> list[int]:
        """Living processes of this root."""
        return [one.pid for one in find_marked(**{ROOT_MARKER: str(self.root)})]

    def kill_all(self) -> None:
        """Have none left. A test that ends a swarm in order says so; another is spared the time."""
        wait_until(self._kill_those, what="all processes gone")
        for started in self._started:
            if started.poll() is None:
                started.kill()
            started.wait()

    def _kill_those(self) -> bool:
        """Kill what runs here, the supervisor first: it would start the others again. Whether nothing did."""
        layout = self.queue.layout
        rows = [row for role in ROLES if self.root.exists() for row in registry.rows(layout, role).values()]
        held = [row.process for row in rows if is_held(layout, row.name) and identity.is_same(row.process)]
        for process in held:
            identity.signal(process, signal.SIGKILL)
        left = kill_marked(0.0, 60.0, **{ROOT_MARKER: str(self.root)})
        assert not left, f"would not die: {left}"
        return not held

    def prompts(self, number: int, name: str = "prompts.jsonl", **more: object) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps({"prompt": f"question {i}", "n": i, **more}) + "\n" for i in range(number)))
        return path


@contextmanager
def user(folder: Path, **env: str) -> Iterator[User]:
    """A user whose every process is gone at the end, however the test ends."""
    person = User(folder, **env)
    try:
        yield person
    finally:
        person.kill_all()
