"""A disk that is really full, and one that is really read-only: commands say so and fail, work waits and goes on by itself.

Needs root for a small tmpfs; says so and skips elsewhere. Errors at every single call are in ``test_crash_points``.
"""

import os
import subprocess
import sys

import pytest

from swarm.core.task import TaskState, Trail
from swarm.errors import StorageFault
from swarm.queue.fsck import fsck
from tests.helpers.crashworld import impatient
from tests.helpers.queues import assert_one_state_each, claim_one, finish_one, llm, open_queue

DONE = Trail(result={"message": {"content": "z" * 30_000}})


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small file system here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # queues that a caught fault refers to hold lock files open


def submit(root):
    argv = [sys.executable, "-m", "swarm", "submit", "--prompt", "hi", "--model", "llama3.2:3b", "--root", str(root)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def fill(place):
    with open(place / "ballast", "wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return


def test_a_full_disk(disk):
    queue = open_queue(disk, "full")
    first, second = queue.enqueue(llm("1")), queue.enqueue(llm("2"))
    worker = queue.worker_view("w")
    running = claim_one(worker)
    fill(disk)
    refused = submit(disk / "queue")
    assert refused.returncode not in (0, 1)
    assert "No space left" in refused.stderr
    assert "free some space" in refused.stderr
    assert "Traceback" not in refused.stderr
    waiting = claim_one(worker)
    assert waiting is not None, "renames work on a full disk"
    with pytest.raises(StorageFault, match="No space left"):
        finish_one(worker, running, TaskState.COMPLETED, DONE)
    assert_one_state_each(queue, [first, second])
    os.unlink(disk / "ballast")
    assert finish_one(worker, running, TaskState.COMPLETED, DONE)
    assert finish_one(worker, waiting, TaskState.COMPLETED, DONE)
    accepted = submit(disk / "queue")
    assert accepted.returncode == 0, accepted.stderr
    assert sum(queue.stats().pending.values()) == 1, "what was refused is not there"
    with impatient():
        assert [f for f in fsck.look(queue.layout, agree_s=0) if f.kind != "abandoned"] == []


def test_a_read_only_disk(disk):
    queue = open_queue(disk, "full")
    task_id = queue.enqueue(llm())
    worker = queue.worker_view("w")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StorageFault, match="Read-only") as caught:
        claim_one(worker)
    assert "resumes by itself" in caught.value.hint
    refused = submit(disk / "queue")
    assert refused.returncode not in (0, 1)
    assert "Read-only" in refused.stderr
    assert "Traceback" not in refused.stderr
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert claim_one(worker).task.task_id == task_id
    assert submit(disk / "queue").returncode == 0
