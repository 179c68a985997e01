"""The bench of throughput in virtual time runs, covers what it says, and no card loses a request in it."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.helpers.simserver import REPOSITORY


def test_the_hidden_curves_in_small() -> None:
    command = [sys.executable, "scripts/bench_throughput", "--simulated", "--only", "curves", "--minutes", "3", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["curves"]
    assert found["curves"] >= 30
    assert {"flat", "early knee", "late knee", "drift", "measured", "cliff: load refused"} <= set(found["families"])
    assert (found["lost"], found["failures_for_the_same_reason"]) == (0, 0)
    assert found["failures"] > 0, "there are cards that run out of memory"
    assert 0.5 < found["median"] <= 1.05
