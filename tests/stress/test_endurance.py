"""The endurance script in the smallest dose: it runs, tells its figures, and says when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "scripts/endurance"
PLANTED = """
import runpy, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/scripts"]
from tests.endurance import scene_mapreduce as endure_mapreduce
from tests.endurance.scene_common import SceneReport
planted = SceneReport(name="planted", figures={"records": 2}, findings=["lost: t1 has no record"])
endure_mapreduce.scene = lambda options: planted
sys.argv = ["endurance", "--only", "mapreduce", "--seed", "5"]
runpy.run_path(sys.path[0] + "/scripts/endurance", run_name="__main__")
"""
pytestmark = pytest.mark.skipif(
    not SCRIPT.exists() or Path(sys.prefix) != REPO / ".venv", reason="the script runs in the checkout's own .venv"
)


def test_map_and_reduce_with_the_brain_killed_throughout():
    words = ["--only", "mapreduce", "--questions", "20", "--seed", "3", "--json"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (scene,) = told["scenes"]
    assert (told["seed"], told["good"], scene["findings"]) == (3, True, [])
    assert scene["figures"]["records"] == 23
    assert "brain" in scene["figures"]["kills"]


def test_a_feed_with_feeder_and_workers_killed():
    words = ["--only", "feed", "--lines", "1500", "--feed-kills", "2", "--seed", "3", "--json"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    (scene,) = json.loads(done.stdout)["scenes"]
    assert (scene["findings"], scene["figures"]["records read"]) == ([], 1500)


def test_a_finding_is_told_and_is_the_exit_code():
    done = subprocess.run(
        [sys.executable, "-c", PLANTED, str(REPO)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "== planted: VIOLATED" in done.stdout
    assert "  ! lost: t1 has no record" in done.stdout
