"""A cable that is cut without a word: the relay frees the slot, and serves again once it is mended."""

import subprocess
import sys
import time

import pytest

from tests.helpers.node_network import NamespaceNetwork, namespaces_work
from tests.helpers.relay import RunningRelay

STUCK = '[ollama]\nenv = { SWARM_SIM_POISON = "STUCK=hang_mid" }\n'
ASK = """
import http.client, json, sys
address, token, path, body = sys.argv[1:]
connection = http.client.HTTPConnection(address)
head = {"Authorization": "Bearer " + token, "X-Swarm-Holder": "tests host:/queue"}
connection.request("POST", "/cards/gpu0/" + path, body, head)
for line in connection.getresponse():
    print(line.decode().strip(), flush=True)
"""
LOAD = '{"order": {"model": "llama3.2:1b", "slots": 1}, "timeout_s": 60}'
LIMITS = '{"total_s": 3600, "first_token_s": 3600, "token_gap_s": 3600}'
CHAT = (
    '{"endpoint": "/api/generate", "limits": '
    + LIMITS
    + ', "progress": true, "request": {"model": "llama3.2:1b", "prompt": "%s"}}'
)


@pytest.mark.skipif(not namespaces_work(), reason="network namespaces need root")
def test_who_is_cut_off_in_silence_frees_the_slot(tmp_path):
    network = NamespaceNetwork(["box2"])
    relay = far = None
    try:
        relay = RunningRelay(
            tmp_path / "root", "--listen", f"{network.address('box2')}:0", config=STUCK, on=network.on("box2", ())
        )
        address = relay.ready.url.removeprefix("http://")

        def ask(path, body):
            return [sys.executable, "-c", ASK, address, relay.token, path, body]

        def here(path, body):
            done = subprocess.run(network.on("box2", ask(path, body)), stdout=subprocess.PIPE, timeout=120, check=True)
            return done.stdout.decode().splitlines()

        while "done" not in here("load", LOAD)[-1]:
            time.sleep(0.1)
        far = subprocess.Popen(network.near(ask("run", CHAT % "STUCK")), stdout=subprocess.PIPE)
        while b"progress" not in (line := far.stdout.readline()):
            assert line, "it ended"
        network.cut_towards("box2")  # acknowledgements that do not come are all that tells the relay of it
        began_s = time.monotonic()
        assert "reply" in here("run", CHAT % "next")[-1], "the server's only slot is free again"
        print(f"free again after {time.monotonic() - began_s:.1f} s")
        assert far.poll() is None, "it has neither hung up nor been told anything"
        network.mend("box2")
        again = subprocess.run(network.near(ask("run", CHAT % "again")), stdout=subprocess.PIPE, timeout=120, check=True)
        assert b"reply" in again.stdout
    finally:
        if far is not None:
            far.kill()
            far.communicate()
        if relay is not None:
            relay.destroy()
        network.close()
