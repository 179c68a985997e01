"""What is neither a file nor a directory of swarm's, anywhere below the root: it stops nobody, it is named, it stays whole.

Whole products of places, kinds and names are planted at once, so that all are tried in seconds.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterable
from itertools import cycle, product
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swarm.brain.apply import Effects
from swarm.brain.brain import Brain, DeathWatch
from swarm.brain.notifier import Notifier
from swarm.brain.observe import Observer
from swarm.cli.app import app
from swarm.clock import now_iso
from swarm.config.settings import Settings
from swarm.core.notification import Note
from swarm.core.task import TaskState, Trail
from swarm.core.worker import Heartbeat, WorkerStatus
from swarm.filesystem.entries import status_of
from swarm.queue.batches.batch_book import Manifest
from swarm.queue.counts import QueueGauges
from swarm.queue.file_queue import FileQueue
from swarm.queue.fsck import fsck
from swarm.queue.fsck.rules import Action
from swarm.queue.stores.outbox import Outbox
from swarm.runtime.bootstrap import living, own_row
from swarm.runtime.loop import StopWish
from swarm.supervisor.state import load_status
from swarm.worker.executors.response_cache import ResponseFiles
from tests.helpers.cli import user
from tests.helpers.crashworld import spare_rule
from tests.helpers.oddentries import NAMES, NOBODY, as_nobody, everything, folders, kinds, own_names, plant, untouched
from tests.helpers.queues import LANE, claim_one, finish_one, llm
from tests.helpers.wait import wait_until

KINDS = ("loop", "dangling", "long-link", "file-link", "folder-link", "fifo", "socket", "device", "folder", "file", "barred")
WORKER = "worker-1"
DONE = Trail(result={"message": {"content": "hi"}})
log = logging.getLogger("test.odd")


class Swarm:
    """Brain and one worker in this process, over a real root."""

    def __init__(self, root: Path, durability: str) -> None:
        self.settings = Settings()
        self.queue = FileQueue(str(root), durability).prepare()
        self.layout = self.queue.layout

    def brain(self) -> Brain:
        fsck.recover_root(self.layout, self.queue.storage)
        view = self.queue.brain_view(spare_rule, ready_only=True, count_finished=True)
        self.effects = Effects(view, lambda *_: False, self.settings, log)
        return Brain(
            observer=Observer(view, None, self.settings, retention=True),
            effects=self.effects,
            waiter=DeathWatch(),
            heart=self.queue.heartbeats(),
            settings=self.settings,
            pid=os.getpid(),
            epoch=1,
            wish=StopWish(lambda: None),
            log=log,
        )

    def drop(self, task_id: str, **fields: object) -> None:
        path = f"{self.layout.pending}/{task_id}.json"
        Path(path).write_text(json.dumps(llm(**fields)))
        os.utime(path, (time.time() - 60,) * 2)

    def work(self, brain: Brain, ids: set[str]) -> None:
        """Take ticks until all of these are completed; the brain can read the queue in each of them."""
        said = BufferingHandler(1000)
        log.addHandler(said)
        with living(self.queue, own_row(WORKER, "worker")):
            worker = self.queue.worker_view(WORKER)

            def tick() -> bool:
                brain.step()
                assert worker.pauses() is not None
                assert worker.waiting() is not None
                self.queue.heartbeats().beat(beat(WORKER))
                while (claim := claim_one(worker)) is not None:
                    assert not worker.cancel_requested(claim)
                    finish_one(worker, claim, TaskState.COMPLETED, DONE)
                return all((at := self.queue.find(i)) and at.state is TaskState.COMPLETED for i in ids)

            wait_until(tick, poll_s=0.02, what=f"{ids} completed")
        log.removeHandler(said)
        assert [line for r in said.buffer if "cannot read the queue" in (line := r.getMessage())] == []


def beat(name: str) -> Heartbeat:
    return Heartbeat(name=name, pid=os.getpid(), epoch=1, seq=1, turn=1, written_at=now_iso(), status=WorkerStatus.IDLE)


def populated(tmp_path: Path, durability: str = "fast") -> Swarm:
    """A root in which everything that swarm makes is there: a batch, a feed's directory, notes, blocked and ended tasks."""
    swarm = Swarm(tmp_path / "queue", durability)
    queue = swarm.queue
    for state in (TaskState.COMPLETED, TaskState.FAILED):
        queue.enqueue(llm(task_id=f"old-{state}"))
        with living(queue, own_row(WORKER, "worker")):
            worker = queue.worker_view(WORKER)
            finish_one(worker, claim_one(worker), state, DONE)
    queue.enqueue(llm(task_id="old-cancelled"))
    queue.cancel("old-cancelled", "test")
    manifest = Manifest(batch_id="b1", source="in", format="text", created_at="")
    list(queue.batches().submit(manifest, [("k1", llm())]))
    Outbox(swarm.layout, queue.storage).enqueue(Note(subject="batch", id="b1", targets=("nobody",)))
    queue.enqueue(llm(task_id="waits", depends_on=["batch-task"]))
    queue.enqueue(llm(task_id="session", session="s"))
    ResponseFiles(swarm.layout, max_bytes=1 << 20).put("abcdef", b"answer")
    return swarm


