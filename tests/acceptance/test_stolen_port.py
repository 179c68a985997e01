"""Somebody takes the port of a server that was killed: no prompt is sent, all are told, and work goes on after it."""

from __future__ import annotations

import json
import os
import signal

import pytest

from swarm.proc.env_markers import ROOT_MARKER, SERVER_MARKER, find_marked
from tests.helpers.cli import User, user
from tests.helpers.impostor import NOBODY, Impostor
from tests.helpers.wait import wait_until

MODEL = "llama3.2:3b"
QUICK = {"SWARM_SUPERVISOR__RESTART_BASE_S": "0.2", "SWARM_SUPERVISOR__RESTART_CAP_S": "0.5"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process of another user: NOT TESTED")
USERS = [pytest.param(0, id="our own user"), pytest.param(NOBODY, id="another user", marks=needs_root)]


def note(someone: User, name: str) -> dict:
    return json.loads((someone.root / "workers" / name).read_text())


def kill_server(someone: User) -> None:
    for process in find_marked(**{SERVER_MARKER: "worker-1", ROOT_MARKER: str(someone.root)}):
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not find_marked(**{SERVER_MARKER: "worker-1", ROOT_MARKER: str(someone.root)}), what="no server")


@pytest.mark.parametrize("uid", USERS)
def test_a_stolen_port(tmp_path, uid):
    with user(tmp_path, **QUICK) as someone:
        someone.ok("up", "--simulate", "1", "--detach")
        assert someone.ok("submit", "--prompt", "x", "--model", MODEL, "--wait").startswith("[simulated]")
        port = note(someone, "worker-1.server.json")["port"]
        supervisor = note(someone, "supervisor.json")["process"]["pid"]
        os.kill(supervisor, signal.SIGSTOP)
        kill_server(someone)
        with Impostor(port, uid) as stranger:
            os.kill(supervisor, signal.SIGCONT)
            task = someone.json("submit", "--prompt", "the secret", "--model", MODEL)["task_id"]
            culprit = f"pid {stranger.pid} ("
            wait_until(lambda: culprit in someone.run("workers", "--json").stdout, what="the worker to name the stranger")
            wait_until(lambda: culprit in someone.run("status", "--json").stdout, what="status to name the stranger")
            wait_until(lambda: f"port {port} is taken by" in someone.log("supervisor"), what="the supervisor to say so")
            assert culprit in someone.log("supervisor")
            wait_until(lambda: culprit in someone.log("brain"), what="the alarm")
            assert culprit in someone.run("doctor").stdout
            for command in (("models",), ("explain", "worker-1"), ("explain", task)):
                assert "believe me" not in someone.run(*command).stdout
            wait_until(
                lambda: someone.json("queue", "show", task)["state"] in ("pending", "blocked"), what="the task to wait"
            )
            assert stranger.heard == b""
        done = wait_until(lambda: finished(someone, task), what="work to go on")
        assert done["status"] == "completed"
        assert done["simulated"]
        *before, last = done["attempts"]
        assert last["outcome"] == "completed"
        assert last["attempt"] == 1, "no attempt was used up"
        assert {attempt["fault"] for attempt in before} <= {"infra"}


def finished(someone: User, task: str) -> dict | None:
    shown = someone.json("queue", "show", task)
    return shown if shown["state"] not in ("pending", "blocked", "processing") else None
