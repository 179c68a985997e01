import os
from pathlib import Path

import pytest

from swarm.core.policy.slot_capacity import SlotRecord
from swarm.queue.stores.slot_book import MOST_RECORDS

RECORD = SlotRecord(
    card="GPU-1", engine="ollama", model="m:latest", digest="abc", in_flight=8, tokens_per_s=310.5, capacity=16, failed=32
)


def told(record):
    return {name: getattr(record, name) for name in record.__struct_fields__ if name != "written_at"}


def test_what_was_found_is_known_to_the_next_life(queue):
    queue.slot_book("worker-1").keep(RECORD)
    book = queue.slot_book("worker-1")
    book.keep(SlotRecord(card="GPU-1", engine="ollama", model="m:latest", digest="abc", length="long", in_flight=4))
    book.keep(SlotRecord(card="GPU-1", engine="ollama", model="m:latest", digest="abc", in_flight=12))
    records = queue.slot_book("worker-1").records
    assert [(one.length, one.in_flight) for one in records] == [("long", 4), ("medium", 12)]
    assert told(book.records[0]) == told(records[0])
    assert records[0].written_at
    assert queue.slot_book("worker-2").records == ()
    assert queue.slot_book("worker-1").records == book.records
    assert not [name for name in os.listdir(queue.layout.workers) if name.endswith(".new")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is ignored"),
        (b'{"format": 1, "records": [{"card": 3}]}', "is ignored"),
        (b'{"format": 99, "records": []}', "format 99"),
        (b"\xff" * 2_000_000, "is ignored"),
    ],
    ids=["torn", "wrong type", "another format", "huge"],
)
def test_a_file_that_cannot_be_used_is_ignored_and_replaced(queue, caplog, content, words):
    path = Path(queue.layout.slots("worker-1"))
    path.write_bytes(content)
    book = queue.slot_book("worker-1")
    assert book.records == ()
    assert words in caplog.text
    assert "worker-1.slots.json" in caplog.text
    book.keep(RECORD)
    assert [told(one) for one in queue.slot_book("worker-1").records] == [told(RECORD)]


def test_a_disk_that_refuses_is_told_once_and_costs_nothing(queue, caplog, monkeypatch):
    book = queue.slot_book("worker-1")

    def refuse(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(queue.storage, "replace", refuse)
        book.keep(RECORD)
        book.keep(RECORD)
    assert [told(one) for one in book.records] == [told(RECORD)]
    assert caplog.text.count("cannot be written") == 1


def test_the_oldest_go_when_there_are_too_many(queue):
    book = queue.slot_book("worker-1")
    for number in range(MOST_RECORDS + 5):
        book.keep(SlotRecord(card="GPU-1", engine="ollama", model=f"m{number}"))
    assert book.records[0].model == "m5"
    assert len(book.records) == MOST_RECORDS
