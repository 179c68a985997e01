"""Being told: over HTTP that is down for a while, by a script, never, and never in the way of the work."""

import http.server
import json
import logging
import os
import signal
import socketserver
import threading
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from swarm.brain.main import make_notifier
from swarm.brain.notifier import Notifier, notifying
from swarm.config.settings import NotifySettings, Settings
from swarm.core.faults import DeliveryFailed
from swarm.core.notification import Note
from swarm.core.task import TaskError, TaskState, Trail
from swarm.errors import InputError
from swarm.notify.deliver import deliver
from swarm.notify.targets import check_target
from swarm.proc.ports import free_port
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.stores.notifications import write_note
from swarm.queue.stores.outbox import Outbox
from tests.helpers.cli import user
from tests.helpers.queues import claim_one, finish_one, llm
from tests.helpers.wait import runs, wait_until

LOG = logging.getLogger("test.notify")
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise imports it


class Listener:
    """An HTTP server that keeps what it is told, and answers with ``status``."""

    def __init__(self):
        self.told, self.keys, self.status = [], [], 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer.told.append(json.loads(body))
                    outer.keys.append(self.headers["Idempotency-Key"])
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


def box(queue):
    return Outbox(queue.layout, queue.storage)


def end(queue, state=TaskState.COMPLETED):
    worker = queue.worker_view("w")
    claim = claim_one(worker)
    error = None if state is TaskState.COMPLETED else TaskError("timeout", "late")
    status = {TaskState.COMPLETED: "completed", TaskState.FAILED: "failed"}[state]
    finish_one(worker, claim, state, Trail(status=status, completed_at="2026-02-07T21:05:50.123+01:00", error=error))


def test_a_task_is_told_of_once_it_has_ended_and_a_server_may_be_down(queue, listener):
    settings = Settings(notify=NotifySettings(targets={"ops": listener.url}))
    task_id = queue.enqueue(llm("a secret", notify=["ops"], name="first"))
    ticks = count(1e12, 1000.0)
    notifier = make_notifier(queue, settings, LOG, now_s=lambda: next(ticks))
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
        assert queue.retry_many([task_id]) == 1
    else:
        queue.retry(task_id)
    notifier.step()
    assert len(listener.told) == 1, "it has not ended again yet"
    end(queue)
    notifier.step()
    assert [message["status"] for message in listener.told] == ["failed", "completed"]


@pytest.mark.parametrize("problem", [None, DeliveryFailed("down"), DeliveryFailed("gone", permanent=True)])
def test_a_task_put_back_while_its_end_is_being_told_is_told_of_again(queue, problem):
    told = []

    def tell(target, message):
        told.append(message)
        if len(told) == 1:
            queue.retry(task_id)
            if problem is not None:
                raise problem

    task_id = queue.enqueue(llm("a", notify=["x"]))
    end(queue, TaskState.FAILED)
    notifier = Notifier(box(queue), tell, max_tries=9, log=LOG)
    for _ in range(2):
        notifier.step()
    end(queue)
    notifier.step()
    assert [message["status"] for message in told] == ["failed", "completed"]
    assert len({message["message_id"] for message in told}) == 2
    assert (box(queue).all_waiting(), box(queue).undeliverable()) == ([], [])


def test_what_was_put_back_after_its_note_was_read_is_not_told_of_as_it_was(queue):
    task_id = queue.enqueue(llm("a", notify=["x"]))
    end(queue, TaskState.FAILED)
    outbox = box(queue)
    (note,) = outbox.waiting()
    queue.retry(task_id)
    end(queue)
    assert outbox.message(note) is None
    (note,) = outbox.waiting()
    assert outbox.message(note)["status"] == "completed"


def test_a_record_that_is_damaged_keeps_nobody_else_from_being_told(queue, listener):
    ids = [queue.enqueue(llm(text, notify=[listener.url])) for text in ("a", "b")]
    for _ in ids:
        end(queue)
    with open(queue.find(ids[0]).path, "wb") as file:
        file.write(b'{"task_id": oh no')
    make_notifier(queue, Settings(), LOG).step()
    assert [message["task_id"] for message in listener.told] == ids[1:]
    assert [note.id for note in box(queue).waiting()] == ids[:1], "it is owed until fsck has set the record aside"


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
            raise DeliveryFailed("no")

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
    (message,) = listener.told
    assert message.pop("message_id").startswith("batch-b-1-")
    assert message == {"event": "batch_ended", "batch_id": "b-1", "completed": 1, "failed": 1, "cancelled": 0}


