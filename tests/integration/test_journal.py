"""A worker's journal, and what comes back from it: also on a disk that keeps one half of a rename, or neither."""

import json
import os
import shutil
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from swarm.cli.app import app
from swarm.core.claim import Finish
from swarm.core.task import TaskState, Trail
from swarm.taskqueue import fsck, journal, redo
from swarm.taskqueue.batches import Manifest
from swarm.taskqueue.filequeue import FileQueue
from swarm.taskqueue.presence import Presence
from tests.helpers.crashjournal import journalled
from tests.helpers.crashworld import DONE, LANE, LONG, WORKER, alive, impatient, spare_rule, world
from tests.helpers.queues import llm, whereabouts
from tests.helpers.wait import wait_until


def segments(layout):
    return sorted(name for name in os.listdir(layout.journal) if name.endswith(journal.SUFFIX))


def told(layout):
    """Every line that counts now, in order."""
    lines = []
    for name in segments(layout):
        with open(f"{layout.journal}/{name}", "rb") as file:
            lines.extend(redo.decode(file.read()))
    return [line for _, line in sorted(lines)]


def turns(worker, most):
    """Finish one and claim the next, at most so many; the last claim stays."""
    held = worker.exchange((), lambda taken: () if taken else [LANE]).claims
    for _ in range(most):
        finishes = [Finish(claim, TaskState.COMPLETED, DONE) for claim in held]
        held = worker.exchange(finishes, lambda taken: () if taken else [LANE]).claims
    return held


# -- lines --------------------------------------------------------------------------------------------------------------

LINES = st.lists(
    st.builds(redo.Redo, was=st.text(max_size=30), now=st.text(max_size=30), data=st.binary(max_size=6000)),
    min_size=1,
    max_size=4,
)


@given(st.lists(LINES, min_size=1, max_size=4), st.data())
def test_of_a_torn_segment_the_whole_lines_count(batches, data):
    segment, number, ends = redo.header(7), 0, []
    for batch in batches:
        segment += redo.encode(batch, 7, number)
        number += len(batch)
        ends.append(len(segment))
    assert all(end % redo.BLOCK_BYTES == 0 for end in ends)
    wanted = [line for batch in batches for line in batch]
    assert [line for _, line in redo.decode(segment)] == wanted
    cut = data.draw(st.integers(len(redo.header(7)), len(segment)))
    stale = redo.encode([redo.Redo("a", "b", b"old")], 6, 0) * 20
    found = [line for _, line in redo.decode(segment[:cut] + stale[: len(segment) - cut].ljust(len(segment) - cut))]
    whole = [sum(map(len, batches[: n + 1])) for n, end in enumerate(ends) if end <= cut]
    assert found == wanted[: len(found)]
    assert len(found) >= (whole[-1] if whole else 0)


@given(LINES, st.data())
def test_a_line_that_was_changed_does_not_count(lines, data):
    written = bytearray(redo.encode(lines, 1, 0))
    at = data.draw(st.integers(0, len(written.rstrip()) - 1))
    written[at] ^= data.draw(st.integers(1, 255))
    found = [line for _, line in redo.decode(redo.header(1) + written)]
    assert found == lines[: len(found)], "a damaged line was taken for another"


@given(st.integers(0, redo.BLOCK_BYTES - 1), st.integers(1, 255))
def test_a_damaged_header_adds_no_line(at, change):
    lines = [redo.Redo("a", "b", b"{}")]
    segment = bytearray(redo.header(1) + redo.encode(lines, 1, 0))
    segment[at] ^= change
    assert [line for _, line in redo.decode(bytes(segment))] in ([], lines)


def test_each_byte_of_a_line_is_checked():
    lines = [redo.Redo("pending/a", "completed/b", b'{"prompt":"hi"}')]
    written = redo.encode(lines, 1, 0)
    for at in range(len(written.rstrip()) - len("}")):
        damaged = bytearray(written)
        damaged[at] ^= 1
        assert list(redo.decode(redo.header(1) + damaged)) == [], f"byte {at}"


