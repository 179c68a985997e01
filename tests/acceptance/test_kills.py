"""SIGKILL for whatever works, again and again: what was at work is back at once, and nothing is left behind."""

import json
import os
import signal

from swarm.core.task import TaskState
from swarm.taskqueue import registry
from tests.helpers.cli import user
from tests.helpers.wait import wait_until


def kill(someone, name):
    """SIGKILL for who lives under this name; returns its number."""
    row = registry.read_row(someone.queue.layout, name)
    os.kill(row.process.pid, signal.SIGKILL)
    return row.process.pid


def at_work(layout, name):
    row = registry.read_row(layout, name)
    return row is not None and registry.has_worked(layout, name, row.process)


def test_a_brain_killed_again_and_again_files_what_is_dropped_in_each_time(tmp_path):
    """With the waits of a failing start the fifth would be filed after two and a half minutes."""
    with user(tmp_path) as someone:
        someone.ok("up", "--simulate", "1", "--detach")
        layout = someone.queue.layout
        for number in range(5):
            wait_until(lambda: at_work(layout, "brain"), what="a turn of the brain")
            pid = kill(someone, "brain")
            body = {"task_id": f"d{number}", "task_class": "llm", "model": "llama3.2:3b", "request": {"prompt": "x"}}
            (someone.root / "pending" / f"d{number}.json").write_text(json.dumps(body))
            wait_until(lambda pid=pid: registry.read_row(layout, "brain").process.pid != pid, what="the next brain")
            filed = f"{layout.pending}/d{number}.json"
            wait_until(lambda path=filed: not os.path.exists(path), what="the drop-in is filed", timeout_s=20)
        wait_until(lambda: len(list(someone.queue.list(TaskState.COMPLETED))) >= 5, what="all of them are done")
