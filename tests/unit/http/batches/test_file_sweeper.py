"""What removes files: their own expiry, retention, and the leftovers of an upload that died; never an open batch's input."""

import logging
import os
import time

import msgspec
import pytest

from swarm.config.settings import Settings
from swarm.core.batches.life import BatchStatus
from swarm.http.batches.file_sweeper import FileSweeper
from swarm.queue.batches.api_batches import ApiBatch, ApiBatches
from swarm.queue.stores.file_store import FileRecord, FileStore, sortable_id
from tests.helpers.queues import open_queue

DAY_S = 86400
LOG = logging.getLogger("tests.sweeper")


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


@pytest.fixture
def store(queue):
    return FileStore(queue.layout, queue.storage)


def put(store, age_s=0, **more):
    with store.incoming() as new:
        new.write(b"x")
        made_at = int(time.time()) - age_s
        new.publish(FileRecord(id=new.file_id, filename="f", bytes=1, purpose="batch", created_at=made_at, **more))
    return new.file_id


def sweep(queue, days=0.0):
    brain = msgspec.structs.replace(Settings().brain, retention_days=days)
    FileSweeper(msgspec.structs.replace(Settings(), brain=brain), queue, LOG).sweep()


def open_batch(queue, file_id):
    now_s = int(time.time())
    batch = ApiBatch(
        id=sortable_id("batch_"),
        client="a",
        endpoint="/v1/embeddings",
        input_file_id=file_id,
        completion_window="24h",
        created_at=now_s,
        expires_at=now_s + DAY_S,
    )
    ApiBatches(queue.layout, queue.storage).write(batch)
    return batch


def test_what_has_expired_goes_and_is_not_shown_before(queue, store):
    kept, expired = put(store, expires_at=int(time.time()) + 1000), put(store, expires_at=int(time.time()) - 1)
    assert store.find(expired) is None
    sweep(queue)
    assert store.names() == [kept]


def test_retention_takes_old_uploads_and_leaves_results_to_their_batch(queue, store):
    put(store, age_s=3 * DAY_S)
    result, young = put(store, age_s=3 * DAY_S, batch_id="batch_x"), put(store)
    sweep(queue)
    assert len(store.names()) == 3, "no retention is set"
    sweep(queue, days=2.0)
    assert store.names() == [result, young]


def test_the_input_of_an_open_batch_stays(queue, store):
    used = put(store, age_s=3 * DAY_S, expires_at=int(time.time()) - 1)
    batch = open_batch(queue, used)
    sweep(queue, days=1.0)
    assert store.names() == [used]
    ApiBatches(queue.layout, queue.storage).end(batch.at(BatchStatus.FAILED, time.time()))
    sweep(queue, days=1.0)
    assert store.names() == []


def test_an_upload_whose_process_died_is_cleared_once_it_is_old(queue):
    half = f"{queue.layout.staging}/{queue.new_id()}.999999999"
    os.mkdir(half)
    with open(f"{half}/content", "wb") as file:
        file.write(b"half")
    sweep(queue)
    assert os.path.exists(half), "its process may be slow"
    os.utime(half, (time.time() - 2 * 3600,) * 2)
    sweep(queue)
    assert not os.path.exists(half)