def test_a_header_of_a_later_generation_voids_all_lines():
    lines = redo.encode([redo.Redo("a", "b", b"{}")], 1, 0)
    assert len(list(redo.decode(redo.header(1) + lines))) == 1
    assert list(redo.decode(redo.header(2) + lines)) == []
    assert list(redo.decode(b"not ours")) == []


def test_a_segment_can_be_read_with_jq():
    """Every part is JSON, with nothing but blanks between."""
    with world() as one, journalled():
        one.open().enqueue(llm())
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 1))
        path = f"{one.open().layout.journal}/{WORKER}.1.jsonl"
        with open(path, encoding="utf-8") as file:
            text = file.read()
        decoder, at, found = json.JSONDecoder(), 0, []
        while at < len(text.rstrip()):
            document, at = decoder.raw_decode(text, at)
            found.append(document)
            at += len(text[at:]) - len(text[at:].lstrip())
        assert found[0]["generation"] == 1
        assert found[1]["now"].startswith("completed/")
        assert found[1]["task"]["result"] == DONE.result


# -- what a disk may do -------------------------------------------------------------------------------------------------

LOST = ("kept", "undone", "both", "nowhere", "torn", "undone-torn", "claim undone", "claim and outcome undone")
LOST_END = (*LOST, "release, claim and outcome undone")


@settings(max_examples=60)
@given(st.lists(st.sampled_from(LOST_END), min_size=6, max_size=6), st.sampled_from(LOST))
def test_what_was_told_comes_back_from_any_state_of_the_names(fates, held_fate):
    """Each rename of each task is kept or lost for itself, in halves even, and unflushed content is there or torn."""
    with world() as one, journalled():
        queue = one.open()
        ids = [queue.enqueue(llm()) for _ in range(8)]
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 7))
        lines = told(queue.layout)
        ends = {line.now: line for line in lines if line.now.startswith("completed/")}
        assert len(ends) == 7, "the first was flushed where it lies, the others are in the journal"
        assert [line.now for line in lines][-1] == f"processing/{WORKER}/{ids[7]}.1.json"
        for fate, line in zip(fates, list(ends.values())[1:], strict=True):
            _suffer(one.root, line, next((c for c in lines if c.now == line.was), None), fate)
        _suffer(one.root, lines[-1], None, held_fate)
        back = FileQueue(one.root)
        brain = back.brain_view(spare_rule)
        assert segments(back.layout) == []
        brain.recover(WORKER)
        for task_id in ids[:7]:
            document = back.read(task_id)
            assert (document["state"], document["result"]) == ("completed", DONE.result)
        document = back.read(ids[7])
        assert (document["state"], document["attempt"]) == ("pending", 1), "the claim is counted"
        places = whereabouts(back)
        assert {i: len(s) for i, s in places.items()} == dict.fromkeys(ids, 1)
        with impatient():
            assert fsck.look(back.layout, agree_s=0) == ()


def _suffer(root, line, claim, fate):
    was, now = f"{root}/{line.was}", f"{root}/{line.now}"
    body = line.data.split(b"\n")[0].removesuffix(b",").removesuffix(b"}") + b"}\n"
    os.makedirs(os.path.dirname(was), exist_ok=True)
    match fate:
        case "undone":
            os.rename(now, was)
        case "undone-torn":
            os.rename(now, was)
            if claim is not None:  # a body was durable long before
                _write(was, line.data[: len(line.data) - 9])
        case "claim undone" | "claim and outcome undone":
            first = f"{root}/{claim.was}" if claim else was
            os.makedirs(os.path.dirname(first), exist_ok=True)
            os.rename(now, first)
            if fate == "claim and outcome undone":
                _write(first, body)
        case "release, claim and outcome undone":
            os.unlink(now)
            _write(f"{root}/blocked/{os.path.basename(now).removesuffix('.json')}.0.json", body)
        case "both":
            os.link(now, was)
        case "nowhere":
            os.unlink(now)
        case "torn":
            _write(now, line.data[: len(line.data) - 9] if claim else line.data)


