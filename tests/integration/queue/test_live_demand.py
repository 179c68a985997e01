"""What live requests wait for, on disk: true only while its writer lives."""

import os
import subprocess
import sys

import msgspec
import pytest

from swarm.brain.observe import Observer
from swarm.config.settings import Settings
from swarm.core.live.demand import LiveDemand, ModelDemand
from swarm.core.snapshot import LiveView
from swarm.proc.identity import current, of_pid
from swarm.queue.fsck.walk import odd_entries
from swarm.queue.stores import live_demand
from swarm.queue.stores.live_demand import read_demand, write_demand
from swarm.runtime.open import crash_rule
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


def looking(queue):
    """A look at the swarm, again and again."""
    observer = Observer(queue.look_view(crash_rule(Settings().retry)), None, Settings())
    return lambda: observer.snapshot().live


def test_the_snapshot_has_it_and_reads_it_again_only_when_it_changed(tmp_path, monkeypatch):
    queue = open_queue(tmp_path)
    look, reads = looking(queue), []
    monkeypatch.setattr(live_demand, "_load", lambda path, load=live_demand._load: reads.append(path) or load(path))
    assert look() == ()
    write_demand(queue.layout, queue.storage, demand())
    for _ in range(3):
        (seen,) = look()
        assert (seen.model, seen.waiting, seen.in_flight) == ("llama3.2:3b", 2, 0)
        assert seen.oldest_s >= 1.5
    assert len(reads) == 1
    busy = {"a": ModelDemand(in_flight=1)}
    write_demand(queue.layout, queue.storage, msgspec.structs.replace(demand(), models=busy, written_at="later"))
    assert [(v.model, v.in_flight, v.oldest_s) for v in look()] == [("a:latest", 1, 0.0)]
    os.unlink(queue.layout.live_demand)
    assert look() == ()


def test_what_a_dead_process_said_is_ignored_though_its_number_is_used_again(tmp_path):
    queue = open_queue(tmp_path)
    look = looking(queue)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = of_pid(child.pid)
    assert identity is not None
    try:
        write_demand(queue.layout, queue.storage, msgspec.structs.replace(demand(), process=identity))
        assert [seen.waiting for seen in look()] == [2]
        child.kill()
        assert child.wait() != 0
        assert look() == ()
        recycled = msgspec.structs.replace(identity, pid=os.getpid())
        write_demand(queue.layout, queue.storage, msgspec.structs.replace(demand(), process=recycled))
        assert look() == ()
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"process": 1, "written_at": "", "models": {}}', b"x" * (2 << 20)]
)
def test_garbage_is_said_once_and_changes_nothing_else(tmp_path, caplog, content):
    queue = open_queue(tmp_path)
    look = looking(queue)
    os.makedirs(queue.layout.live, mode=0o700, exist_ok=True)
    with open(queue.layout.live_demand, "wb") as file:
        file.write(content)
    assert [look() for _ in range(3)] == [(), (), ()]
    said = [record.getMessage() for record in caplog.records if "demand.json is ignored: " in record.getMessage()]
    assert len(said) == 1
    write_demand(queue.layout, queue.storage, demand())
    assert isinstance(look()[0], LiveView)


def test_odd_numbers_count_as_none(tmp_path):
    queue = open_queue(tmp_path)
    odd = {"m": ModelDemand(waiting=-3, in_flight=-1, oldest_s=-5.0)}
    write_demand(queue.layout, queue.storage, msgspec.structs.replace(demand(), models=odd))
    (seen,) = looking(queue)()
    assert (seen.waiting, seen.in_flight, seen.oldest_s) == (0, 0, 0.0)