def test_a_batch_of_which_some_was_put_back_before_it_could_be_told_is_told_of_when_that_has_ended(queue):
    manifest = Manifest(batch_id="b-1", source="x", format="jsonl", created_at="now")
    write_note(queue.layout, queue.storage, Note(subject="batch", id="b-1", targets=("x",)))
    for _ in queue.batches().submit(manifest, [(f"k{n}", llm(str(n))) for n in range(2)]):
        pass
    told, ticks, down = [], count(1e12, 1e6), [True]

    def tell(target, message):
        if down:
            raise DeliveryFailed("no answer", down=True)
        told.append((message["completed"], message["failed"]))

    notifier = Notifier(box(queue), tell, max_tries=9, log=LOG, now_s=lambda: next(ticks))
    notifier.step()
    end(queue)
    end(queue, TaskState.FAILED)
    notifier.step()
    assert queue.retry_many(queue.batches().task_ids("b-1")) == 1
    down.clear()
    notifier.step()
    assert told == []
    end(queue)
    notifier.step()
    assert told == [(2, 0)]


def test_a_script_gets_the_message(tmp_path):
    out = tmp_path / "out"
    settings = Settings(scripts={"keep": ("/bin/sh", "-c", f"cat > {out}; echo $SWARM_BATCH_ID >> {out}")})
    deliver("script:keep", {"event": "batch_ended", "batch_id": "b-1"}, settings)
    assert out.read_text() == '{"event":"batch_ended","batch_id":"b-1"}b-1\n'
    with pytest.raises(DeliveryFailed, match="ended with 3"):
        deliver("script:no", {"event": "x"}, Settings(scripts={"no": ("/bin/sh", "-c", "exit 3")}))


def test_a_script_has_delivered_once_it_has_ended_whatever_it_leaves_running(tmp_path):
    """Else the message would count as undelivered, and come again and again."""
    script = f"sleep 600 & echo $! > {tmp_path}/pid"
    settings = Settings(scripts={"hand-on": ("/bin/sh", "-c", script)})
    deliver("script:hand-on", {"event": "batch_ended"}, settings)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_of_a_script_that_takes_too_long_nothing_runs_on(tmp_path):
    script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    settings = Settings(notify=NotifySettings(timeout_s=0.5), scripts={"hangs": ("/bin/sh", "-c", script)})
    with pytest.raises(DeliveryFailed, match="timed out"):
        deliver("script:hangs", {"event": "batch_ended"}, settings)
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not runs(child))


@pytest.mark.parametrize("target", ["ops", "script:nope", "ftp"])
def test_targets_that_mean_nothing_are_refused_at_once(target):
    with pytest.raises(InputError, match="notify"):
        check_target(target, Settings())


def test_a_name_that_no_variable_can_hold_is_told_without_what_it_cannot(queue, tmp_path):
    told = tmp_path / "told"
    scripts = {"tell": ("sh", "-c", f'echo "$SWARM_NAME" >> {told}')}
    for name in ("a\0b", "c"):
        queue.enqueue(llm("x", notify=["script:tell"], name=name))
        end(queue)
    make_notifier(queue, Settings(scripts=scripts), LOG).step()
    assert told.read_text() == "ab\nc\n"


def test_one_message_that_comes_to_grief_holds_up_no_other(queue):
    told = []

    def tell(target, message):
        if message["name"] == "odd":
            raise ZeroDivisionError("division by zero")
        told.append(message["name"])

    for name in ("odd", "even"):
        queue.enqueue(llm("x", notify=["somebody"], name=name))
        end(queue)
    Notifier(box(queue), tell, max_tries=3, log=LOG).step()
    assert told == ["even"]
    (note,) = box(queue).waiting()
    assert (note.tries, note.error) == (1, "ZeroDivisionError: division by zero")


def test_a_clock_that_is_set_back_delays_no_next_try(queue, listener):
    now_s = [2e9]
    notifier = make_notifier(queue, Settings(), LOG, now_s=lambda: now_s[0])
    queue.enqueue(llm("x", notify=[listener.url]))
    end(queue)
    listener.status = 500
    notifier.step()
    listener.status = 200
    notifier.step()
    assert listener.told == [], "its time has not come"
    now_s[0] = 1e9
    notifier.step()
    assert len(listener.told) == 1