def _write(path, data):
    with open(path, "wb") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("command", "before", "after", "said"),
    [
        ("cancel", TaskState.COMPLETED, TaskState.COMPLETED, "batch b: 1 cancelled"),
        ("retry-failed", TaskState.FAILED, TaskState.PENDING, "batch b: 2 items put back"),
    ],
)
def test_a_command_for_a_whole_batch_finds_what_was_told(command, before, after, said):
    with world() as one, journalled():
        queue = one.open()
        manifest = Manifest(batch_id="b", source="x", format="jsonl", created_at="now")
        for _ in queue.batches().submit(manifest, [(f"k{n}", llm()) for n in range(3)]):
            pass
        ids = list(queue.batches().task_ids("b"))

        def finish_two(queue):
            worker = queue.worker_view(WORKER)
            for _ in range(2):
                worker.finish(worker.claim([LANE]), before, DONE)

        alive(one, finish_two)
        lines = told(queue.layout)
        end = next(line for line in lines if line.now.startswith(f"{before}/") and ids[1] in line.now)
        _suffer(one.root, end, next(line for line in lines if line.now == end.was), "claim and outcome undone")
        assert said in CliRunner().invoke(app, ["batch", command, "b", "--root", one.root]).stdout
        assert whereabouts(one.open())[ids[1]] == [after]


def test_what_went_on_since_stays():
    """A journal that nobody put away tells of a task that others have finished, and of one that was purged by hand."""
    with world() as one, journalled():
        queue = one.open()
        ids = [queue.enqueue(llm()) for _ in range(3)]

        def claims(queue):
            worker = queue.worker_view(WORKER)
            worker.claim([LANE])
            worker.claim([LANE])

        alive(one, claims)
        kept = f"{one.home}/kept"
        shutil.copytree(queue.layout.journal, kept)
        assert [line.now for line in told(queue.layout)] == [f"processing/{WORKER}/{ids[1]}.1.json"]
        one.open().brain_view(spare_rule).recover(WORKER)
        other = one.open().worker_view("other")
        while (claim := other.claim([LANE])) is not None:
            assert other.finish(claim, TaskState.COMPLETED, DONE)
        del other
        shutil.rmtree(queue.layout.journal)
        shutil.copytree(kept, queue.layout.journal)
        assert one.open().join() == ()
        assert whereabouts(one.open()) == {i: [TaskState.COMPLETED] for i in ids}


def test_a_claim_counts_though_its_task_lies_where_it_was_before_it_was_let_go():
    with world() as one, journalled():
        queue = one.open()
        task_id = [queue.enqueue(llm()) for _ in range(2)][1]
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 1))
        os.rename(f"{queue.layout.held_by(WORKER)}/{task_id}.1.json", queue.layout.blocked_file(task_id, 0))
        back = one.open()
        back.brain_view(spare_rule).recover(WORKER)
        document = back.read(task_id)
        assert (document["state"], document["attempt"], document["attempts"][0]["outcome"]) == ("pending", 1, "crashed")


def test_a_later_task_of_the_same_id_is_not_taken_for_one_that_ended():
    """Its journal was not put away, its record was purged, and the same id was submitted again."""
    with world() as one, journalled():
        queue = one.open()
        queue.enqueue(llm())
        queue.enqueue(llm(task_id="nightly", created_at="2026-01-01T03:00:00.000+00:00"))
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 2))
        os.unlink(queue.layout.terminal(TaskState.COMPLETED, "nightly"))
        queue.enqueue(llm(task_id="nightly", created_at="2026-01-02T03:00:00.000+00:00"))
        assert [line.now for line in told(queue.layout)][-1].endswith("/nightly.json")
        back = one.open()
        assert back.join() == ()
        assert back.find("nightly").state is TaskState.PENDING