def planted(swarm: Swarm, outside: Path, wanted: Iterable[str]) -> dict[str, os.stat_result]:
    """One of each of these kinds under each name in each folder; what was made, by path."""
    makers = kinds(outside)
    bucket = next(iter(os.listdir(swarm.layout.lane(LANE))))
    made = {}
    for folder in folders(swarm.layout, WORKER, bucket, "old-completed").values():
        for kind, name in product(wanted, NAMES.values()):
            path = f"{folder}/{os.fsdecode(name.replace(b'#', kind.encode()))}"
            if kind in makers and plant(path, makers[kind]):
                made[path] = os.lstat(path)
    return made


def gone(swarm: Swarm, made: dict[str, os.stat_result]) -> list[str]:
    """Those that lie nowhere any more."""
    here = {(s.st_dev, s.st_ino) for s in everything(swarm.layout.root)}
    return [path for path, was in made.items() if (was.st_dev, was.st_ino) not in here]


def silent(swarm: Swarm, made: dict[str, os.stat_result]) -> list[str]:
    """Those that still lie where they were planted and of which fsck says nothing.

    A plain file or directory with a plain name is no odd entry: in ``logs``, say, others may put theirs.
    """
    found = {f.path for f in fsck.look(swarm.layout, agree_s=0)}
    left = [p for p, was in made.items() if os.path.lexists(p) and os.lstat(p).st_ino == was.st_ino and p not in found]
    return [p for p in left if not is_plain(p, made[p]) and f"{p}/inside.json" not in found and not set_aside(swarm, p)]


def is_plain(path: str, status: os.stat_result) -> bool:
    name = os.path.basename(path)
    at_top = os.path.dirname(path).endswith("/queue")
    of_ours = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return of_ours and (at_top or (name.isascii() and name.isprintable() and " " not in name and len(name) < 100))


def set_aside(swarm: Swarm, path: str) -> bool:
    return os.path.dirname(path) == swarm.layout.corrupt


@pytest.mark.parametrize(("kind", "durability"), [*((k, "fast") for k in KINDS), ("loop", "full"), ("folder", "full")])
def test_odd_entries_everywhere_stop_nobody(tmp_path, kind, durability, caplog):
    swarm, outside = populated(tmp_path, durability), tmp_path / "outside"
    made = planted(swarm, outside, [kind])
    if not made:
        pytest.skip(f"no {kind} can be made here")
    swarm.drop("good-1")
    swarm.drop("good-2", session="s2")
    swarm.queue.enqueue(llm(task_id="good-3"))
    swarm.queue.enqueue(llm(task_id="good-4", depends_on=["good-3"]))
    swarm.queue = FileQueue(swarm.layout.root, durability).prepare()
    brain = swarm.brain()
    outbox = Outbox(swarm.layout, swarm.queue.storage)
    Notifier(outbox, lambda _target, _message: None, max_tries=3, log=log).step()
    swarm.work(brain, {"good-1", "good-2", "good-3", "good-4", "session"})
    assert QueueGauges(swarm.layout).ended()[TaskState.COMPLETED] >= 5
    assert QueueGauges(swarm.layout).stale(0.0) is not None
    assert untouched(outside)
    assert gone(swarm, made) == []
    assert [r for r in caplog.records if r.exc_info] == []
    assert silent(swarm, made) == []
    aside = os.listdir(swarm.layout.corrupt)
    theirs = {os.path.basename(path) for path in made if set_aside(swarm, path)}
    assert [n for n in aside if not n.endswith(".reason") and f"{n}.reason" not in aside and n not in theirs] == []


