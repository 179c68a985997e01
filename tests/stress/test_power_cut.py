"""Power cuts for real: a queue on a loop-mounted file system that is shut down mid-work without flushing its log.

Needs root and loop mounts; says so and skips elsewhere. ``SWARM_POWER_CUTS`` sets how many cuts (``scripts/torture`` does).
"""

import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time

import pytest

from swarm.core.task import Attempt, Finish, TaskState, Trail
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from tests.helpers.crashworld import MAY_REMAIN, WORKER, impatient, llm, spare_rule
from tests.helpers.queues import claim_one, exchange_some, finish_one, whereabouts

CUTS = int(os.environ.get("SWARM_POWER_CUTS", "5"))
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
SIZE_MIB = {"ext4": 128, "xfs": 320}


class Disk:
    """An image with a file system on it, mounted."""

    def __init__(self, kind):
        self.home = tempfile.mkdtemp(prefix="swarm-cut-")
        self.image, self.place = f"{self.home}/image", f"{self.home}/mount"
        os.mkdir(self.place)
        with open(self.image, "wb") as file:
            file.truncate(SIZE_MIB[kind] << 20)
        try:
            subprocess.run([*MAKE[kind], self.image], check=True, capture_output=True)
            self.mount()
        except (OSError, subprocess.CalledProcessError) as exc:
            shutil.rmtree(self.home)
            words = getattr(exc, "stderr", None) or str(exc).encode()
            pytest.skip(f"no power cuts on {kind} here: {words.decode().strip().splitlines()[0]}")

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.place], check=True, capture_output=True)

    def cut(self):
        """From this instant on nothing reaches the disk."""
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def come_back(self):
        subprocess.run(["umount", self.place], check=True, capture_output=True)
        self.mount()

    def close(self):
        subprocess.run(["umount", "--lazy", self.place], check=False, capture_output=True)
        shutil.rmtree(self.home)


def work_until_cut(root, seed, say):
    """Submit, claim, finish, give back, without end; whatever returned is said. Ends by itself when the disk is gone."""
    dice = random.Random(seed)
    queue = FileQueue(root)
    ProcessLock(queue.layout, WORKER).acquire()
    worker, brain = queue.worker_view(WORKER), queue.brain_view(spare_rule)
    held = ()
    while True:
        match dice.randrange(7):
            case 0 | 1 | 2:
                submit(queue, brain, dice, say)
            case 3:
                slots = dice.randrange(1, 5)
                finishes = [Finish(claim, TaskState.COMPLETED, Trail(result=an_answer(claim, dice))) for claim in held]
                got = exchange_some(worker, finishes, slots)
                assert all(got.recorded)
                for finish in finishes:
                    say("ended", finish.claim.task.task_id, len(finish.trail.result["message"]["content"]))
                for claim in got.claims:
                    say("claimed", claim.task.task_id, claim.attempt)
                held = got.claims
            case _:
                claim = claim_one(worker)
                if claim is None:
                    continue
                say("claimed", claim.task.task_id, claim.attempt)
                if dice.random() < 0.2:
                    tried = Attempt(attempt=claim.attempt, worker=WORKER, outcome="retried", fault="transient")
                    worker.retry(claim, (*claim.attempts, tried), delay_s=0, counts=True)
                    continue
                result = an_answer(claim, dice)
                if finish_one(worker, claim, TaskState.COMPLETED, Trail(result=result)):
                    say("ended", claim.task.task_id, len(result["message"]["content"]))


def submit(queue, brain, dice, say):
    """One, some at once, or one that the brain has to let go."""
    match dice.randrange(3):
        case 0:
            say("accepted", queue.enqueue(llm("x" * dice.randrange(5000))))
        case 1:
            ids = [queue.new_id() for _ in range(5)]
            for _ in queue.enqueue_many(llm(task_id=i) for i in ids):
                for task_id in ids:
                    say("accepted", task_id)
        case _:
            say("accepted", queue.enqueue(llm(not_before="2026-01-01T00:00:00.000+00:00")))
            for view in brain.look().blocked:
                brain.release_blocked(view.task_id, view.attempt)


def an_answer(claim, dice):
    return {"message": {"content": f"{claim.task.task_id} " + "y" * dice.randrange(20000)}}


def start_worker(root, seed):
    """The child's pid and the pipe it speaks through."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)

        def say(*facts):
            """Nothing after the cut: xfs then calls a directory flushed whose changes it has just thrown away."""
            os.listdir(root)
            os.write(write_fd, (json.dumps(facts) + "\n").encode())

        try:
            work_until_cut(root, seed, say)
        finally:
            os._exit(0)
    os.close(write_fd)
    return child, read_fd


def drain(read_fd):
    with os.fdopen(read_fd, encoding="utf-8") as pipe:
        return [json.loads(line) for line in pipe]


def check(root, accepted, ended, claimed):
    """No accepted task and no shown result is lost, and each is in one state, after the brain's recovery."""
    queue = FileQueue(root).prepare()
    assert queue.brain_view(spare_rule).recover(WORKER) is not None
    fsck.recover_root(queue.layout, queue.storage)
    findings = fsck.look(queue.layout, agree_s=0)
    assert {f.kind for f in findings} <= MAY_REMAIN, findings
    fsck.repair(queue.layout, queue.storage, findings)
    places = whereabouts(queue)
    assert all(len(s) == 1 for s in places.values())
    assert accepted <= set(places), f"lost: {accepted - set(places)}"
    for task_id, size in ended.items():
        document = queue.read(task_id)
        assert document["state"] == "completed", f"the result of {task_id} was shown and is gone"
        assert len(document["result"]["message"]["content"]) == size
    for task_id, attempt in claimed.items():
        document = queue.read(task_id)
        seen = max([document.get("attempt", 0), *(a["attempt"] for a in document.get("attempts", []))])
        assert document["state"] == "completed" or seen >= attempt, f"attempt {attempt} of {task_id} is not counted"


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKE)
def test_power_cuts_lose_nothing_that_was_said(kind, capsys):
    seed = int(os.environ.get("SWARM_SEED", "1"))
    dice = random.Random(seed)
    disk = Disk(kind)
    accepted, ended, claimed = set(), {}, {}
    try:
        root = f"{disk.place}/queue"
        FileQueue(root).prepare()
        with impatient():
            for number in range(CUTS):
                child, pipe = start_worker(root, seed * 10_000 + number)
                time.sleep(dice.uniform(0.02, 0.15))
                disk.cut()
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                facts = drain(pipe)
                accepted |= {f[1] for f in facts if f[0] == "accepted"}
                ended |= {f[1]: f[2] for f in facts if f[0] == "ended"}
                claimed |= {f[1]: f[2] for f in facts if f[0] == "claimed"}
                disk.come_back()
                check(root, accepted, ended, claimed)
        with capsys.disabled():
            print(f"\n{kind}: {CUTS} power cuts (seed {seed}), {len(accepted)} accepted, {len(ended)} results: none lost")
        assert accepted, "nothing was accepted between the cuts"
    finally:
        disk.close()
