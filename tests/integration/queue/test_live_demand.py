"""What live requests wait for, on disk: true only while its writer lives."""

import msgspec

from swarm.core.live.demand import LiveDemand, ModelDemand
from swarm.proc.identity import current
from swarm.queue.fsck.walk import odd_entries
from swarm.queue.stores.live_demand import read_demand, write_demand
from tests.helpers.queues import open_queue


def demand(**process):
    identity = msgspec.structs.replace(current(), **process)
    return LiveDemand(process=identity, written_at="", models={"llama3.2:3b": ModelDemand(waiting=2, oldest_s=1.5)})


def test_it_is_read_while_its_process_lives(tmp_path):
    queue = open_queue(tmp_path)
    assert read_demand(queue.layout) is None
    write_demand(queue.layout, queue.storage, demand())
    assert read_demand(queue.layout) == demand()
    assert list(odd_entries(queue.layout)) == []
    write_demand(queue.layout, queue.storage, demand(start_ticks=1))
    assert read_demand(queue.layout) is None


def test_a_damaged_file_says_nothing(tmp_path, caplog):
    queue = open_queue(tmp_path)
    write_demand(queue.layout, queue.storage, demand())
    with open(queue.layout.live_demand, "wb") as file:
        file.write(b'{"process"')
    assert read_demand(queue.layout) is None
    assert "demand.json is ignored" in caplog.text
