"""The main job against a real Ollama: servers that run already, servers of our own, and both dying in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.core.worker import ProcessIdentity
from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER, find_marked
from tests.helpers.cli import User
from tests.helpers.wait import wait_until
from tests.ollama.conftest import MODEL, RealServer, free_port

pytestmark = [pytest.mark.ollama, pytest.mark.timeout(300)]
ITEMS = 60
TOKENS = 48


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path, NO_COLOR="1")
    lines = (json.dumps({"number": n, "prompt": f"Tell me a story about the number {n}."}) for n in range(ITEMS))
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    yield made
    for left in find_marked(**{ROOT_MARKER: str(made.root)}):
        os.kill(left.pid, signal.SIGKILL)


def configure(user: User, workers: str, ollama: str = "", limits: str = "") -> None:
    (user.folder / "c.toml").write_text(
        f"""
        {ollama}
        [llm]
        on_cpu_spill = "allow"
        slots = 2
        {limits}
        [models.{MODEL}]
        options = {{ num_ctx = 1024, num_predict = {TOKENS}, num_thread = 1 }}
        {workers}
        """
    )


RUN = ("run", "in.jsonl", "--model", MODEL, "-o", "out.jsonl", "--config", "c.toml")


def check_output(user: User) -> None:
    """Every item once, each with an answer and its token counts."""
    rows = [json.loads(line) for line in (user.folder / "out.jsonl").read_text().splitlines()]
    assert sorted(row["number"] for row in rows) == list(range(ITEMS))
    for row in rows:
        assert row["status"] == "completed", row
        assert row["finish_reason"] in ("stop", "length")
        assert 0 < row["usage"]["completion_tokens"] <= TOKENS
        assert row["usage"]["prompt_tokens"] > 10


def by_worker(user: User) -> Counter[str]:
    """Completed llm tasks by the worker of their last attempt."""
    documents = [json.loads(path.read_bytes()) for path in (user.root / "completed").rglob("*.json")]
    return Counter(one["attempts"][-1]["worker"] for one in documents if one["task_class"] == "llm")


def test_servers_that_run_already_are_used_and_left_alone(user: User, binary: str, models_dir: Path, tmp_path: Path) -> None:
    servers = [RealServer(binary, tmp_path / f"home{n}", models_dir) for n in (1, 2)]
    try:
        tables = (f'[[workers]]\nname = "worker-{n}"\nollama_url = "{s.url}"\n' for n, s in enumerate(servers, 1))
        configure(user, "".join(tables))
        user.ok(*RUN, timeout_s=200)
        check_output(user)
        split = by_worker(user)
        assert sum(split.values()) == ITEMS
        assert min(split["worker-1"], split["worker-2"]) > ITEMS // 10
        assert all([held["name"] for held in s.ps()] == [f"{MODEL}:latest"] for s in servers), "never stopped, never emptied"
    finally:
        for server in servers:
            server.stop()


def retried(user: User) -> list[dict]:
    """The attempts that were not the last."""
    documents = [json.loads(path.read_bytes()) for path in (user.root / "completed").rglob("*.json")]
    return [attempt for one in documents for attempt in one["attempts"] if attempt["outcome"] == "retried"]


def marked(user: User, worker: str, word: bytes) -> list[ProcessIdentity]:
    found = find_marked(**{ROOT_MARKER: str(user.root), SERVER_MARKER: worker})
    return [one for one in found if word in Path(f"/proc/{one.pid}/cmdline").read_bytes().split(b"\0")]


def completed(user: User) -> int:
    return sum(len(files) for _, _, files in os.walk(user.root / "completed"))


def wait_for_completed(user: User, run: subprocess.Popen[str], count: int) -> None:
    def enough() -> bool:
        assert run.poll() is None, f"it ended too early: {run.communicate()}"
        return completed(user) >= count

    wait_until(enough, timeout_s=120, what=f"{count} tasks completed")


def own_servers(user: User, binary: str, models_dir: Path, *, workers: int = 2, limits: str = "") -> None:
    home = user.folder / "home"
    ollama = f'[ollama]\nbinary = "{binary}"\nenv = {{ OLLAMA_MODELS = "{models_dir}", HOME = "{home}" }}\n'
    tables = (f'[[workers]]\nname = "worker-{n}"\nport = {free_port()}\n' for n in range(1, workers + 1))
    configure(user, "".join(tables), ollama, limits)


def test_a_killed_server_and_a_killed_runner_lose_nothing(user: User, binary: str, models_dir: Path) -> None:
    own_servers(user, binary, models_dir)
    run = user.start(*RUN)
    try:
        wait_for_completed(user, run, 10)
        (server,), (orphan,) = marked(user, "worker-1", b"serve"), marked(user, "worker-1", b"runner")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{orphan.pid}").exists(), timeout_s=60, what="the orphan runner to be ended")
        wait_until(lambda: marked(user, "worker-1", b"runner"), timeout_s=60, what="a new server with the model loaded")
        (runner,) = marked(user, "worker-2", b"runner")
        os.kill(runner.pid, signal.SIGKILL)
        out, err = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode == 0, f"{out}\n{err}"
    check_output(user)
    assert sum(by_worker(user).values()) == ITEMS
    faults = {attempt["fault"] for attempt in retried(user)}
    assert faults == {"infra"}, "the deaths hit running requests, and cost the tasks none of their attempts"
    assert not find_marked(**{ROOT_MARKER: str(user.root)}), "nothing is left running"


HASTY = """first_token_s = 2
        token_gap_s = 2
        [repair]
        wedged_after_s = 3
        [retry]
        backoff_base_s = 0.1"""


@pytest.mark.parametrize(
    ("frozen", "repair"),
    [(b"runner", "Repair 2 of 4, runner killed"), (b"serve", "Repair 3 of 4, server stopped for a restart")],
)
def test_what_hangs_is_repaired(user: User, binary: str, models_dir: Path, frozen: bytes, repair: str) -> None:
    own_servers(user, binary, models_dir, workers=1, limits=HASTY)
    run = user.start(*RUN)
    try:
        wait_for_completed(user, run, 6)
        for one in marked(user, "worker-1", frozen):
            os.kill(one.pid, signal.SIGSTOP)
        out, err = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode == 0, f"{out}\n{err}"
    check_output(user)
    assert repair in user.log("worker-1")
    assert "Repair 4" not in user.log("worker-1")
    assert not find_marked(**{ROOT_MARKER: str(user.root)}), "nothing is left running"
