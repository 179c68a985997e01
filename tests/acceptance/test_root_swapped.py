"""Another directory in the place of the queue root while a swarm runs: all of it ends, and nothing is done in that tree."""

import os

import pytest

from swarm.runtime.loop import RootGuard
from tests.helpers.cli import user
from tests.helpers.wait import wait_until

ANOTHER = "another directory is in place of the queue root"
MISSING = "is missing"


def test_a_guard_tells_a_swap_a_move_and_a_link_that_leads_elsewhere(tmp_path):
    root, other, link = tmp_path / "queue", tmp_path / "other", tmp_path / "link"
    root.mkdir()
    other.mkdir()
    link.symlink_to(root)
    guards = [RootGuard(str(root)), RootGuard(str(link))]
    assert [g.trouble() for g in guards] == ["", ""]
    (root / "file").write_text("what happens inside is nothing to it")
    root.chmod(0o500)
    assert [g.trouble() for g in guards] == ["", ""]
    link.unlink()
    link.symlink_to(other)
    assert guards[0].trouble() == ""
    assert ANOTHER in guards[1].trouble()
    root.rename(tmp_path / "away")
    assert "is missing" in guards[0].trouble()
    other.rename(root)
    assert ANOTHER in guards[0].trouble()


@pytest.fixture
def slow(tmp_path):
    with user(tmp_path, SWARM_SIM__TOKENS_PER_S="5") as person:
        yield person


def works(person):
    return any((person.root / "processing").glob("worker-*/*.json"))


def test_all_of_a_swarm_ends_and_goes_on_once_its_root_is_back(slow, tmp_path):
    slow.ok("up", "--simulate", "1", "--detach")
    slow.ok("submit", "--prompt", "hello", "--model", "llama3.2:3b", "--option", "num_predict=300")
    wait_until(lambda: works(slow), timeout_s=60, what="it is being worked on")
    wait_until(lambda: len(slow.ours()) >= 4, timeout_s=60, what="its server, which a load may start again, to be there")

    away = tmp_path / "away"
    slow.root.rename(away)
    slow.root.mkdir(mode=0o700)
    wait_until(lambda: not slow.ours(), timeout_s=60, what="all of it has ended")

    assert os.listdir(slow.root) == []
    said = {path.name for path in (away / "logs").glob("*.err") if "error: " in path.read_text()}
    assert said == {"supervisor.err", "brain.err", "worker-1.err"}

    slow.root.rmdir()
    away.rename(slow.root)
    slow.env["SWARM_SIM__TOKENS_PER_S"] = "5000"
    slow.ok("up", "--simulate", "1", "--detach")
    wait_until(lambda: slow.json("queue", "stats")["completed"] == 1, timeout_s=60, what="its task is done")


def test_a_run_says_so(slow, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n')
    run = slow.start(
        "run", "in.jsonl", "-o", "out.jsonl", "--model", "llama3.2:3b", "--simulate", "1", "--option", "num_predict=300"
    )
    wait_until(lambda: works(slow), timeout_s=60, what="it is being worked on")
    slow.root.rename(tmp_path / "away")
    slow.root.mkdir()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert ANOTHER in err or MISSING in err, "it may look between the two steps"
    assert os.listdir(slow.root) == []
    assert not (tmp_path / "out.jsonl").exists()