def test_a_target_that_hangs_holds_up_nobody(queue, monkeypatch):
    monkeypatch.setattr("swarm.brain.notifier.LAST_S", 0.05)
    queue.enqueue(llm("a", notify=["slow"]))
    end(queue)
    asked, gate, answered = threading.Event(), threading.Event(), threading.Event()

    def tell(target, message):
        asked.set()
        gate.wait(60)
        answered.set()

    with notifying(Notifier(box(queue), tell, max_tries=3, log=LOG), LOG):
        assert asked.wait(60)
    assert not answered.is_set()
    gate.set()
    wait_until(lambda: box(queue).waiting() == [], what="it was told in the end")


def test_a_run_tells_before_its_own_swarm_goes(tmp_path, listener):
    with user(tmp_path) as someone:
        someone.prompts(3)
        someone.ok("run", "prompts.jsonl", "-o", "o", "--model", "llama3.2:3b", "--simulate", "1", "--notify", listener.url)
        assert [m["completed"] for m in listener.told] == [3]
        assert someone.json("notify", "list")["notes"] == []


def settings_of(**targets):
    return Settings(notify=NotifySettings(targets=targets, timeout_s=60.0))


def test_a_message_that_comes_twice_says_so_and_another_end_is_another_message(queue, listener):
    """Killed between telling and noting that it was told: the next life tells again, under the same id."""
    task_id = queue.enqueue(llm("a", notify=[listener.url]))
    end(queue, TaskState.FAILED)
    forgetful = box(queue)
    forgetful.done = lambda note: None
    for _ in range(2):
        Notifier(forgetful, lambda t, m: deliver(t, m, Settings()), max_tries=3, log=LOG).step()
    make_notifier(queue, Settings(), LOG).step()
    queue.retry(task_id)
    end(queue)
    make_notifier(queue, Settings(), LOG).step()
    ids = [message["message_id"] for message in listener.told]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert listener.keys == ids, "also as the header that web hooks look at"


def test_a_target_that_is_down_is_asked_once_for_all_and_all_is_told_when_it_is_back(queue):
    clock, asked, up = [1e12], [], []

    def tell(target, message):
        asked.append(target)
        if target == "down" and not up:
            raise DeliveryFailed("no answer", down=True)

    for n in range(5):
        queue.enqueue(llm(str(n), notify=["down", "good"]))
        end(queue)
    notifier = Notifier(box(queue), tell, max_tries=9, log=LOG, now_s=lambda: clock[0])
    notifier.step()
    assert (asked.count("down"), asked.count("good")) == (1, 5)
    assert [(note.tries, note.targets, note.error) for note in box(queue).all_waiting()] == [(1, ("down",), "no answer")] * 5
    for _ in range(3):
        clock[0] += 300.0
        notifier.step()
    assert (asked.count("down"), asked.count("good")) == (4, 5)
    up.append(True)
    clock[0] += 16.0  # the time of the target's next try, and of no message's but one that ended just now
    queue.enqueue(llm("late", notify=["down"]))
    end(queue)
    notifier.step()
    notifier.step()
    assert box(queue).all_waiting() == []
    assert asked.count("down") == 10


def test_a_try_that_somebody_asks_for_is_made_though_the_target_was_just_down(queue):
    asked = []

    def tell(target, message):
        asked.append(target)
        if len(asked) == 1:
            raise DeliveryFailed("no answer", down=True)

    queue.enqueue(llm("a", notify=["x"]))
    end(queue)
    notifier = Notifier(box(queue), tell, max_tries=1, log=LOG, now_s=lambda: 1e12)
    notifier.step()
    (note,) = box(queue).undeliverable()
    box(queue).again(note.name)
    notifier.step()
    assert (len(asked), box(queue).all_waiting()) == (2, [])


def test_what_was_purged_before_it_could_be_told_is_told_all_the_same(queue, listener):
    task_id = queue.enqueue(llm("a secret", notify=[listener.url], name="gone"))
    end(queue)
    ticks = count(1e12, 1000.0)
    notifier = make_notifier(queue, Settings(), LOG, now_s=lambda: next(ticks))
    listener.status = 500
    notifier.step()
    os.unlink(queue.layout.terminal(TaskState.COMPLETED, task_id))
    listener.status = 200
    notifier.step()
    assert [(m["task_id"], m["name"], m["status"]) for m in listener.told] == [(task_id, "gone", "completed")]
    assert box(queue).all_waiting() == []


