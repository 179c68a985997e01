"""Temporary files of atomic replacements: whole or not at all, and nothing is left of those who are killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swarm.filesystem import temporary
from swarm.formats.output.writer import check_writable, replacing
from swarm.queue.fsck import fsck
from tests.helpers.queues import open_queue
from tests.helpers.wait import wait_until

WRITER = """
import os, sys
from pathlib import Path
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.formats.output.writer import replacing
from swarm.filesystem.temporary import write_note
from swarm.queue.batches.item_lists import new_order
from swarm.queue.file_queue import FileQueue
queue = FileQueue(sys.argv[1], "fast")
print("ready", flush=True)
while True:
    for name in (f"heartbeats/w.json", f"workers/w.json", "control/counts", f"batches/b.json"):
        queue.storage.replace(f"{queue.layout.root}/{name}", os.urandom(30_000), durable=False)
    write_note(Path(queue.layout.workers) / "supervisor.plan.json", (WorkerPlan(name="w"),) * 300)
    with new_order(f"{queue.layout.batches}/b.order", queue.storage) as order:
        order.add("x" * 26)
        order.write()
    with replacing(sys.argv[2]) as out:
        out.write(os.urandom(30_000))
"""


def left_in(*folders):
    """Files that were meant for a moment only."""
    return [p for folder in folders for p in Path(folder).rglob("*") if p.suffix in (".new", ".tmp")]


def kill_writers(queue, output, times):
    """Several of them, each in the midst of its writing; the most that was ever left."""
    most = 0
    for _ in range(times):
        words = [sys.executable, "-c", WRITER, queue.layout.root, str(output)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(random.random() * 0.03)
        process.kill()
        process.wait()
        process.stdout.close()
        most = max(most, len(left_in(queue.layout.root, output.parent)))
    return most


def test_kills_leave_at_most_what_was_being_written_and_a_look_clears_that(tmp_path):
    queue, output = open_queue(tmp_path / "queue"), tmp_path / "out" / "out.jsonl"
    output.parent.mkdir()
    assert kill_writers(queue, output, int(os.environ.get("KILLS", "10"))) <= 6, "one for each place that is written"
    left = left_in(queue.layout.root)
    named = {f.path for f in fsck.look(queue.layout) if f.kind == "temporary"}
    assert named == {str(p) for p in left}
    fsck.recover_root(queue.layout, queue.storage)
    assert not left_in(queue.layout.root)
    check_writable(str(output))
    assert not left_in(output.parent), "the next command with this output takes over what an earlier one left"


def test_who_comes_next_takes_over_what_a_dead_one_left(tmp_path):
    (tmp_path / ".0.new").write_bytes(b"x" * 5000)
    fd, path = temporary.take(str(tmp_path))
    assert path == f"{tmp_path}/.0.new"
    assert os.fstat(fd).st_size == 0
    assert not temporary.is_left(path)
    assert not temporary.remove_left(path), "it is being written"
    other, beside = temporary.take(str(tmp_path))
    assert beside == f"{tmp_path}/.1.new"
    os.close(fd)
    assert temporary.is_left(path)
    assert temporary.remove_left(path)
    temporary.discard(beside, other)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/null", path)])
def test_an_odd_entry_of_its_name_is_passed_over(tmp_path, make):
    make(tmp_path / ".0.new")
    fd, path = temporary.take(str(tmp_path))
    assert path == f"{tmp_path}/.1.new"
    temporary.discard(path, fd)
    assert not temporary.is_left(f"{tmp_path}/.0.new")
    assert not temporary.remove_left(f"{tmp_path}/.0.new")


def test_many_writers_and_one_who_sweeps_are_in_nobodys_way(tmp_path):
    queue = open_queue(tmp_path)
    folder, stop = queue.layout.heartbeats, threading.Event()

    def write(number):
        for turn in range(60):
            data = bytes([65 + number]) * (1000 + turn)
            queue.storage.replace(f"{folder}/{number % 3}.json", data, durable=False)

    def sweep():
        while not stop.is_set():
            for name in os.listdir(folder):
                if temporary.is_temporary(name):
                    temporary.remove_left(f"{folder}/{name}")

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(write, range(6)))
    finally:
        stop.set()
        sweeper.join()
    found = [(Path(folder) / name).read_bytes() for name in os.listdir(folder)]
    assert len(found) == 3
    assert all(len(set(data)) == 1 for data in found), "whole, of one writer"


def test_an_output_that_is_given_up_leaves_what_was_there(tmp_path):
    output = tmp_path / ("ü" * 120)
    output.write_text("before")
    with pytest.raises(KeyError), replacing(str(output)) as stream:
        stream.write(b"half")
        raise KeyError
    assert output.read_text() == "before"
    assert os.listdir(tmp_path) == [output.name]
    with replacing(str(output)) as stream:
        stream.write(b"whole")
    assert output.read_text() == "whole"


def test_a_writer_that_is_stopped_keeps_its_file(tmp_path):
    """Not its age and not its number tell that it is dead, only its lock."""
    code = (
        "import sys, time\nfrom swarm.filesystem import temporary\n"
        "print(temporary.take(sys.argv[1])[1], flush=True)\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        path = process.stdout.readline().strip()
        process.send_signal(signal.SIGSTOP)
        assert not temporary.remove_left(path)
        process.kill()
        wait_until(lambda: temporary.remove_left(path), what="its lock is free")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