def test_what_was_taken_back_is_read_however_much_it_is():
    """Also what a power cut has torn."""
    with world() as one, journalled():
        queue = one.open()
        for _ in range(3):
            queue.enqueue(llm())
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 3))
        last = told(queue.layout)[-1]
        task_id = last.now.rpartition("/")[2].removesuffix(".json")
        os.rename(f"{one.root}/{last.now}", f"{queue.layout.blocked}/{task_id}.0.json")
        noise = b"\n".join(b"%08x %d" % (n, n) for n in range(1_000_000))
        taken_back = b"\n%08x %s" % (zlib.crc32(last.data), task_id.encode())
        _write(f"{queue.layout.journal}/{journal.VOID}", noise + b"\nzzzzzzzz x\n\0\0\0\0\0\0\0\0 y\n0000" + taken_back)
        back = one.open()
        back.join()
        assert back.find(task_id).state is TaskState.BLOCKED
        assert not os.path.lexists(f"{queue.layout.journal}/{journal.VOID}")


# -- when it is made, and when it ends ----------------------------------------------------------------------------------


def test_the_journal_of_the_dead_is_put_away_with_what_they_held():
    with world() as one, journalled():
        queue = one.open()
        for _ in range(3):
            queue.enqueue(llm())
        brain = queue.brain_view(spare_rule)
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 1))
        assert len(segments(queue.layout)) == 2
        assert len(brain.recover(WORKER)) == 1
        assert segments(queue.layout) == []


def test_the_journal_of_one_that_died_idle_is_seen_and_put_away():
    with world() as one, journalled():
        queue = one.open()
        queue.enqueue(llm())
        brain = queue.brain_view(spare_rule)
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 1))
        (view,) = brain.workers()
        assert (view.claims, view.left_journal) == (0, True)
        assert brain.recover(WORKER) == ()
        assert segments(queue.layout) == []
        assert not brain.workers()[0].left_journal


def test_nothing_is_done_again_while_others_work():
    with world() as one, journalled():
        queue = one.open()
        queue.enqueue(llm())
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 1))
        there = segments(queue.layout)
        someone = Presence(queue.layout)
        assert segments(queue.layout) == [], "the first to come is alone"
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 0))
        for name in there:
            _write(f"{queue.layout.journal}/{name}", b"")
        one.open().join()
        assert segments(queue.layout) == there, "the second is not"
        someone.leave()
        one.open().join()
        assert segments(queue.layout) == []


def test_an_end_that_did_not_come_about_is_taken_back():
    """Somebody took the file between the line in the journal and the rename: the line counts no more."""
    with world() as one, journalled():
        queue = one.open()
        queue.enqueue(llm())
        task_id = queue.enqueue(llm())

        def late(queue):
            worker = queue.worker_view(WORKER)
            assert worker.claim([LANE]) is not None
            claim = worker.claim([LANE])
            write = worker._journal.write

            def taken_meanwhile(redos):
                done = write(redos)
                assert done
                os.rename(claim.path, f"{one.home}/elsewhere")
                return done

            worker._journal.write = taken_meanwhile
            assert not worker.finish(claim, TaskState.COMPLETED, DONE)

        alive(one, late)
        os.rename(f"{one.home}/elsewhere", f"{queue.layout.held_by(WORKER)}/{task_id}.1.json")
        with open(f"{queue.layout.held_by(WORKER)}/{task_id}.1.json", "r+b") as file:
            body = file.readline()
            file.seek(0)
            file.truncate()
            file.write(body.replace(b",\n", b"}\n"))
        queue.join()
        assert queue.read(task_id)["state"] == "processing"


def test_a_journal_that_cannot_be_made_is_done_without(tmp_path, monkeypatch, caplog):
    with world() as one, journalled():
        queue = one.open()
        for _ in range(4):
            queue.enqueue(llm())

        def full(_path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal, "_allocate", full)
        with caplog.at_level("INFO"):
            alive(one, lambda queue: turns(queue.worker_view(WORKER), 4))
        assert "No journal (" in caplog.text
        assert segments(queue.layout) == []
        assert queue.stats().completed == 4


