"""Feeds: between the marks, each line exactly once whatever is killed, bad lines named, sources that changed refused."""

import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from swarm.cli.command_options import FeedRequest
from swarm.cli.run.feed import Feeder, Offer, feed
from swarm.config.load import Loaded
from swarm.config.settings import QueueSettings, Settings
from swarm.core.task import TaskState, Trail
from swarm.core.workflow.feed import FeedLine, FeedState, refill
from swarm.errors import InputError, LockHeld
from swarm.formats.input.feed_sources import CommandLines, CsvRows, FileLines
from swarm.queue.stores.feeds import FeedBook, FeedPool, note_batch
from tests.helpers.queues import LANE, claim_one, finish_one, llm
from tests.helpers.wait import wait_until

MODEL = LANE.removeprefix("llm@")


def loaded(queue):
    return Loaded(settings=Settings(queue=QueueSettings(root=queue.layout.root, durability="fast")))


def request(source=None, *, low=20, target=40, **more):
    return FeedRequest(source=None if source is None else str(source), model=MODEL, low=low, target=target, **more)


def work(queue, limit=1 << 30):
    worker, done = queue.worker_view("w"), 0
    while done < limit and (claim := claim_one(worker)):
        text = claim.task.request["messages"][0]["content"]
        finish_one(worker, claim, TaskState.COMPLETED, Trail(result={"message": {"content": text}}))
        done += 1
    return done


def in_child(queue, asked, tell=lambda state: None):
    """A feeder in a process of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = feed(loaded(queue), asked, tell).exit_code
        finally:
            os._exit(code)
    return pid


def answers(queue):
    (feed_id,) = FeedBook(queue.layout, queue.storage).names()
    return [done["result"]["message"]["content"] for _, done in queue.batches().documents(feed_id) if done]


def numbered(path, number):
    path.write_text("".join(json.dumps({"prompt": f"line {i}"}) + "\n" for i in range(number)))
    return path


def test_ten_kills_skip_and_double_nothing(queue, tmp_path):
    """Waiting work never passes the upper mark, and 2,000 lines come out once each, in the input's order."""
    asked = request(numbered(tmp_path / "in.jsonl", 2000), low=60, target=100)
    dice = random.Random(7)
    done = 0
    for _ in range(10):
        pid = in_child(queue, asked)
        until = min(done + dice.randint(20, 250), 1900)
        while done < until:
            assert sum(queue.stats().pending.values()) <= 100
            done += work(queue, dice.randint(1, 60))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    pid = in_child(queue, asked)
    wait_until(lambda: work(queue) == 0 and os.waitpid(pid, os.WNOHANG) == (pid, 0), timeout_s=60, what="all fed")
    work(queue)
    found = answers(queue)
    assert found == [f"line {i}" for i in range(2000)]
    everywhere = Counter(located.task_id for state in TaskState for located in queue.list(state))
    assert set(everywhere.values()) == {1}
    assert len(everywhere) == 2000