COMMANDS = [
    ["status"],
    ["workers"],
    ["gpus"],
    ["models"],
    ["doctor"],
    ["batches"],
    ["batch", "show", "b1"],
    ["feeds"],
    ["notify", "list"],
    ["metrics"],
    ["logs", "-n", "5"],
    ["logs"],
    ["explain", "waits"],
    ["explain", WORKER],
    ["explain", "zz"],
    ["results", "b1", "-o", "out.txt"],
    ["queue", "stats"],
    *(
        ["queue", "list", state]
        for state in ("pending", "blocked", "processing", "completed", "failed", "cancelled", "corrupt")
    ),
    ["queue", "show", "waits"],
    ["queue", "show", "zz"],
    ["queue", "active"],
    ["queue", "clear-stuck"],
    ["queue", "purge", "--older-than", "1d", "--dry-run"],
    ["queue", "purge", "--older-than", "0s"],
    ["queue", "retry", "old-failed"],
    ["queue", "cancel", "waits"],
    ["queue", "cancel", "zz"],
    ["queue", "pause", "all"],
    ["queue", "resume", "all"],
    ["submit", "--prompt", "hi", "--model", "llama3.2:3b"],
    ["queue", "fsck"],
    ["queue", "fsck", "--repair"],
]


def test_commands_among_odd_entries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swarm, outside = populated(tmp_path), tmp_path / "outside"
    made = planted(swarm, outside, ("loop", "folder-link", "fifo", "folder", "file"))
    for words, more in product(COMMANDS, ([], ["--json"])):
        answer = CliRunner().invoke(app, [*words, *more, "--root", swarm.layout.root])
        said = f"swarm {' '.join([*words, *more])}: exit {answer.exit_code}\n{answer.output[-3000:]}"
        if "No such option" in answer.output and "--json" in answer.output:
            continue
        assert answer.exception is None or isinstance(answer.exception, SystemExit), (said, answer.exc_info)
        assert answer.exit_code in (0, 1, 2, 3), said
        assert "Usage" not in answer.output, said
        assert "\x1b" not in answer.output, said
        if more and answer.exit_code != 2 and words[0] != "logs":
            json.loads(answer.stdout)
    assert [f for f in fsck.look(swarm.layout, agree_s=0) if f.action is not Action.NONE] == [], "repaired, and yet not"
    assert untouched(outside)
    assert [path for path in gone(swarm, made) if not stat.S_ISREG(made[path].st_mode)] == []