def test_a_write_that_fails_is_made_up_for(monkeypatch, caplog):
    with world() as one, journalled():
        queue = one.open()
        for _ in range(4):
            queue.enqueue(llm())
        real = journal._Segment.write

        def broken(segment, data):
            if broken.calls in (1, 2):
                broken.calls += 1
                raise OSError(5, "Input/output error")
            broken.calls += 1
            real(segment, data)

        broken.calls = 0
        monkeypatch.setattr(journal._Segment, "write", broken)
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 4))
        assert broken.calls == 4
        assert "could not be written" in caplog.text
        assert queue.stats().completed == 4


def test_a_large_outcome_is_flushed_where_it_lies():
    with world() as one, journalled():
        queue = one.open()
        for _ in range(3):
            queue.enqueue(llm())

        def work(queue):
            worker = queue.worker_view(WORKER)
            for size in (10, journal.BATCH_BYTES, 10):
                trail = Trail(result={"message": {"content": "x" * size}})
                assert worker.finish(worker.claim([LANE]), TaskState.COMPLETED, trail)

        alive(one, work)
        ends = [line for line in told(queue.layout) if line.now.startswith("completed/")]
        assert len(ends) == 2
        assert max(len(line.data) for line in ends) < 1000


def test_after_a_while_nothing_is_told_that_lies_where_it_belongs(monkeypatch):
    monkeypatch.setattr(journal, "BEGIN_AFTER", 1)
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 64 << 10)
    monkeypatch.setattr(journal, "VOID_AFTER_S", 0.3)
    with world() as one:
        queue = one.open()
        for _ in range(3):
            queue.enqueue(llm())
        view = queue.worker_view(WORKER)
        worker = view
        held = turns(worker, 0)
        wait_until(lambda: worker._journal._fills is not None, timeout_s=60, what="the journal")
        assert worker.finish(held[0], TaskState.COMPLETED, DONE)
        assert len(told(queue.layout)) == 1
        wait_until(lambda: told(queue.layout) == [], timeout_s=60, what="its lines to be void")
        assert worker.finish(worker.claim([LANE]), TaskState.COMPLETED, DONE)
        assert [line.now.partition("/")[0] for line in told(queue.layout)] == ["processing", "completed"]
        worker.close()
        assert segments(queue.layout) == []


def test_a_worker_that_does_little_makes_none():
    with world() as one:
        queue = one.open()
        queue.enqueue(llm())
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 1))
        assert segments(queue.layout) == []


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_only_full_durability_needs_one(durability):
    with world() as one, journalled():
        one.durability = durability
        queue = one.open()
        for _ in range(3):
            queue.enqueue(llm())
        alive(one, lambda queue: turns(queue.worker_view(WORKER), 2))
        assert len(segments(queue.layout)) == (2 if durability == "full" else 0)


def test_a_retry_by_hand_is_told_beside_the_journals():
    """What is put back counts as never ended, also for a journal that says that it has."""
    with world() as one, journalled():
        queue = one.open()
        ids = [queue.enqueue(llm()) for _ in range(2)]

        def work(queue):
            worker = queue.worker_view(WORKER)
            for _ in range(2):
                assert worker.finish(worker.claim([LANE]), TaskState.FAILED, Trail(attempts=(LONG,)))
            queue.retry(ids[1])

        alive(one, work)
        end = told(queue.layout)[-1]
        assert end.now.endswith(f"{ids[1]}.json")
        with open(f"{queue.layout.journal}/{journal.VOID}", encoding="ascii") as file:
            assert file.read() == f"\n{zlib.crc32(end.data):08x} {ids[1]}"
        queue.join()
        assert os.listdir(queue.layout.journal) == [".lock"]
        assert queue.read(ids[1])["state"] == "pending"