def test_what_is_no_note_is_set_aside_and_the_others_are_told(queue, listener):
    queue.enqueue(llm("a", notify=[listener.url]))
    end(queue)
    Path(queue.layout.outbox, "task-0.json").write_bytes(b"")
    make_notifier(queue, Settings(), LOG).step()
    assert len(listener.told) == 1
    assert Path(queue.layout.corrupt, "task-0.json.reason").read_text().startswith("no note")


class Garbage(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(65536)
        self.request.sendall(b"hello\r\n\r\n")


class Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(302)
        self.send_header("Location", "/other")
        self.end_headers()

    def do_GET(self):
        raise AssertionError("followed, without the message")

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        server.shutdown()


@pytest.mark.parametrize(
    ("handler", "permanent", "why"), [(Garbage, False, "BadStatus"), (Elsewhere, True, "elsewhere: /other")]
)
def test_servers_that_do_not_behave(handler, permanent, why):
    with serving(handler) as url, pytest.raises(DeliveryFailed, match=why) as told:
        deliver(url, {"event": "task_ended", "message_id": "m"}, Settings())
    assert told.value.permanent == permanent


def test_what_cannot_be_reached_is_tried_again_and_its_address_is_kept_secret():
    with pytest.raises(DeliveryFailed, match="Connection refused") as told:
        deliver(f"http://127.0.0.1:{free_port()}/hook/sesame", {"event": "task_ended"}, Settings())
    assert (told.value.permanent, told.value.down) == (False, True)
    assert "sesame" not in str(told.value)


def test_whatever_goes_wrong_in_telling_the_thread_lives_on(queue, monkeypatch, caplog):
    monkeypatch.setattr("swarm.brain.notifier.LOOK_S", 0.01)
    queue.enqueue(llm("a", notify=["x"]))
    end(queue)
    tries = []

    def tell(target, message):
        tries.append(target)
        if len(tries) == 1:
            raise ZeroDivisionError("a mistake")

    with notifying(Notifier(box(queue), tell, max_tries=3, log=LOG), LOG):
        wait_until(lambda: box(queue).waiting() == [], what="told in the end")
    assert "a mistake" in caplog.text


@pytest.mark.parametrize("target", ["http://", "http://exa mple.org/", "https:///hook", "nosuchservice://x/", "json://"])
def test_addresses_that_are_none_are_refused_at_once(target):
    with pytest.raises(InputError, match="is no URL"):
        check_target(target, Settings())


def test_through_the_real_apprise(queue, listener):
    """Its generic service, json://, posts what it is told; one that nobody serves is tried again, with its reason."""
    port = listener.url.split(":")[2].split("/")[0]
    settings = settings_of(good=f"json://127.0.0.1:{port}/", bad=f"json://127.0.0.1:{free_port()}/")
    for name in ("good", "bad"):
        check_target(name, settings)
    task_id = queue.enqueue(llm("a secret", notify=["good", "bad"], name="first"))
    end(queue, TaskState.FAILED)
    ticks = count(1e12, 1000.0)
    notifier = make_notifier(queue, settings, LOG, now_s=lambda: next(ticks))
    notifier.step()
    (told,) = listener.told
    assert told["title"] == f"swarm: task ended: {task_id}"
    message = json.loads(told["message"])
    assert (message["task_id"], message["status"], message["error"]["type"]) == (task_id, "failed", "timeout")
    assert "secret" not in json.dumps(told)
    (note,) = box(queue).waiting()
    assert note.targets == ("bad",)
    assert "apprise could not deliver it: A Connection error" in note.error
    listener.status = 500
    queue.enqueue(llm("b", notify=["good"]))
    end(queue)
    notifier.step()
    assert any("error=500" in note.error for note in box(queue).waiting())


def test_an_apprise_service_that_raises_is_a_failure_like_any_other(monkeypatch):
    monkeypatch.setattr("apprise.Apprise.notify", lambda *_, **__: 1 / 0)
    with pytest.raises(DeliveryFailed, match="ZeroDivisionError") as told:
        deliver("json://127.0.0.1/", {"event": "task_ended"}, Settings())
    assert not told.value.permanent


def test_without_apprise_its_addresses_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("swarm.notify.targets._HAS_APPRISE", False)
    with pytest.raises(InputError, match=r"gpu-swarm\[notify\]"):
        check_target("tgram://token/chat", Settings())
    with pytest.raises(DeliveryFailed) as told:
        deliver("tgram://token/chat", {"event": "task_ended"}, Settings())
    assert told.value.permanent
