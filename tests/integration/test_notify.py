"""Being told: over HTTP that is down for a while, by a script, never, and never in the way of the work."""

import http.server
import json
import logging
import threading
from itertools import count

import pytest

from swarm.core.task import TaskError, TaskState, Trail
from swarm.errors import InputError
from swarm.notify import NotTold, check_target, deliver
from swarm.runtime.notifier import Failed, Notifier, notifying
from swarm.runtime.wiring.tell import make_notifier
from swarm.settings import NotifySettings, Settings
from swarm.taskqueue.batches import Manifest
from swarm.taskqueue.batchwork import retry_tasks
from swarm.taskqueue.notes import Note, write_note
from swarm.taskqueue.outbox import Outbox
from tests.helpers.cli import user
from tests.helpers.queues import LANE, llm, open_queue
from tests.helpers.wait import wait_until

LOG = logging.getLogger("test.notify")


class Listener:
    """An HTTP server that keeps what it is told, and answers with ``status``."""

    def __init__(self):
        self.told, self.status = [], 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer.told.append(json.loads(body))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def queue(tmp_path):
    return open_queue(tmp_path)


def box(queue):
    return Outbox(queue.layout, queue.storage)


def end(queue, state=TaskState.COMPLETED):
    worker = queue.worker_view("w")
    claim = worker.claim([LANE])
    error = None if state is TaskState.COMPLETED else TaskError("timeout", "late")
    status = {TaskState.COMPLETED: "completed", TaskState.FAILED: "failed"}[state]
    worker.finish(claim, state, Trail(status=status, completed_at="2026-02-07T21:05:50.123+01:00", error=error))


def test_a_task_is_told_of_once_it_has_ended_and_a_server_may_be_down(queue, listener):
    settings = Settings(notify=NotifySettings(targets={"ops": listener.url}))
    task_id = queue.enqueue(llm("a secret", notify=["ops"], name="first"))
    ticks = count(1e12, 1000.0)
    notifier = make_notifier(queue, settings, LOG)
    notifier._now_s = lambda: next(ticks)
    notifier.step()
    assert listener.told == []
    end(queue, TaskState.FAILED)
    listener.status = 503
    notifier.step()
    (note,) = box(queue).waiting()
    assert (note.tries, note.error) == (1, "it answered HTTP 503")
    listener.status = 200
    notifier.step()
    (message,) = listener.told
    assert message["task_id"] == task_id
    assert (message["event"], message["status"], message["name"]) == ("task_ended", "failed", "first")
    assert message["error"]["type"] == "timeout"
    assert "secret" not in json.dumps(message)
    assert box(queue).waiting() == []


@pytest.mark.parametrize("whole_batch", [False, True])
def test_a_task_put_back_by_hand_is_told_of_again(queue, listener, whole_batch):
    notifier = make_notifier(queue, Settings(), LOG)
    task_id = queue.enqueue(llm("a", notify=[listener.url]))
    end(queue, TaskState.FAILED)
    notifier.step()
    if whole_batch:
        assert retry_tasks(queue.layout, queue.storage, [task_id]) == 1
    else:
        queue.retry(task_id)
    notifier.step()
    assert len(listener.told) == 1, "it has not ended again yet"
    end(queue)
    notifier.step()
    assert [message["status"] for message in listener.told] == ["failed", "completed"]


def test_what_cannot_be_delivered_is_listed_and_can_be_tried_again(queue):
    queue.enqueue(llm("a", notify=["x:1", "script:none"]))
    end(queue)
    make_notifier(queue, Settings(), LOG).step()
    assert box(queue).waiting() == []
    (note,) = box(queue).undeliverable()
    assert "[notify] targets" in note.error
    assert "script" in note.error
    box(queue).again(note.name)
    assert box(queue).undeliverable() == []
    assert box(queue).waiting()[0].tries == 0


def test_tries_have_an_end_and_only_who_was_not_told_is_told_again(queue):
    queue.enqueue(llm("a", notify=["good", "bad"]))
    end(queue)
    told, ticks = [], count(1e12, 1e6)

    def tell(target, message):
        told.append(target)
        if target == "bad":
            raise Failed("no", hopeless=False)

    notifier = Notifier(box(queue), tell, max_tries=3, log=LOG, now_s=lambda: next(ticks))
    for _ in range(6):
        notifier.step()
    assert told == ["good", "bad", "bad", "bad"]
    assert [n.targets for n in box(queue).undeliverable()] == [("bad",)]


def test_a_batch_is_told_of_when_all_of_it_has_ended(queue, listener):
    manifest = Manifest(batch_id="b-1", source="x", format="jsonl", created_at="now")
    write_note(queue.layout, queue.storage, Note(subject="batch", id="b-1", targets=(listener.url,)))
    notifier = make_notifier(queue, Settings(), LOG)
    notifier.step()
    for _ in queue.batches().submit(manifest, [(f"k{n}", llm(str(n))) for n in range(2)]):
        pass
    end(queue)
    notifier.step()
    assert listener.told == []
    end(queue, TaskState.FAILED)
    notifier.step()
    assert listener.told == [{"event": "batch_ended", "batch_id": "b-1", "completed": 1, "failed": 1, "cancelled": 0}]


def test_a_script_gets_the_message(tmp_path):
    out = tmp_path / "out"
    settings = Settings(scripts={"keep": ("/bin/sh", "-c", f"cat > {out}; echo $SWARM_BATCH_ID >> {out}")})
    deliver("script:keep", {"event": "batch_ended", "batch_id": "b-1"}, settings)
    assert out.read_text() == '{"event":"batch_ended","batch_id":"b-1"}b-1\n'
    with pytest.raises(NotTold, match="ended with 3"):
        deliver("script:no", {"event": "x"}, Settings(scripts={"no": ("/bin/sh", "-c", "exit 3")}))


@pytest.mark.parametrize("target", ["ops", "script:nope", "ftp"])
def test_targets_that_mean_nothing_are_refused_at_once(target):
    with pytest.raises(InputError, match="notify"):
        check_target(target, Settings())


def test_a_target_that_hangs_holds_up_nobody(queue, monkeypatch):
    monkeypatch.setattr("swarm.runtime.notifier.LAST_S", 0.05)
    queue.enqueue(llm("a", notify=["slow"]))
    end(queue)
    asked, gate = threading.Event(), threading.Event()

    def tell(target, message):
        asked.set()
        gate.wait(10)

    with notifying(Notifier(box(queue), tell, max_tries=3, log=LOG), LOG):
        assert asked.wait(5)
    gate.set()
    wait_until(lambda: box(queue).waiting() == [], what="it was told in the end")


def test_a_run_tells_before_its_own_swarm_goes(tmp_path, listener):
    with user(tmp_path) as someone:
        someone.prompts(3)
        someone.ok("run", "prompts.jsonl", "-o", "o", "--model", "llama3.2:3b", "--simulate", "1", "--notify", listener.url)
        assert [m["completed"] for m in listener.told] == [3]
        assert someone.json("notify", "list")["notes"] == []
