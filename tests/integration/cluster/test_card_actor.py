"""The actor of a card and its relay, without Ray: which card is served, what is told when it ends, nothing left behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import msgspec
import pytest

from swarm import __version__
from swarm.cluster.relay_child import RelayChild, relay_root
from swarm.core.nodes.card_report import CardOrder, CardPhase, CardReport
from swarm.proc.env_markers import find_marked, kill_marked
from swarm.proc.identity import command_line, read_stat
from tests.helpers.fake_nvml import FakeDriver, build, compiler
from tests.helpers.wait import runs, wait_until

SLOW_S = 120.0
TOKEN = "a-token-of-the-cluster-tests"
HOST = """
import signal, sys
import swarm.cluster.card_actor as card_actor
actor = card_actor.CardActor()
for line in sys.stdin:
    method, _, words = line.strip().partition(" ")
    answer = actor.serve(words.encode()) if method == "serve" else getattr(actor, method)()
    print(answer.decode() if isinstance(answer, bytes) else answer, flush=True)
signal.pause()
"""
PARENT = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"


@pytest.fixture
def order(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SWARM_LLM__SLOTS", "no number")  # of the machine's own, and not obeyed
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the same: it would be given the token
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    made = CardOrder(
        version=__version__, namespace="ours", node="box2", address="127.0.0.1", slot=1, simulate=2, token=TOKEN, env={}
    )
    yield made
    kill_marked(0.0, SWARM_ROOT=str(relay_root(made)))


def left(order: CardOrder) -> list[object]:
    return list(find_marked(SWARM_ROOT=str(relay_root(order))))


def reported(child: RelayChild, phase: CardPhase) -> CardReport:
    def report():
        found = child.report()
        assert found.phase in (phase, CardPhase.STARTING), found
        return found if found.phase is phase else None

    return wait_until(report, timeout_s=SLOW_S, what=f"a relay that is {phase}", poll_s=0.05)


def test_a_simulated_card_is_served_with_the_token_and_the_end_is_told(order):
    child = RelayChild(msgspec.structs.replace(order, env={"SWARM_SIM__VRAM_MIB": "5000"}), None)
    try:
        report = reported(child, CardPhase.SERVING)
        assert (report.card, report.url.rpartition("/")[2]) == ("gpu1", "gpu1")
        (card,) = report.state.cards
        assert (card.uuid, card.vram_mib, card.simulated) == ("box2/SIM-GPU-1", 5000, True)
        assert not any(TOKEN in word for one in left(order) for word in command_line(one))
        os.kill(child._process.pid, signal.SIGKILL)
        assert child.wait(SLOW_S)
        ended = reported(child, CardPhase.ENDED)
        assert "killed by signal 9" in ended.reason
    finally:
        child.stop()
        child.wait(SLOW_S)


@pytest.mark.skipif(compiler() is None, reason="no C compiler for the stand-in of NVIDIA's library")
def test_a_real_card_is_the_one_that_ray_gave_and_no_other(order, tmp_path, monkeypatch):
    driver = FakeDriver(tmp_path / "cards", count=3)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build(tmp_path / "nvml")))
    monkeypatch.setenv("FAKE_NVML_STATE", str(driver.path))
    binary = tmp_path / "ollama"
    binary.write_text(f"#!/bin/sh\nexec {sys.executable} -P -m swarm.simulator\n")
    binary.chmod(stat.S_IRWXU)
    child = RelayChild(msgspec.structs.replace(order, simulate=None, env={"SWARM_OLLAMA__BINARY": str(binary)}), "2")
    try:
        report = reported(child, CardPhase.SERVING)
        assert [(card.card, card.uuid) for card in report.state.cards] == [("gpu2", "GPU-00000002")]
    finally:
        child.stop()
        assert child.wait(SLOW_S)
    wait_until(lambda: not left(order), timeout_s=SLOW_S, what="processes of the relay")


def test_what_keeps_a_relay_from_its_start_is_the_reason(order):
    child = RelayChild(msgspec.structs.replace(order, env={"SWARM_SIM__VRAM_MIB": "much"}), None)
    assert "vram_mib" in reported(child, CardPhase.ENDED).reason


def test_an_actor_ends_with_its_relay_when_its_raylet_is_dead_and_nobody_reaps_it(order):
    host = [sys.executable, "-c", HOST]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as raylet:
        actor = int(raylet.stdout.readline())

        def ask(line: str) -> str:
            raylet.stdin.write(line + "\n")
            raylet.stdin.flush()
            return raylet.stdout.readline()

        def serves():
            report = msgspec.json.decode(ask("report"), type=CardReport)
            return report if report.phase is CardPhase.SERVING else None

        older = msgspec.structs.replace(order, version="0.0.1")
        assert ask("version").strip() == __version__
        ask("serve " + msgspec.json.encode(order).decode())
        wait_until(serves, timeout_s=SLOW_S, what="a relay", poll_s=0.05)
        ask("serve " + msgspec.json.encode(older).decode())  # changes nothing: it has its relay
        assert serves()
        raylet.kill()
        wait_until(lambda: read_stat(raylet.pid).state == "Z", timeout_s=SLOW_S, what="a zombie")
        wait_until(lambda: not runs(actor), timeout_s=SLOW_S, what="end of the actor")
        wait_until(lambda: not left(order), timeout_s=SLOW_S, what="processes of the relay")


def test_an_actor_of_another_version_starts_nothing(order):
    older = msgspec.json.encode(msgspec.structs.replace(order, version="0.0.1")).decode()
    with subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        host.stdin.write(f"serve {older}\nstop\n")
        host.stdin.flush()
        report = msgspec.json.decode(host.stdout.readline(), type=CardReport)
        assert report.phase is CardPhase.ENDED
        assert f"swarm {__version__} is installed there, 0.0.1 beside the queue" in report.reason
        assert host.stdout.readline() == "True\n"
        host.kill()
    assert not left(order)
