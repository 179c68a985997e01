"""The life of one task in one listing, and what processes said on standard error."""

from __future__ import annotations

import json
import os

import pytest

from swarm.config.settings import RetrySettings
from swarm.core.policy.retry import crash_delay_s
from swarm.queue.coordination import ProcessLock
from swarm.queue.worker.orphans import reclaim
from swarm.views.logs import log_files, task_history
from tests.helpers.queues import claim_one, llm, open_queue
from tests.unit.cli.test_logs_command import call
from tests.unit.views.logs.test_log_files import stamp

START = "started; what it says on standard error follows"


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


def write(queue, name, *lines):
    with open(f"{queue.layout.logs}/{name}", "w") as file:
        file.writelines(line + "\n" for line in lines)


def test_the_life_of_one_task_across_brain_and_workers_and_its_own_record(queue):
    queue.enqueue(llm(task_id="t1"))
    lock = ProcessLock(queue.layout, "worker-1")
    lock.acquire()
    assert claim_one(queue.worker_view("worker-1")) is not None
    lock.release()
    reclaim(queue.layout, queue.storage, "worker-1", lambda a: crash_delay_s(a, settings=RetrySettings(), jitter=0.0))
    write(queue, "worker-1.log", stamp(1, text="Claimed llm task: t1 (unnamed)"), stamp(2, text="Claimed llm task: t12 (x)"))
    write(queue, "brain.log", stamp(3, name="brain", text="Requeued t1: worker-1 died in attempt 1"), stamp(3, text="pt1"))
    lines = call(queue.layout.root, "--task", "t1")
    told = "\n".join(lines)
    assert "Submitted: llm, llama3.2:3b" in told
    assert "Claimed llm task: t1 (unnamed)" in told
    assert "Requeued t1" in told
    assert "Attempt 1 on worker-1 ended: crashed" in told
    assert "t12" not in told
    assert "pt1" not in told
    os.unlink(f"{queue.layout.logs}/worker-1.log")
    os.unlink(f"{queue.layout.logs}/brain.log")
    assert "ended: crashed" in "\n".join(call(queue.layout.root, "--task", "t1")), "the record outlives the logs"


@pytest.mark.parametrize(
    ("words", "complaint"), [(("--task", "nope"), "there is no task nope"), (("--task", "t1", "--grep", "x"), "together")]
)
def test_a_task_that_is_none_and_two_filters_at_once_are_refused(queue, words, complaint):
    assert complaint in call(queue.layout.root, *words, code=2)[0]


@pytest.mark.parametrize(
    ("line", "meant"), [("a t1 b", True), ("(t1)", True), ("t1-2", False), ("load-t1", False), ("xt1", False)]
)
def test_only_that_very_id_is_meant(line, meant):
    assert bool(task_history.pattern("t1").search(line)) == meant


def test_last_words_are_told_at_the_time_of_their_life_s_end(tmp_path):
    path = tmp_path / "worker-1.err"
    path.write_text(
        f"{stamp(1, text=START)}\nfirst words\nmore\n{stamp(60, text=START)}\n{stamp(90, text=START)}\n"
        'Traceback (most recent call last):\n  File "x"\nValueError: boom\n'
    )
    os.utime(path, (2_000_000_000, 2_000_000_000))
    first, last = log_files.stderr_entries("worker-1.err", str(path))
    assert first.lines == ("first words", "more")
    assert first.time_s - log_files.parse(stamp(1), "x", 0.0).time_s == 59.0, "told at the next start"
    assert first.level is None
    assert last.lines[-1] == "ValueError: boom"
    assert last.level == "ERROR"
    assert last.time_s == 2_000_000_000
    assert log_files.stderr_entries("x", str(tmp_path / "none.err")) == []


def test_a_worker_that_died_before_it_had_a_log_has_one_all_the_same(queue):
    write(queue, "worker-7.err", stamp(1, text=START), "ImportError: no module named x")
    assert call(queue.layout.root, "worker-7") == ["[worker-7.err] ImportError: no module named x"]
    document = json.loads("\n".join(call(queue.layout.root, "--json")))
    assert document["lines"][0]["source"] == "worker-7.err"
    assert "did you mean worker-7?" in "\n".join(call(queue.layout.root, "workr-7", code=2))