FOLDERS = ("lane", "held", "shard", "feeds", "outbox", "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_the_name_of_a_file_of_ours_makes_way(tmp_path, kind):
    """At each name that swarm is about to use."""
    outside = tmp_path / "outside"
    if kind not in (makers := kinds(outside)):
        pytest.skip(f"no {kind} can be made here")
    layout = FileQueue(str(tmp_path / "queue"), "full").prepare().layout
    made = {}
    for what, path in own_names(layout, WORKER, "good-1").items():
        if not (kind == "folder" and what in FOLDERS) and plant(path, makers[kind]):
            made[path] = os.lstat(path)
    swarm = Swarm(tmp_path / "queue", "full")
    swarm.drop("good-1")
    swarm.queue.enqueue(llm(task_id="good-2", session="s"))
    swarm.queue.enqueue(llm(task_id="good-3", notify=["nobody"]))
    ResponseFiles(layout, max_bytes=1 << 20).put("abcdef", b"answer")
    with living(swarm.queue, own_row("brain", "brain")):
        swarm.work(swarm.brain(), {"good-1", "good-2", "good-3"})
    assert untouched(outside)
    odd = {path: was for path, was in made.items() if not stat.S_ISREG(was.st_mode)}
    assert gone(swarm, odd) == []
    assert silent(swarm, odd) == []


@pytest.mark.parametrize("kind", ["loop", "dangling", "fifo", "socket", "folder"])
def test_a_record_whose_place_is_taken_is_filed_all_the_same(tmp_path, kind):
    outside = tmp_path / "outside"
    swarm = Swarm(tmp_path / "queue", "full")
    path = swarm.layout.terminal(TaskState.COMPLETED, "good-1")
    plant(path, kinds(outside)[kind])
    swarm.drop("good-1")
    swarm.work(swarm.brain(), {"good-1"})
    assert swarm.queue.read("good-1")["result"] == DONE.result
    assert "was in the place of a file of swarm" in Path(swarm.layout.corrupt, "good-1.json.reason").read_text()


@pytest.fixture
def open_home():
    """A directory that a user without privileges may enter."""
    with tempfile.TemporaryDirectory(prefix="swarm-odd-") as home:
        os.chown(home, NOBODY, NOBODY)
        yield Path(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make entries that another user may not open")
def test_what_a_user_may_not_open_stops_nobody(open_home, tmp_path):
    """Files and directories of somebody else's, without any permission, in every place."""

    def work(swarm: Swarm) -> None:
        swarm.queue = FileQueue(swarm.layout.root, "full").prepare()
        swarm.drop("good-1")
        swarm.queue.enqueue(llm(task_id="good-2"))
        swarm.work(swarm.brain(), {"good-1", "good-2"})
        for words in (
            ["status"],
            ["queue", "stats"],
            ["queue", "list", "completed"],
            ["explain", "waits"],
            ["batches"],
            ["doctor"],
        ):
            answer = CliRunner().invoke(app, [*words, "--root", swarm.layout.root])
            said = f"swarm {' '.join(words)}: {answer.output[-2000:]} {answer.exc_info}"
            assert answer.exception is None or isinstance(answer.exception, SystemExit), said
        assert silent(swarm, made) == []

    made: dict[str, os.stat_result] = {}
    work(populated(tmp_path, "full"))  # here everything is imported that the child, who may not read it, will use
    as_nobody(lambda: populated(open_home, "full"))
    swarm = Swarm.__new__(Swarm)
    swarm.settings, swarm.layout = Settings(), FileQueue(str(open_home / "queue")).layout
    bucket = next(iter(os.listdir(swarm.layout.lane(LANE))))
    for folder in folders(swarm.layout, WORKER, bucket, "old-completed").values():
        for name in ("barred.json", "zz.0.json", "cpu", "4-0", "zzz", "xff", "turns.jsonl"):
            path = f"{folder}/{name}"
            if os.path.isdir(folder) and not os.path.lexists(path):
                os.close(os.open(path, os.O_CREAT, 0)) if "." in name else os.mkdir(path, 0)
                made[path] = os.lstat(path)
    as_nobody(lambda: work(swarm))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has entries that another user may not open")
def test_the_queue_of_another_user_is_named_as_that(open_home):
    (open_home / "queue" / "pending").mkdir(parents=True)
    (open_home / "queue").chmod(0o700)

    def look() -> None:
        for words, code in (("queue", "stats"), 2), (("doctor",), 1):
            answer = CliRunner().invoke(app, [*words, "--root", str(open_home / "queue")])
            assert answer.exit_code == code, answer.output
            assert "belongs to user" in answer.output

    CliRunner().invoke(app, ["doctor", "--root", str(open_home / "queue")])  # imports what the child may not read
    as_nobody(look)


def test_a_whole_swarm_among_odd_entries(tmp_path):
    """Real processes: started where odd entries have the names of their files, and then one of each kind in each place."""
    outside = tmp_path / "outside"
    makers = kinds(outside)
    with user(tmp_path) as me:
        here = ("--root", str(me.root))
        layout = FileQueue(str(me.root)).prepare().layout
        at_start = cycle(makers[kind] for kind in ("fifo", "loop", "socket", "folder-link"))
        for path in own_names(layout, WORKER, "good-0").values():
            plant(path, next(at_start))
        me.ok("up", "--simulate", "2", "--detach", *here)
        me.ok("submit", "--prompt", "hi", "--model", "llama3.2:3b", *here)
        bucket = os.listdir(layout.lane(LANE))[0]
        made = {}
        for folder, (kind, make) in product(folders(layout, WORKER, bucket, "good-0").values(), makers.items()):
            for name in (f"{kind}.json", f"{kind}.0.json", f"{kind}\udcff\n"):
                path = f"{folder}/{name}"
                if plant(path, make) and (was := status_of(path)):  # the brain may have moved it already
                    made[path] = was
        ids = [f"good-{number}" for number in range(3)]
        for task_id in ids:
            Path(f"{layout.pending}/{task_id}.json").write_text(json.dumps(llm()))
        me.ok("run", str(me.prompts(10)), "-o", "out.jsonl", "--model", "llama3.2:3b", *here)

        def completed() -> list[str]:
            found = [me.queue.find(task_id) for task_id in ids]
            return [one.task_id for one in found if one is not None and one.state is TaskState.COMPLETED]

        wait_until(lambda: completed() == ids, timeout_s=60, what="the good drop-ins are completed")
        found = json.loads(me.run("queue", "fsck", "--json", *here).stdout)
        told = {finding["path"] for finding in found["findings"]}
        for path, was in made.items():
            if not (is_plain(path, was) or os.path.dirname(path) == layout.corrupt) and os.path.lexists(path):
                assert path in told or f"{path}/inside.json" in told
        status = load_status(Path(layout.workers))
        assert {(c.restarts, str(c.state)) for c in status.children} == {(0, "running")}, status.children
        assert "Traceback" not in "".join(me.log(name) for name in ("brain", "supervisor", "worker-1", "worker-2"))
        me.ok("down", *here)
        assert untouched(outside)
