"""``swarm logs`` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.core.nodes.node_record import NodeCard, NodePhase, NodeRecord
from swarm.views.logs import log_files as logfiles
from tests.helpers.cli_world import far_worker
from tests.helpers.wait import wait_until
from tests.unit.views.logs.test_log_files import stamp

REPOSITORY = Path(__file__).parents[4]


@pytest.fixture
def root(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "worker-1.log").write_text(
        stamp(1, text="Claimed llm task: t1") + "\n" + stamp(4, level="WARNING", text="slow") + "\n"
    )
    (logs / "worker-2.log").write_text(stamp(3, name="worker-2", text="Claimed llm task: t1") + "\n")
    (logs / "brain.log").write_text(
        stamp(2, name="brain", text="taken back: t1") + "\n" + stamp(5, name="brain", text="MONITOR") + "\n"
    )
    (logs / "ollama-worker-1.log").write_text("started\n")
    return tmp_path


def call(root: Path, *argv: str, code: int = 0) -> list[str]:
    result = CliRunner().invoke(app, ["logs", *argv, "--root", str(root)])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return (result.stdout if code == 0 else result.stderr).splitlines()


def ends(lines: list[str]) -> list[str]:
    return [line.split("] ", 2)[-1].split(" ", 1)[-1].strip() for line in lines]


def test_all_logs_in_time_order(root):
    lines = call(root)
    assert lines[0] == "[ollama-worker-1] started"
    assert [line.split("[")[2][:8] for line in lines[1:]] == ["worker-1", "brain] I", "worker-2", "worker-1", "brain] I"]


def test_the_logs_of_another_machine_are_those_of_its_workers_and_their_servers(root):
    """Found by their registrations, and by the record of a node whose workers have not begun."""
    (root / "workers").mkdir()
    (root / "nodes").mkdir()
    (root / "workers/worker-2.json").write_bytes(msgspec.json.encode(far_worker("worker-2").row))
    card = NodeCard(card="gpu1", worker="box2-gpu1")
    record = NodeRecord(name="box2", source="ray", address="10.0.0.2", phase=NodePhase.UP, cards=(card,))
    (root / "nodes/box2.json").write_bytes(msgspec.json.encode(record))
    (root / "logs/ollama-box2-gpu1.log").write_text(stamp(9, name="ollama", text="listening") + "\n")
    (root / "logs/worker-2.err").write_text("a traceback\n")
    assert ends(call(root, "--node", "box2"))[:2] == ["Claimed llm task: t1", "listening"]
    assert [line for line in call(root, "--node", "box2") if "a traceback" in line]
    assert ends(call(root, "brain", "--node", "box2"))[:3] == ["taken back: t1", "Claimed llm task: t1", "MONITOR"]
    assert "did you mean box2?" in call(root, "--node", "bix2", code=2)[1]


def test_one_log_the_last_lines_a_level_a_pattern(root):
    assert len(call(root, "worker-1")) == 2
    assert len(call(root, "worker-1", "brain")) == 4
    assert ends(call(root, "-n", "2")) == ["slow", "MONITOR"]
    assert call(root, "-n", "0") == []
    assert ends(call(root, "--level", "warn", "worker-1")) == ["slow"]
    assert len(call(root, "--grep", "t1")) == 3
    assert len(call(root, "--grep", "t1", "-n", "1")) == 1


def test_since(root):
    now = datetime.now().astimezone()
    (root / "logs/worker-2.log").write_text(f"[{now.isoformat(timespec='milliseconds')}] [worker-2] INFO  fresh\n")
    assert ends(call(root, "--since", "1h")) == ["fresh"]
    assert len(call(root, "--since", "9999w")) == 6


def test_json_is_one_document(root):
    result = CliRunner().invoke(app, ["logs", "--json", "--grep", "t1", "--root", str(root)])
    first = json.loads(result.stdout)["lines"][0]
    assert (first["source"], first["level"]) == ("worker-1", "INFO")
    assert first["text"].endswith("Claimed llm task: t1")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("worker1",), "did you mean worker-1?"),
        (("zzz", "-f"), "there are: brain, ollama-worker-1, worker-1, worker-2"),
        (("--since", "yesterday"), "90s, 15m, 24h"),
        (("--grep", "(oops"), "'(oops' cannot be used"),
        (("--level", "loud"), "one of: debug, info"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(root, argv, said):
    assert said in "\n".join(call(root, *argv, code=2))


def test_no_logs_at_all_is_3(tmp_path):
    assert "there are no logs" in call(tmp_path, code=3)[0]


def test_an_unreadable_log_is_named(root):
    os.chmod(root / "logs/worker-1.log", 0)
    if os.access(root / "logs/worker-1.log", os.R_OK):
        pytest.skip("root reads everything")
    assert "worker-1.log: Permission denied" in call(root, code=2)[0]


def test_follow_shows_history_then_what_comes_once_and_ends_with_130(root, tmp_path):
    out = tmp_path / "out"
    with open(out, "w") as file:
        command = [sys.executable, "-m", "swarm", "logs", "-f", "-n", "1", "--root", str(root)]
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, cwd=REPOSITORY)
    try:
        wait_until(lambda: "MONITOR" in out.read_text(), what="history")
        with open(root / "logs/worker-3.log", "a") as new:
            new.write(stamp(9, name="worker-3", text="hello") + "\n")
        with open(root / "logs/brain.log", "a") as old:
            old.write(stamp(10, name="brain", text="more") + "\n")
        wait_until(lambda: "hello" in out.read_text() and "more" in out.read_text(), what="new lines")
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
    finally:
        child.kill()
        _, errors = child.communicate()
    assert ends(out.read_text().splitlines()) == ["MONITOR", "hello", "more"] or ends(out.read_text().splitlines()) == [
        "MONITOR",
        "more",
        "hello",
    ]
    assert b"Traceback" not in errors


def test_the_end_of_a_big_log_is_found_without_reading_it_all(root, monkeypatch):
    with open(root / "logs/worker-2.log", "w") as file:
        file.writelines(stamp(n % 3600, name="worker-2", text=f"line {n}") + "\n" for n in range(100_000))
    parsed = []
    real = logfiles.parse
    monkeypatch.setattr(logfiles, "parse", lambda *values: parsed.append(1) or real(*values))
    assert len(call(root, "worker-2", "-n", "20")) == 20
    assert len(parsed) < 100
