"""Cards that a driver tells of: a stand-in for NVIDIA's library, and a program in place of Ollama."""

import sys
from pathlib import Path

import pytest

from tests.helpers.fake_nvml import FakeDriver, build, compiler
from tests.helpers.relay import RunningRelay
from tests.helpers.wait import wait_until

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


def test_the_visible_cards_are_lent_pinned_and_read(tmp_path):
    driver = FakeDriver(tmp_path / "state")
    program = tmp_path / "ollama"
    program.write_text(
        f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/starts\n'
        f"export PYTHONPATH={Path(__file__).parents[3]}\nexec {sys.executable} -m swarm.simulator\n"
    )
    program.chmod(0o755)
    env = {"LD_LIBRARY_PATH": str(build(tmp_path / "nvml")), "FAKE_NVML_STATE": str(driver.path)}
    env |= {"CUDA_VISIBLE_DEVICES": "3,1", "SWARM_OLLAMA__BINARY": str(program)}
    relay = RunningRelay(tmp_path / "root", "--node", "box2", simulate=None, env=env)
    try:
        wait_until(lambda: relay.ask("GET", "/cards/gpu1/ps")[0] == 200, what="the server of gpu1")
        cards = relay.ask("GET", "/node")[1]["cards"]
        assert sorted((card["card"], card["uuid"]) for card in cards) == [("gpu1", "GPU-00000001"), ("gpu3", "GPU-00000003")]
        assert not any(card.get("simulated") for card in cards)
        reading = cards[0]["readings"][0]
        assert (reading["node"], reading["uuid"], reading["memory_total_mib"]) == ("box2", cards[0]["uuid"], 24576)
        wait_until(lambda: len((tmp_path / "starts").read_text().split()) == 2, what="both servers")
        assert set((tmp_path / "starts").read_text().split()) == {"GPU-00000001", "GPU-00000003"}
        driver.lost = {1}
        driver.write()

        def fault():
            return relay.ask("GET", "/cards/gpu1/state")[1]["readings"][0].get("fault")

        wait_until(fault, what="the card is said to be lost")
        assert relay.stop() == 0
        wait_until(lambda: not relay.pids(), what="the end of all")
    finally:
        relay.destroy()