def test_a_kill_after_the_tasks_and_before_the_cursor(queue, tmp_path, monkeypatch):
    """The worst moment, made certain: all of a refill is offered again and found to be there."""
    asked = request(numbered(tmp_path / "in.jsonl", 10))
    with monkeypatch.context() as patched:
        patched.setattr(FeedBook, "write", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        os.waitpid(in_child(queue, asked), 0)
    assert sum(queue.stats().pending.values()) == 10
    assert work(queue, 4) == 4
    outcome = feed(loaded(queue), asked, lambda _: None)
    assert (outcome.document["accepted"], outcome.document["again"]) == (10, 10)
    work(queue)
    assert answers(queue) == [f"line {i}" for i in range(10)]


def test_a_source_of_which_nothing_can_be_used_is_refused_and_stays_where_it_was(queue, tmp_path):
    """A forgotten option must not read ten million lines to the end, nor count them as done."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"text":"x"}\n' * 3000)
    outcome = feed(loaded(queue), request(source), lambda _: None)
    assert outcome.exit_code == 1
    assert outcome.document["status"] == "failed"
    assert outcome.document["reason"].startswith("none of the first 1,000 lines makes a task; line 1: ")
    assert (outcome.document["rejected"], outcome.document["number"]) == (0, 0), "the cursor has not moved"


def test_bad_lines_are_counted_and_named_and_the_rest_goes_on(queue, tmp_path):
    source = tmp_path / "in.jsonl"
    bad = '\n\noops\n{"question":"x"}\n{"prompt":"b","depends_on":["a"]}\n{"prompt":"b","notify":["nobody"]}\n'
    source.write_text('{"prompt":"a"}' + bad + '{"prompt":"c"}\n')
    outcome = feed(loaded(queue), request(source), lambda _: None)
    assert outcome.exit_code == 1
    assert outcome.document["accepted"] == 2
    lines = [r.split(":")[0] for r in outcome.document["rejections"]]
    assert lines == ["line 3", "line 4", "line 5", "line 6"]
    assert "notify 'nobody'" in outcome.document["rejections"][3]
    work(queue)
    assert answers(queue) == ["a", "c"]


def test_a_finished_file_may_grow_and_is_gone_on_with(queue, tmp_path):
    source = numbered(tmp_path / "in.jsonl", 3)
    feed(loaded(queue), request(source), lambda _: None)
    with source.open("a") as more:
        more.write('{"prompt":"more"}\n')
    assert feed(loaded(queue), request(source), lambda _: None).document["accepted"] == 4
    source.write_text('{"prompt":"other"}\n' * 9)
    with pytest.raises(InputError, match="line 4 is no longer"):
        feed(loaded(queue), request(source), lambda _: None)


@pytest.mark.parametrize("name", ["in.txt", "in.csv"])
def test_a_last_line_that_had_no_end_may_get_one_and_nothing_else(queue, tmp_path, name):
    source = tmp_path / name
    source.write_text("prompt\none")
    before = feed(loaded(queue), request(source), lambda _: None).document["accepted"]
    source.write_text("prompt\none\r\ntwo")
    assert feed(loaded(queue), request(source), lambda _: None).document["accepted"] == before + 1
    source.write_text("prompt\none\r\ntwo days")
    with pytest.raises(InputError, match="is no longer what it was"):
        feed(loaded(queue), request(source), lambda _: None)


def test_a_command_that_failed_is_run_again_from_where_it_was(queue, tmp_path):
    gate = tmp_path / "gate"
    command = f"sh -c 'seq 1 4; test -e {gate} && seq 5 9'"
    first = feed(loaded(queue), request(command=command), lambda _: None)
    assert (first.document["status"], first.document["accepted"], first.exit_code) == ("failed", 4, 1)
    gate.touch()
    second = feed(loaded(queue), request(command=command), lambda _: None)
    assert (second.document["status"], second.document["accepted"], second.document["again"]) == ("finished", 9, 0)
    work(queue)
    assert answers(queue) == [str(i) for i in range(1, 10)]


def test_pause_resume_and_stop(queue, tmp_path):
    asked = request(numbered(tmp_path / "in.jsonl", 500), low=2, target=5)
    book = FeedBook(queue.layout, queue.storage)
    pid = in_child(queue, asked)
    (feed_id,) = wait_until(book.names, what="the feed's state")
    with pytest.raises(LockHeld):
        feed(loaded(queue), asked, lambda _: None)
    assert book.lives(feed_id)
    book.set_wish(feed_id, "pause")
    wait_until(lambda: book.state(feed_id).status == "paused", what="paused")
    work(queue)
    before = book.state(feed_id).accepted
    book.set_wish(feed_id, "run")
    wait_until(lambda: book.state(feed_id).accepted > before, what="fed again")
    book.set_wish(feed_id, "stop")
    assert os.waitpid(pid, 0)[1] == 0
    assert book.state(feed_id).status == "stopped"
    assert not book.lives(feed_id)


def feeder_of(queue, lines, make):
    state = FeedState(feed_id="feed-x", source="s", format="text", min=2, target=4, created_at="")
    book = FeedBook(queue.layout, queue.storage)
    note_batch(queue.batches(), state, version="")
    book.set_wish("feed-x", "run")
    return Feeder(ListLines(lines), make, FeedPool(queue.layout, queue.storage), book.open("feed-x"), state)


def test_a_feed_whose_batch_is_paused_feeds_nothing(queue):
    """Workers put what they find of it into ``blocked``: its lane would be refilled for as long as there are lines."""
    feeder = feeder_of(queue, ["x"] * 100, lambda _: Offer(llm(), LANE, waits=False))
    for _ in range(3):
        feeder.step()
    queue.pause("batch", "feed-x")
    worker = queue.worker_view("w")
    for _ in range(10):
        while claim := claim_one(worker):
            worker.hold(claim)
        feeder.step()
    assert (queue.stats().blocked, feeder.state.accepted, feeder.state.status) == (4, 4, "paused")
    assert "swarm queue resume --batch feed-x" in feeder.state.reason
    queue.resume("batch", "feed-x")
    for _ in range(3):
        feeder.step()
    assert (feeder.state.accepted, feeder.state.status) == (8, "running")


def test_what_others_have_blocked_holds_up_no_feed(queue):
    for _ in range(9):
        queue.enqueue(llm(not_before="2999-01-01T00:00:00Z"))
    feeder = feeder_of(queue, ["x"] * 100, lambda _: Offer(llm(session="chat"), LANE, waits=True))
    for _ in range(5):
        feeder.step()
    assert feeder.state.accepted == 4, "its own that are blocked count"
    for located in list(queue.list(TaskState.BLOCKED)):
        if located.task_id.startswith("feed-x-"):
            queue.cancel(located.task_id, "no longer wanted")
    for _ in range(5):
        feeder.step()
    assert feeder.state.accepted == 8


class MemoryPool:
    def __init__(self):
        self.waiting = Counter()
        self.there = set()
        self.doubts = []

    def pending(self, lane, *, blocked):
        return self.waiting[lane]

    def offer(self, documents, lane, *, doubtful):
        self.doubts.append(doubtful)
        again = sum(document["task_id"] in self.there for document in documents) if doubtful else 0
        for document in documents:
            self.there.add(document["task_id"])
            self.waiting[document["lane"]] += 1
        return again


class MemoryBook:
    def __init__(self):
        self.saved = []

    def wish(self):
        return "run", ""

    def save(self, state, fresh):
        self.saved.append(state)


class ListLines:
    fault = None

    def __init__(self, lanes):
        self.rest = [FeedLine(i, lane.encode(), i * 10, 10, "") for i, lane in enumerate(lanes, start=1)]

    @property
    def ended(self):
        return not self.rest

    def read(self):
        return self.rest.pop(0) if self.rest else None


def test_each_lane_keeps_its_own_marks():
    pool, book = MemoryPool(), MemoryBook()

    def make(line):
        lane = line.raw.decode()
        return Offer({"lane": lane}, lane, waits=False) if lane != "bad" else "no good"

    state = FeedState(feed_id="f", source="s", format="text", min=2, target=3, created_at="")
    feeder = Feeder(ListLines([*["a"] * 4, "b", *["bad"] * 3, *["b"] * 4]), make, pool, book, state)
    for _ in range(10):
        feeder.step()
    assert pool.waiting == {"a": 3}, "the line that finds its lane full holds back those behind it"
    pool.waiting.clear()
    for _ in range(10):
        feeder.step()
    assert pool.waiting == {"a": 1, "b": 3}
    pool.waiting["b"] = 1
    for _ in range(10):
        feeder.step()
    assert feeder.finished
    assert (feeder.state.accepted, feeder.state.rejected, feeder.state.number) == (9, 3, 12)
    assert book.saved[-1] == feeder.state


@pytest.mark.parametrize(("pending", "wanted"), [(0, 10), (4, 6), (5, 0), (9, 0), (30, 0)])
def test_refill_only_below_the_lower_mark(pending, wanted):
    assert refill(pending, 5, 10) == wanted


def test_followed_files_wait_for_whole_lines(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntw")
    fresh = FeedState(feed_id="f", source=str(path), format="text", min=1, target=1, created_at="")
    lines = FileLines(str(path), fresh, follow=True)
    assert lines.read().raw == b"one"
    assert lines.read() is None
    assert not lines.ended
    with path.open("ab") as more:
        more.write(b"o\n")
    assert lines.read().raw == b"two"
    lines.close()
    whole = FileLines(str(path), fresh, follow=False)
    assert [whole.read().number for _ in range(2)] == [1, 2]
    assert whole.read() is None
    assert whole.ended
    whole.close()


def test_a_command_that_is_not_there_is_said(tmp_path):
    fresh = FeedState(feed_id="f", source="x", format="text", min=1, target=1, created_at="")
    with pytest.raises(InputError, match="no-such-program"):
        CommandLines([str(Path(tmp_path) / "no-such-program")], fresh)


def test_only_a_feeder_that_starts_asks_whether_tasks_are_there():
    """And it goes on asking until as many lines as one step can take were new."""
    pool, book = MemoryPool(), MemoryBook()
    state = FeedState(feed_id="f", source="s", format="text", min=10**6, target=10**6, created_at="")
    pool.there = {f"f-{number:010d}" for number in range(1, 1501)}
    feeder = Feeder(ListLines(["a"] * 5000), lambda _: Offer({"lane": "a"}, "a", waits=False), pool, book, state)
    while not feeder.finished:
        feeder.step()
    assert (feeder.state.accepted, feeder.state.again) == (5000, 1500)
    # the first step only looks which lane it is; then 1000 old ones, 500 old and 500 new, 1000 new: sure from there on
    assert pool.doubts == [True, True, True, False, False]


CSV = 'text,lang\r\nfirst,de\r\n\r\n"two\nlines, ""quoted""",en\r\nthree;fields,no,x\r\nlast,fr\r\n'


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_csv_rows_may_span_lines_and_are_gone_on_with_in_the_middle(queue, tmp_path, killed_after):
    source = tmp_path / "in.csv"
    source.write_text(CSV, newline="")
    asked = request(source, template="{lang}: {text}", low=1, target=1)
    state = None
    if killed_after:
        pid = in_child(queue, asked, lambda now: now.accepted == killed_after and os.kill(os.getpid(), signal.SIGKILL))
        assert wait_until(lambda: work(queue) * 0 + os.waitpid(pid, os.WNOHANG)[0], what="the kill") == pid
        (feed_id,) = FeedBook(queue.layout, queue.storage).names()
        state = FeedBook(queue.layout, queue.storage).state(feed_id)
        assert state.accepted == killed_after
    outcome = feed(loaded(queue), request(source, template="{lang}: {text}", low=10, target=20), lambda _: None)
    work(queue)
    assert answers(queue) == ["de: first", 'en: two\nlines, "quoted"', "fr: last"]
    assert outcome.document["rejections"] == ("line 6: has 3 fields where the header has 2 (text, lang)",)
    assert (outcome.document["number"], outcome.document["offset"]) == (7, len(CSV))


def test_csv_that_breaks_fails_there_and_a_changed_header_is_refused(queue, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text('prompt,n\na,1\nb,2\n"c,3\nd,4\n')
    first = feed(loaded(queue), request(source), lambda _: None).document
    assert (first["status"], first["accepted"], first["number"]) == ("failed", 2, 3)
    assert "line 4: not CSV" in first["reason"]
    source.write_text('prompt,n\na,1\nb,2\n"c",3\nd,4\n')
    assert feed(loaded(queue), request(source), lambda _: None).document["accepted"] == 4
    source.write_text('n,prompt\na,1\nb,2\n"c",3\nd,4\ne,5\n')
    with pytest.raises(InputError, match="line 1 is no longer"):
        feed(loaded(queue), request(source), lambda _: None)
    with pytest.raises(InputError, match="cannot be CSV"):
        feed(loaded(queue), request(command="cat x", format="csv"), lambda _: None)


def test_followed_csv_waits_for_whole_rows(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('prompt\n"one\n')
    fresh = FeedState(feed_id="f", source=str(path), format="csv", min=1, target=1, created_at="")
    rows = CsvRows(str(path), fresh, follow=True)
    assert rows.read() is None
    assert not rows.ended
    with path.open("a") as more:
        more.write('two"\nthree')
    assert rows.record(rows.read().raw) == {"prompt": "one\ntwo"}
    assert rows.read() is None
    with path.open("a") as more:
        more.write("\n")
    assert rows.record(rows.read().raw) == {"prompt": "three"}
    rows.close()


def test_a_quote_that_is_never_closed_does_not_read_the_rest_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("swarm.formats.input.feed_sources.MAX_LINE_BYTES", 10_000)
    path = tmp_path / "in.csv"
    path.write_text('prompt\n"one\n' + "two\n" * 10_000)
    fresh = FeedState(feed_id="f", source=str(path), format="csv", min=1, target=1, created_at="")
    rows = CsvRows(str(path), fresh, follow=False)
    assert rows.read() is None
    assert rows.ended
    assert "quote is missing" in rows.fault
    rows.close()


def test_how_often_and_whether_from_the_cache_is_said_on_the_command_line(queue, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt":"a"}\n{"prompt":"b","priority":9}\n')
    feed(loaded(queue), request(source, cache=True, priority=2), lambda _: None)
    tasks = [queue.read(located.task_id) for located in queue.list(TaskState.PENDING)]
    assert sorted((task["priority"], task["cache"]) for task in tasks) == [(2, True), (9, True)]


def test_fed_tasks_wait_by_the_time_at_which_they_were_fed(queue, tmp_path):
    """Their ids do not sort by time, and must not put them behind all that others submit later."""
    feed(loaded(queue), request(numbered(tmp_path / "in.jsonl", 2)), lambda _: None)
    later = [llm("later", task_id=queue.new_id())]
    assert list(queue.enqueue_many(later)) == [1]
    queue.enqueue(llm("last"))
    worker = queue.worker_view("w")
    claimed = [claim_one(worker).task.request["messages"][0]["content"] for _ in range(4)]
    assert claimed == ["line 0", "line 1", "later", "last"]


def test_what_was_fed_is_found_wherever_it_has_got_to(queue):
    pool = FeedPool(queue.layout, queue.storage)
    documents = [llm(str(n), task_id=f"feed-x-{n:010d}", session="s" if n == 5 else None) for n in range(6)]
    assert pool.offer(documents, LANE, doubtful=False) == 0
    worker = queue.worker_view("w")
    held = [claim_one(worker) for _ in range(4)]  # the fifth waits, the sixth is blocked by its session
    finish_one(worker, held[0], TaskState.COMPLETED, Trail(result={}))
    finish_one(worker, held[1], TaskState.FAILED, Trail())
    worker.retry(held[2], (), delay_s=60.0, counts=True)
    more = [*documents, llm("new", task_id="feed-x-0000000006")]
    assert pool.offer(more, LANE, doubtful=True) == 6
    assert Counter(located.task_id for state in TaskState for located in queue.list(state)) == {
        d["task_id"]: 1 for d in more
    }
