"""What others may put into the queue or do to its processes: hostile files, a second brain, a worker that was asleep."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from swarm.core.task import TaskState
from swarm.errors import TaskInvalid
from swarm.proc import identity as identities
from swarm.proc.env_markers import PROCESS_MARKER, ROOT_MARKER, find_marked_values, kill_marked
from swarm.proc.ports import free_port
from swarm.queue.batches.batch_watch import BatchWatch
from swarm.queue.coordination import ProcessLock
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from tests.helpers.crashworld import spare_rule
from tests.helpers.queues import claim_one, llm, open_queue
from tests.helpers.stormplan import CONFIG
from tests.helpers.wait import wait_until

HOSTILE = {
    "empty": b"",
    "truncated": json.dumps(llm()).encode()[:-20],
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep-inside": b'{"task_class":"llm","model":"m:1","request":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "nan": b'{"task_class":"llm","model":"m:1","request":{"prompt":NaN}}',
    "huge-number": b'{"task_class":"llm","model":"m:1","request":{"prompt":1e999}}',
    "list": b"[]",
    "bytes": bytes(range(256)),
    "surrogate": b'{"task_class":"llm","model":"m:1","request":{"prompt":"\\ud800"}}',
    "path": json.dumps(llm(task_id="../../etc/passwd")).encode(),
    "outcome": json.dumps(llm(status="completed", result={})).encode(),
    "priority": json.dumps(llm(priority=10**400)).encode(),
    "worker-path": json.dumps(
        {"task_class": "resource", "action": "load_llm", "target_worker": "../x", "model": "m", "priority": 9}
    ).encode(),
}


def drop(queue, name, data):
    path = f"{queue.layout.pending}/{name}"
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, (time.time() - 60,) * 2)


def test_hostile_drop_ins_go_aside_and_the_others_go_on(tmp_path):
    queue = open_queue(tmp_path)
    for name, data in HOSTILE.items():
        drop(queue, f"{name}.json", data)
    with open(f"{queue.layout.pending}/gigabyte.json", "wb") as file:
        file.truncate(1 << 30)
    os.mkdir(f"{queue.layout.pending}/folder.json")
    os.mkfifo(f"{queue.layout.pending}/fifo.json")
    os.symlink("/etc/passwd", f"{queue.layout.pending}/link.json")
    os.symlink("/", f"{queue.layout.pending}/root.json")
    drop(queue, "good.json", json.dumps(llm()).encode())
    brain = queue.brain_view(spare_rule)
    for entry in brain.look().drop_ins:
        brain.file_drop_in(entry.file_name)
    assert brain.look().drop_ins == ()
    claim = claim_one(queue.worker_view("w"))
    assert claim.task.task_id == "good"
    names = {n for n in os.listdir(queue.layout.corrupt) if not n.endswith(".reason")}
    assert names == {f"{n}.json" for n in (*HOSTILE, "gigabyte", "folder", "fifo", "link", "root")}
    assert os.path.exists("/etc/passwd")
    assert {f.kind for f in fsck.look(queue.layout, agree_s=0)} <= {"abandoned"}


@pytest.mark.parametrize("document", [llm(task_id="../x"), llm(task_id=""), llm(task_id="a/b"), llm(task_id="a" * 65)])
def test_an_id_is_never_a_path(tmp_path, document):
    with pytest.raises(TaskInvalid, match="task_id"):
        open_queue(tmp_path).enqueue(document)


def test_a_second_brain_is_refused_and_names_the_first(tmp_path):
    queue = open_queue(tmp_path)
    lock = ProcessLock(queue.layout, "brain")
    lock.acquire()
    argv = [sys.executable, "-m", "swarm", "brain", "--root", queue.layout.root]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    lock.release()
    assert done.returncode == 2
    assert "brain is running already" in done.stderr


def at_work(queue, ids):
    """Workers that hold one of these."""
    return {located.worker for located in queue.list(TaskState.PROCESSING) if located.task_id in ids}


def stopped_at_work(queue, ids):
    """A worker that was stopped while it holds one of these; None: there is none just now."""
    found = find_marked_values(PROCESS_MARKER, **{ROOT_MARKER: queue.layout.root})
    busy = at_work(queue, ids)
    sleeper = next((who for who, name in found.items() if name in busy), None)
    if sleeper is None or not identities.signal(sleeper, signal.SIGSTOP):
        return None
    if found[sleeper] in at_work(queue, ids):
        return sleeper
    identities.signal(sleeper, signal.SIGCONT)
    return None


@pytest.mark.slow
def test_a_worker_that_was_stopped_is_killed_and_its_tasks_run_elsewhere(tmp_path):
    root = f"{tmp_path}/queue"
    config = tmp_path / "config.toml"
    text = CONFIG.format(port=free_port(), request_s=0.3, slots=1, engine="ollama")
    config.write_text(text.replace("heartbeat_stale_s = 4.0", "heartbeat_stale_s = 1.5"))
    queue = FileQueue(root).prepare()
    ids = [queue.enqueue(llm(str(n))) for n in range(40)]
    argv = [sys.executable, "-m", "swarm", "up", "--simulate", "2", "--root", root, "--config", str(config)]
    with open(tmp_path / "out", "wb") as out:
        swarm = subprocess.Popen(argv, stdout=out, stderr=out, start_new_session=True)
    try:
        sleeper = wait_until(lambda: stopped_at_work(queue, ids), timeout_s=60, what="work under way")
        wait_until(lambda: not identities.is_same(sleeper), timeout_s=60, what="the sleeper is killed")
        watch = BatchWatch(queue.layout, ids)
        wait_until(lambda: watch.look().left == 0, timeout_s=60, what="all done")
        documents = [queue.read(i) for i in ids]
        assert [d["state"] for d in documents] == ["completed"] * 40
        crashed = [d for d in documents if any(a["outcome"] == "crashed" for a in d["attempts"])]
        assert crashed, "what the sleeper held was taken back as a crash"
        assert all(sum(a["outcome"] == "completed" for a in d["attempts"]) == 1 for d in documents)
    finally:
        swarm.terminate()
        swarm.wait(60)
        assert kill_marked(0.0, **{ROOT_MARKER: root}) == []
