"""Simulated cards count what living runners hold; a hung driver never holds anybody up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from swarm.config.settings import QueueSettings, Settings
from swarm.core.gpu_reading import GpuReading
from swarm.gpu.simulated import SimulatedReader
from swarm.gpu.timeout_reader import TimeoutReader
from swarm.runtime.cards import gpu_reader, visible_reader
from tests.helpers.wait import wait_until


def note(path, pid, used_mib):
    path.mkdir(exist_ok=True)
    (path / f"{pid}.json").write_text(json.dumps({"pid": pid, "used_mib": used_mib, "model": "m"}))


def test_used_memory_is_what_living_runners_hold(tmp_path):
    dirs = [tmp_path / "a", tmp_path / "b"]
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    note(dirs[0], os.getpid(), 100)
    note(dirs[0], child.pid, 50)
    reader = SimulatedReader(2, 1000, dirs)
    first, second = reader.read()
    assert (first.uuid, first.name, first.simulated, first.memory_total_mib) == ("SIM-GPU-0", "Simulated GPU", True, 1000)
    assert first.memory_used_mib == 150
    assert (second.memory_used_mib, second.processes) == (0, ())
    child.kill()
    wait_until(lambda: reader.read()[0].memory_used_mib == 100, what="the dead runner's memory is free, though unreaped")
    child.communicate()


def test_half_written_notes_and_missing_directories_are_no_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.json").write_text('{"pid": 1, "us')
    assert [c.memory_used_mib for c in SimulatedReader(2, 10, [tmp_path / "a", tmp_path / "none"]).read()] == [0, 0]


def test_cards_and_directories_must_agree(tmp_path):
    with pytest.raises(ValueError, match="2 cards"):
        SimulatedReader(2, 10, [tmp_path])


class Hanging:
    unavailable = None

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.asked = 0

    def read(self):
        self.asked += 1
        assert self.go.wait(60)
        return (GpuReading(index=0, uuid="GPU-0", name="x", memory_used_mib=self.asked),)


def test_a_hung_driver_costs_one_wait_and_one_thread_and_recovers():
    inner = Hanging()
    reader = TimeoutReader(inner, timeout_s=0.5)
    wait_until(lambda: reader.read()[0].fault is None, what="a reading")
    inner.go.clear()
    asked, began = inner.asked, time.monotonic()
    cards = [reader.read()[0] for _ in range(500)]
    assert time.monotonic() - began < 500 * 0.5 / 2
    assert all(c.uuid == "GPU-0" and "not answered" in (c.fault or "") for c in cards)
    assert "not answered" in (reader.unavailable or "")
    assert inner.asked == asked + 1
    inner.go.set()
    wait_until(lambda: reader.read()[0].fault is None, what="readings go on")
    assert reader.unavailable is None


@pytest.mark.parametrize("reader_of", [visible_reader, gpu_reader], ids=["start", "look"])
def test_a_driver_that_is_being_loaded_is_waited_for(tmp_path, monkeypatch, reader_of):
    inner = Hanging()
    inner.go.clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("swarm.runtime.cards.NvmlReader", lambda: inner)
    monkeypatch.setattr("swarm.runtime.cards.TimeoutReader", partial(TimeoutReader, timeout_s=0.05))
    reader = reader_of(Settings(queue=QueueSettings(root=str(tmp_path))))
    threading.Timer(0.5, inner.go.set).start()
    assert [(card.uuid, card.fault) for card in reader.read()] == [("GPU-0", None)]
    inner.go.clear()
    assert "not answered" in (reader.read()[0].fault or ""), "from then on nobody waits that long"
    inner.go.set()


def test_threads_that_read_at_one_time_begin_one_reading_of_a_hung_driver():
    inner = Hanging()
    inner.go.clear()
    reader = TimeoutReader(inner, timeout_s=0.5)
    threads = [threading.Thread(target=reader.read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert inner.asked == 1
    inner.go.set()


def test_an_unexpected_error_of_the_reader_is_not_swallowed():
    class Broken:
        unavailable = None

        def read(self):
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        TimeoutReader(Broken()).read()
