"""One file that the disk can never give back: it waits, and is told of; nothing else waits for it."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from swarm.core.task import TaskState, Trail
from swarm.errors import StorageFault
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.batches.failure_limit import FailureLimits
from swarm.queue.stores import registry
from swarm.runtime.bootstrap import living, own_row
from tests.helpers.crashworld import spare_rule
from tests.helpers.queues import claim_one, finish_one, llm, open_queue

DONE = Trail(result={"message": {"content": "hi"}})


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


@pytest.fixture
def bad(monkeypatch):
    """Files of which no byte can be read: those whose inodes are in this set."""
    inodes: set[int] = set()
    real = os.pread

    def pread(fd, *args):
        if os.fstat(fd).st_ino in inodes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, *args)

    monkeypatch.setattr(os, "pread", pread)
    return inodes


def test_a_worker_goes_on_with_the_other_tasks(queue, bad):
    for name in ("a", "b", "c"):
        queue.enqueue(llm(task_id=name))
    bad.add(os.stat(queue.find("a").path).st_ino)
    worker = queue.worker_view("w")
    with pytest.raises(StorageFault, match="Input/output error"):
        claim_one(worker)
    claims = [claim_one(worker), claim_one(worker)]
    assert [claim.task.task_id for claim in claims] == ["b", "c"]
    assert all(finish_one(worker, claim, TaskState.COMPLETED, DONE) for claim in claims)
    assert claim_one(worker) is None
    assert queue.find("a").state is TaskState.PENDING
    bad.clear()
    assert claim_one(queue.worker_view("v")).task.task_id == "a"


def test_a_row_and_a_heartbeat_are_hints(queue, bad):
    with living(queue, own_row("w", "worker")):
        brain = queue.brain_view(spare_rule)
        assert [view.name for view in brain.look().workers] == ["w"]
        bad.add(os.stat(queue.layout.row("w")).st_ino)
        assert registry.read_row(queue.layout, "w") is None
        assert brain.look().workers == ()


def test_the_limits_of_other_batches_are_watched(queue, bad, caplog):
    for batch_id in ("b1", "b2"):
        manifest = Manifest(batch_id=batch_id, source="", format="text", created_at="", max_fails=0)
        list(queue.batches().submit(manifest, [(f"{batch_id}-k", llm())]))
    worker = queue.worker_view("w")
    while (claim := claim_one(worker)) is not None:
        finish_one(worker, claim, TaskState.FAILED, DONE)
    bad.add(os.stat(f"{queue.layout.batches}/b1.json").st_ino)
    with caplog.at_level(logging.WARNING):
        watched = FailureLimits(queue.layout, queue.storage)
        assert watched.look() == watched.look()
    assert [r.message for r in caplog.records if "b1" in r.message] == [
        "batch b1 cannot be read: Input/output error; the failure limit of batch b1 is not checked until that can be read"
    ]
    assert set(watched._limited) <= {"b2"}
